"""Names say what a thing is, in plain words, and a module's private names stay in it; read from the source itself."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from checkout import CHECKOUT

ROOMS = ("atlas", "pipelines", "scripts")


def sources(folders: Iterable[str]) -> list[Path]:
    """The Python sources of some folders of the checkout."""
    paths = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    return [path for path in paths if "node_modules" not in path.relative_to(CHECKOUT).parts]


# Participles and the like, which do not say what they name; a flag may be one, as it says what is the case.
NO_NOUNS = {
    *("told", "kept", "found", "given", "made", "mine", "each", "heard", "hear"),
    *("passed", "asked", "shown", "held", "drawn", "seen", "known"),
    *("noted", "named", "touched", "counted", "described", "explained", "loaded", "opened", "listed", "saved"),
    *("observed", "measured", "wanted", "chosen", "lost", "sent", "built", "written", "joined", "placed", "searched"),
    *("picked", "taken", "fitted", "boxed", "parsed", "ablated", "done"),
}
# Words that a reader would have to guess; there is a plain one or the field's own for each.
RIDDLES = ("strangers", "gating", "adjoint", "desk", "into the water", "let_through")
_RIDDLE = re.compile(rf"(?<![a-z])({'|'.join(RIDDLES)})(?![a-z])", re.IGNORECASE)


def names(source: str) -> Iterator[tuple[int, str]]:
    """The line and the name of all that a source names: variables, parameters, attributes, functions and classes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def flags(source: str) -> Iterator[tuple[int, str]]:
    """The line and the name of all that a source annotates with ``bool``, or sets to True or False."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name, returns=ast.Name(id="bool")):
                yield node.lineno, name
            case ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name), annotation=ast.Name(id="bool")):
                yield node.lineno, name
            case ast.arg(arg=name, annotation=ast.Name(id="bool")):
                yield node.lineno, name
            case ast.Assign(
                targets=[ast.Name(id=name) | ast.Attribute(attr=name)], value=ast.Constant(value=True | False)
            ):
                yield node.lineno, name


def participles(source: str) -> list[tuple[int, str]]:
    """The line and the name of all that is called by a word that is no noun, and is no flag."""
    wrong = {(line, name) for line, name in names(source) if name.strip("_").lower() in NO_NOUNS}
    return sorted(wrong - set(flags(source)))


def riddles(source: str) -> list[tuple[int, str]]:
    """The line and the word of each riddle among the identifiers, comments and docstrings of a source."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = [(token.start[0], token.string) for token in tokens if token.type in (tokenize.NAME, tokenize.COMMENT)]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            texts.append((node.body[0].lineno, " ".join(text.split())))
    return sorted({(line, word) for line, text in texts for word in _RIDDLE.findall(text)})


def private_imports(source: str) -> list[tuple[int, str]]:
    """The line and the name of each private name that a source imports from a module of the project."""
    project = {*ROOMS, *(path.stem for path in (CHECKOUT / "scripts").glob("*.py"))}
    return sorted(
        (node.lineno, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in project
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    )


@pytest.mark.parametrize(
    ("fault", "folders"),
    [(participles, (*ROOMS, "tests")), (riddles, (*ROOMS, "tests")), (private_imports, ROOMS)],  # tests look inside
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_names_are_plain_and_private_ones_stay_in_their_module(
    fault: Callable[[str], list[tuple[int, str]]], folders: tuple[str, ...]
) -> None:
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line} {name}"
        for path in sources(folders)
        for line, name in fault(path.read_text())
    ]
    assert wrong == []


def test_there_is_something_to_read() -> None:
    paths = sources((*ROOMS, "tests"))
    assert {path.relative_to(CHECKOUT).parts[0] for path in paths} == {*ROOMS, "tests"}
    assert len(sources(ROOMS)) > 150
    assert len(paths) - len(sources(ROOMS)) > 150


def test_every_kind_of_name_is_read() -> None:
    source = """
import os as held
def drawn(asked, *given, known=1, **shown): pass
class Kept:
    told: int
    def f(self): self._made = [mine for mine in ()]
for number, each in (): pass
with open("x") as seen: pass
FOUND = (heard := 1)
try: pass
except OSError as passed: pass
match heard:
    case [1, *hear]: pass
"""
    assert [name for _, name in participles(source)] == [
        *("held", "asked", "drawn", "given", "known", "shown", "Kept", "told", "_made", "mine"),
        *("each", "seen", "FOUND", "heard", "passed", "hear"),
    ]
    assert participles("drawn_cells = f(given=marker['drawn'])\nx.found(told)\n") == []


def test_a_flag_may_be_a_participle() -> None:
    source = """
class Work:
    written: bool
    lost: int
    def __init__(self, named: bool, taken: bool | None): self._done, self.sent = False, True
    def done(self) -> bool: self._loaded = False
    def built(self) -> Path: self.saved: bool = f(); self.noted = 1
measured = True
chosen = 0
"""
    assert [name for _, name in participles(source)] == [
        *("lost", "_done", "sent", "taken", "built", "noted", "chosen"),
    ]


def test_riddles_are_found_in_identifiers_comments_and_docstrings() -> None:
    source = '''"""What falls into
the water."""
N_STRANGERS = 1  # the adjoint
class Desk:
    """Of gating."""
def f(): return g.let_through
'''
    assert riddles(source) == [
        (1, "into the water"),
        *((3, "STRANGERS"), (3, "adjoint"), (4, "Desk"), (5, "gating"), (6, "let_through")),
    ]
    assert riddles("# propagating\nnavigating = desktop = 'let_through'\n") == []


def test_private_imports_are_those_of_the_project() -> None:
    source = "from atlas.arrays import _a, b\nfrom bench import _c as c\nfrom torch.utils import _pytree\n"
    assert private_imports(source + "from atlas import __version__\n") == [(1, "_a"), (2, "_c")]
