"""``atlas run|status|serve|check|explain``: one word for all commands, each of which ``python -m`` starts too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from atlas.command import CONFIGURATION, add_version

_ABOUT = """commands:
  run      make an atlas, or go on where the last run stopped
  status   say how far a run is, wherever it is at work
  serve    show atlases in the browser, finished or at work
  check    say whether a run is whole
  explain  say what the networks of a run see in one picture

atlas COMMAND --help says what a command takes."""


class Command(Protocol):
    """``main`` of a command: its exit code for the words of a command line, by default those of this process."""

    def __call__(self, arguments: Sequence[str] | None = None, prog: str = ...) -> int: ...


def _run() -> Command:
    from atlas.run import main

    return main


def _serve() -> Command:
    from atlas.serve.__main__ import main

    return main


def _check() -> Command:
    from atlas.check.__main__ import main

    return main


def _status() -> Command:
    from atlas.check.status import main

    return main


def _explain() -> Command:
    from atlas.explain.__main__ import main

    return main


# A command imports its own module alone.
COMMANDS: dict[str, Callable[[], Command]] = {
    "run": _run,
    "status": _status,
    "serve": _serve,
    "check": _check,
    "explain": _explain,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command, with the words after it; 2 where there is no such command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]]()(words[1:], prog=f"atlas {words[0]}")
    parser = argparse.ArgumentParser(
        prog="atlas",
        description="Shows what a convolutional network sees: an activation atlas of your pictures.",
        epilog=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=" | ".join(COMMANDS))
    if words and words[0] == "help":
        words = ["--help"]
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        parser.error(f"{words[0]} is no option of atlas itself; first comes a command: {', '.join(COMMANDS)}")
    if words:
        parser.parse_args(words)  # which ends the process: help, the version, or what is wrong
    parser.print_help()
    return CONFIGURATION
