"""Functions take the sections or values that they read; the whole configuration is for the few that read half of it or
more. Read from the source itself."""

import ast
import re
from collections.abc import Iterator

from checkout import CHECKOUT

SOURCES = [
    path
    for room in ("atlas", "pipelines")
    for path in sorted((CHECKOUT / room).rglob("*.py"))
    if "node_modules" not in path.relative_to(CHECKOUT).parts
]
HALF = "reads half of the sections or more"
ALL = "writes down or sends the whole configuration"
STAGE = "what every stage is asked; some need half of it, some nothing"
HANDS_ON = "hands it to a stage"
# All that take a whole configuration, each with its reason.
TAKE_ALL = {
    "atlas/site/page.py": {"write_page": HALF, "atlas_facts": HALF},
    **{
        f"pipelines/{stage}.py": {"parts": STAGE, "plan": STAGE, "markers": STAGE}
        for stage in ("collect", "layout", "cells", "render", "neurons")
    },
    "pipelines/publish.py": {"parts": STAGE, "plan": STAGE, "markers": STAGE, "site_contents": HALF},
    "pipelines/stage.py": {"Stage.parts": STAGE, "Stage.plan": STAGE, "Stage.markers": STAGE, "missing": HANDS_ON},
    "pipelines/graph.py": {"run_graph": HANDS_ON, "_Graph.__init__": HANDS_ON},
    "pipelines/pipeline.py": {
        "run": HALF,
        "_write_start": ALL,
        "_rows_key": HALF,
        "stage_key_of": HALF,
        "_RunHooks.__init__": HALF,
        "_run_stages": HALF,
    },
    "pipelines/prepare.py": {"prepare": HALF},
    "pipelines/screen.py": {"show_plan": HALF},
    "pipelines/tracking.py": {"Tracking.__init__": ALL},
}


def names_config(annotation: ast.expr | None) -> bool:
    """Whether an annotation names the class ``Config``, alone or in another type, also as text."""
    return annotation is not None and re.search(r"\bConfig\b", ast.unparse(annotation)) is not None


def takers(tree: ast.AST, within: str = "") -> Iterator[str]:
    """The qualified names of functions with a parameter that is a whole configuration, and of classes with such a
    field, as a dataclass takes it."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef(name=name, args=args) | ast.AsyncFunctionDef(name=name, args=args):
                parameters = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
                if any(names_config(parameter.annotation) for parameter in parameters if parameter):
                    yield within + name
                yield from takers(node, f"{within}{name}.")
            case ast.ClassDef(name=name):
                if any(isinstance(line, ast.AnnAssign) and names_config(line.annotation) for line in node.body):
                    yield within + name
                yield from takers(node, f"{within}{name}.")
            case _:
                yield from takers(node, within)


def test_only_what_reads_half_of_it_takes_the_whole_configuration() -> None:
    functions_by_file = {
        path.relative_to(CHECKOUT).as_posix(): set(names)
        for path in SOURCES
        if (names := list(takers(ast.parse(path.read_text()))))
    }
    assert functions_by_file == {path: set(functions) for path, functions in TAKE_ALL.items()}


def test_there_is_something_to_read() -> None:
    assert len(SOURCES) > 100


def test_every_way_of_taking_it_is_seen() -> None:
    source = """
def a(config: Config): pass
def b(*, config: Config | None = None): pass
def c(config: "model.Config", /): pass
def d(*configs: Config): pass
def e(configs: Mapping[str, Config]): pass
async def f(config: Config): pass
try: pass
except OSError:
    def g(config: Config): pass
class H:
    def i(self, config: Config): pass
class J:
    config: Config
def k():
    def l(config: "Config"): pass
def none(layout: LayoutConfig, config: dict[str, Any], kind: Literal["x"]) -> Config: pass
"""
    assert list(takers(ast.parse(source))) == [*"abcdefg", "H.i", "J", "k.l"]
