"""``python -m atlas.run CONFIG``: run the stages of an atlas, or go on where they stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from atlas.command import GOES_ON, SUCCESS, add_version, carry_out
from atlas.config.reading import load_config
from atlas.rundir.stages import STAGES

_ABOUT = """Make an activation atlas: read the pictures, lay out what the network sees in
them, draw an icon for each cell of the map, and write a page to look at it.
Giving the same command again goes on where the last run stopped."""
_EXAMPLES = """examples:
  {prog} demo --dry-run
  {prog} demo --set images.source=photos --set out=runs/photos

exit codes: 0 done, 2 the configuration is wrong, 3 failed or stopped: the same
command goes on, 4 something that nobody foresaw"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m atlas.run") -> int:
    """Exit code 0 when all is done, 2 for a wrong configuration, 3 where the same command goes on later."""
    parser = argparse.ArgumentParser(
        prog=prog,
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
    add_version(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        config = load_config(options.config, options.overrides)
        from pipelines.pipeline import run  # torch and dask: not before the configuration is right

        run(config, until=options.until, dry_run=options.dry_run)
        return SUCCESS

    return carry_out(work, failed=GOES_ON, stopped=GOES_ON)


if __name__ == "__main__":
    sys.exit(main())
