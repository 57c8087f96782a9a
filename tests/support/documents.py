"""The documents, the commands and code that they hold, and what a server answers that one of the commands started."""

import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from checkout import CHECKOUT

GUIDES = "atlas/docs/guides"
_PROGRAMS = (
    r"(python )?scripts/\w+|python -m atlas|atlas (run|serve|check|explain|--)|pip install|source |"
    r"export DASK|dask |OMP_NUM_THREADS=1|wandb |mlflow |tensorboard |embedding-atlas "
)


@dataclass(frozen=True)
class CodeBlock:
    """A block of code of a document: below which heading it stands, its language and its text."""

    document: str
    heading: str
    language: str
    text: str


def documents() -> list[Path]:
    """Every document in Markdown of the checkout, by path."""
    top = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "atlas/architecture.md", "scripts/benchmarks.md")
    below = [*(CHECKOUT / "atlas/docs").rglob("*.md"), *(CHECKOUT / "scripts/benchmarks").glob("*.md")]
    return [*(CHECKOUT / name for name in top), *sorted(below)]


def name_of(document: Path) -> str:
    """A document by its path in the checkout."""
    return document.relative_to(CHECKOUT).as_posix()


def text_of(name: str) -> str:
    """The text of a document, by its path in the checkout."""
    return (CHECKOUT / name).read_text(encoding="utf-8")


def measurements() -> str:
    """What was measured: the headlines and all sections."""
    return "\n".join(path.read_text(encoding="utf-8") for path in documents() if "benchmarks" in name_of(path))


def blocks(name: str) -> list[CodeBlock]:
    """The blocks of code of a document, in order."""
    code_blocks: list[CodeBlock] = []
    heading, language, lines = "", None, list[str]()
    for line in text_of(name).splitlines():
        if line.startswith("```"):
            if language is None:
                language, lines = line[3:], []
            else:
                code_blocks.append(CodeBlock(name, heading, language, "\n".join(lines) + "\n"))
                language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return code_blocks


def snippet(name: str, heading: str, language: str = "python", number: int = 0) -> str:
    """A block of a document: the first below ``heading``, or the one with ``number`` among those of the language."""
    texts = [block.text for block in blocks(name) if block.heading == heading and block.language == language]
    assert len(texts) > number, f"{name} has no block {number} of {language} below {heading!r}"
    return texts[number]


def commands() -> dict[str, list[str]]:
    """Every command of the documents, without its comment, with the documents that have it: lines of blocks of sh, and
    code inside of sentences."""
    documents_by_command: dict[str, list[str]] = {}
    for document in documents():
        language = None
        for line in document.read_text(encoding="utf-8").splitlines():
            commands_of_line: list[str] = []
            if line.startswith("```"):
                language = line[3:] if language is None else None
            elif language == "sh":
                commands_of_line = [line.strip()]
            elif language is None:
                commands_of_line = [code for code in re.findall(r"`([^`]+)`", line) if re.match(_PROGRAMS, code)]
            for command in commands_of_line:
                plain = re.sub(r"\s+# .*", "", command)
                if plain:
                    documents_by_command.setdefault(plain, []).append(name_of(document))
    return documents_by_command


def the_command(start: str) -> list[str]:
    """The words of the documents' one command that begins like this and says more, or is just this."""
    matches = [command for command in commands() if command.startswith(start)]
    (command,) = [command for command in matches if command != start] or matches
    return shlex.split(command)


def as_module(words: list[str]) -> list[str]:
    """A command of the console script ``atlas`` as its module, for this Python."""
    assert words[0] == "atlas"
    return [sys.executable, "-m", f"atlas.{words[1]}", *words[2:]]


def anchors_of(document: str) -> set[str]:
    """What a link may have behind # of a document in Markdown: its headings in small letters, signs left out."""
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def answer_of(server: subprocess.Popen, address: str, data: bytes | None = None) -> bytes:
    """What a server that was just started answers, once it is up."""
    for _ in range(1200):
        assert server.poll() is None, server.communicate()[0]
        try:
            with urllib.request.urlopen(urllib.request.Request(address, data), timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {address}")
