"""python -m atlas.serve RUN [RUN …]: show atlases in the browser, finished or at work."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from atlas.command import SUCCESS, add_address, add_version, carry_out
from atlas.errors import ConfigError
from atlas.rundir.remote import refuse_url
from atlas.serve.server import serve
from atlas.serve.site_files import find_site


def finished_runs(runs: list[Path]) -> list[Path]:
    """The run folders that can be shown; prints why the others cannot. Raises ConfigError where none can."""
    finished, faults = [], []
    for run in runs:
        try:
            find_site(run)
            finished.append(run)
        except ConfigError as error:
            faults.append(str(error))
    if not finished:
        raise ConfigError("\n".join(faults))
    for fault in faults:
        print(f"Left out: {fault}", file=sys.stderr)
    return finished


def main(arguments: Sequence[str] | None = None, prog: str = "python -m atlas.serve") -> int:
    """Exit code 0 after Ctrl-C, 2 where the folder or the port will not do, 3 where one cannot be read."""
    parser = argparse.ArgumentParser(prog=prog, description="Show atlases in the browser, finished or at work.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, such as runs/demo")
    add_address(parser)
    add_version(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        try:
            for run in options.runs:
                refuse_url(run)
            serve(finished_runs([Path(run) for run in options.runs]), host=options.host, port=options.port)
        except KeyboardInterrupt:
            pass  # the usual end
        return SUCCESS

    return carry_out(work)


if __name__ == "__main__":
    sys.exit(main())
