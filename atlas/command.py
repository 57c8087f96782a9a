"""What the commands have in common: exit codes, errors as sentences, the version, and where modules are looked for."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from atlas.errors import AtlasError, ConfigError
from atlas.rundir.versions import VERSION

# Exit codes of all commands. What a check finds wrong with a run is 1.
SUCCESS, WRONG, CONFIGURATION, FAILED, UNFORESEEN = 0, 1, 2, 3, 4
GOES_ON = "What was finished is kept; the same command goes on from there."
# The folder that this package was imported from: a checkout, or site-packages.
_TREE = Path(__file__).resolve().parents[1]


def add_version(parser: argparse.ArgumentParser) -> None:
    """Give a command's parser ``--version``."""
    parser.add_argument("--version", action="version", version=f"activation-atlas {VERSION}")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Give the parser of a command that serves ``--host`` and ``--port``."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 takes a free one (default: 8000)")


def carry_out(work: Callable[[], int], *, failed: str = "", stopped: str = "") -> int:
    """The exit code of a command that does ``work``, whose own code it is where nothing goes wrong.

    Errors are printed as sentences, ``failed`` after one of them, ``stopped`` after Ctrl-C: what is left, and whether
    the same command goes on. The traceback of an error that nobody foresaw, of a user's own network perhaps, is written
    to a file, which is named.
    """
    try:
        look_here_last()
        return work()
    except ConfigError as error:
        _print(str(error))
        return CONFIGURATION
    except AtlasError as error:
        _print(f"{error}\n{failed}")
        return FAILED
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
        return SUCCESS
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        _print(f"{what}. {failed}")
        return FAILED
    except KeyboardInterrupt:
        _print(f"\nStopped. {stopped}")
        return FAILED
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        _print(
            f"Something unforeseen went wrong in {frame.filename}, line {frame.lineno} ({type(error).__name__}: "
            f"{error}).\nThe full traceback is in {write_traceback(error)}\n{failed}"
        )
        return UNFORESEEN


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def pace(per_second: float) -> str:
    """How much is done in a second, or in a minute where that is little: 8.1/s, 3.0/min."""
    return f"{per_second:,.1f}/s" if per_second >= 0.5 else f"{60 * per_second:.1f}/min"


def items_before(count: int) -> str:
    """So many items that come before those that a stage counts: quick icons, say."""
    return f"{count:,} items before them" if count != 1 else "1 item before them"


def look_here_last() -> None:
    """Have modules of the current folder found last, in the processes that this one starts too.

    ``python -m`` puts the current folder first, where a folder ``pipelines`` of the user's would be taken for ours. It
    comes first only while a network is made by the user's own factory: `atlas.networks.zoo`.
    """
    here = Path.cwd().resolve()
    if here == _TREE:
        return
    entries = [entry for entry in sys.path if Path(entry).resolve() == here]
    sys.path[:] = [entry for entry in sys.path if entry not in entries] + entries


def write_traceback(error: BaseException) -> Path:
    """The file, a new one among the temporary ones, that the whole traceback of ``error`` was written to."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="atlas-", suffix=".traceback.txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return Path(file.name)


def _print(sentences: str) -> None:
    print(sentences.rstrip(), file=sys.stderr)
