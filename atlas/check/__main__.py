"""``python -m atlas.check RUN``: say whether a run is whole, and what to do about what is not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from atlas.check.verify import summary_lines, verify
from atlas.command import SUCCESS, WRONG, add_version, carry_out
from atlas.rundir.directory import RunDirectory
from atlas.rundir.remote import refuse_url


def main(arguments: Sequence[str] | None = None, prog: str = "python -m atlas.check") -> int:
    """Exit code 0 where nothing is wrong, 1 where something is, 2 where there is no run or one of another version, 3
    after a failure or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Check a run: markers, counts, sha256 of every file, rows across layers and stages."
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/demo")
    parser.add_argument("--quick", action="store_true", help="compare sizes instead of reading every file")
    add_version(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        refuse_url(options.run)
        findings = verify(RunDirectory(Path(options.run)), quick=options.quick, console=Console(stderr=True))
        print(options.run)
        for line in summary_lines(findings, quick=options.quick):
            print(line)
        return WRONG if findings.problems else SUCCESS

    return carry_out(work)


if __name__ == "__main__":
    sys.exit(main())
