"""``python -m atlas.run CONFIG``: run the stages of an atlas, or go on where they stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from atlas.command import GOES_ON, SUCCESS, add_address, add_version, carry_out
from atlas.config.reading import load_config
from atlas.errors import ConfigError
from atlas.rundir.stages import STAGES

_ABOUT = """Make an activation atlas, or go on where the last run stopped: read pictures,
lay out what the network sees in them, draw an icon for each cell, write a page."""
_EXAMPLES = """examples: {prog} demo --dry-run
          {prog} demo --set images.source=photos --set out=runs/my

exit codes: 0 done, 2 configuration, 3 the same command goes on, 4 unforeseen"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m atlas.run") -> int:
    """Exit code 0 when all is done, 2 for a wrong configuration, 3 where the same command goes on later."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG [options]",
        description=_ABOUT,
        epilog=_EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a shipped configuration such as demo")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a key, as in images.limit=100; may be repeated",
    )
    stages = f"stop after {', '.join(STAGES[:-2])} or {STAGES[-2]}"
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], metavar="STAGE", help=stages)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done, and how long it takes")
    parser.add_argument("--serve", action="store_true", help="show the page as soon as there is something to see")
    add_address(parser)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="print nothing but errors, and the address of --serve")
    amount.add_argument("--verbose", action="store_true", help="print a line for each item of work too")
    add_version(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.serve and options.until != STAGES[-1]:
            raise ConfigError(f"--serve needs a site, and --until {options.until} makes none; leave out one of them.")
        config = load_config(options.config, options.overrides)
        # torch and dask: not before the configuration is right
        from rich.console import Console

        from atlas.serve.server import SiteServer
        from pipelines.pipeline import Output, run

        serving = SiteServer(options.host, options.port) if options.serve and not options.dry_run else None

        output = Output(Console(quiet=options.quiet), options.verbose, serving.begin if serving else None)
        run(config, until=options.until, dry_run=options.dry_run, output=output)
        if serving:
            serving.wait()
        return SUCCESS

    return carry_out(work, failed=GOES_ON, stopped=GOES_ON)


if __name__ == "__main__":
    sys.exit(main())
