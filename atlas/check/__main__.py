"""``python -m atlas.check RUN``: say whether a run is whole, and what to do about what is not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from atlas.check.verify import describe, verify
from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.remote import refuse_url

WHOLE, WRONG, NO_RUN, STOPPED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where nothing is wrong, 1 where something is, 2 where there is no run, 3 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m atlas.check",
        description="Check a run: markers, counts, sha256 of every file, rows across layers and stages.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/demo")
    parser.add_argument("--quick", action="store_true", help="compare sizes instead of reading every file")
    given = parser.parse_args(arguments)
    try:
        refuse_url(given.run)
        found = verify(RunDirectory(Path(given.run)), quick=given.quick, console=Console(stderr=True))
    except AtlasError as error:
        print(error, file=sys.stderr)
        return NO_RUN
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return STOPPED
    print(given.run)
    for line in describe(found, quick=given.quick):
        print(line)
    return WRONG if found.problems else WHOLE


if __name__ == "__main__":
    sys.exit(main())
