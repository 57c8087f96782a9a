"""The documents are whole: what they point at is there, and what there is, they have: keys, options, names, columns."""

import argparse
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
import yaml
from documents import CHECKOUT, anchors_of, blocks, documents, name_of, snippet, text_of
from tiny_run import environment

import atlas
from atlas.cells import build, icons
from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.config.sections import TrackingConfig
from atlas.errors import ConfigError
from atlas.layout import tables as layout_tables
from atlas.neurons import tables
from atlas.rundir.directory import RunDirectory
from atlas.slices.tables import ERRORS_SCHEMA
from atlas.store import shards
from atlas.words import table as words_table

LIMITS = {"README.md": 150, "atlas/architecture.md": 100}
REFERENCE = "atlas/docs/reference"
# A document that an introduction leads to, from which all others are reached.
CONTENTS = "atlas/docs/index.md"
# The least that a run needs, for blocks that are a part of a configuration.
LEAST = {
    "out": "runs/my",
    "network": {"name": "efficientnet_lite0"},
    "layers": ["_blocks.4", "_blocks.7", "_blocks.10"],
    "images": {"source": "pictures"},
}
NAMES = [name_of(path) for path in documents()]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_a_document_points_at_is_missing(name: str) -> None:
    document, text = CHECKOUT / name, text_of(name)
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text)):
        assert "://" not in target, f"{name}: {target} may be gone tomorrow"
        there = document.parent / target if target else document
        assert there.is_file(), f"{name} points at {target}"
        if anchor:
            assert anchor in anchors_of(there.read_text(encoding="utf-8")), f"{name} points at {target}#{anchor}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_document_names_is_there(name: str) -> None:
    """Paths from the top of the checkout, and in the architecture from atlas/."""
    paths = re.findall(r"`((?:atlas|pipelines|scripts|configs|tests)/[\w./-]+\.\w+)(?: [^`]*)?`", text_of(name))
    for path in paths:
        assert (CHECKOUT / path).is_file() or "KIND" in path, f"{name} names {path}"
    if name == "atlas/architecture.md":
        rooms = "|".join(sorted(path.parent.name for path in (CHECKOUT / "atlas").glob("*/__init__.py")))
        for path in re.findall(rf"`((?:{rooms})/\w+)`", text_of(name)):
            assert (CHECKOUT / f"atlas/{path}.py").is_file(), f"{name} names {path}"


def test_the_architecture_names_every_module() -> None:
    lines = [line for line in text_of("atlas/architecture.md").splitlines() if line.startswith("| `atlas/")]
    modules = {word for line in lines for word in re.findall(r"\w+", line.rpartition(" | ")[2])}
    for path in (CHECKOUT / "atlas").rglob("*.py"):
        if "viewer" in path.parts or path.stem.startswith("__"):
            continue
        own = path.relative_to(CHECKOUT).as_posix()
        if path.parent == CHECKOUT / "atlas":
            assert f"`{own}`" in "".join(lines), own
        else:
            assert path.stem in modules, own


def test_the_architecture_has_the_rooms_in_their_order(house: ModuleType) -> None:
    """The order that tests/unit/test_rooms.py holds."""
    expected = [room for room in house.ROOMS if room != "scripts"]
    lines = [line for line in text_of("atlas/architecture.md").splitlines() if line.startswith("| `")]
    names_in_text = [room.rstrip("/") for line in lines for room in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    assert [room for room in names_in_text if room in expected] == expected


def test_every_identifier_of_the_recipes_is_in_the_code() -> None:
    """What a recipe tells to change has that name somewhere in the sources."""
    parts = ("atlas", "pipelines", "tests", "configs", "scripts")
    kinds = (".py", ".ts", ".svelte", ".yaml")
    words: set[str] = set()
    for path in (path for part in parts for path in (CHECKOUT / part).rglob("*")):
        if path.suffix in kinds and not {"node_modules", "dist"} & set(path.parts) and path.is_file():
            # Not this module, in which a name could stand for the sake of the test.
            words |= set() if path == Path(__file__) else set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    text = re.sub(r"^```.*?^```", "", text_of("atlas/docs/contributing/recipes.md"), flags=re.MULTILINE | re.DOTALL)
    identifiers = set(re.findall(r"`#?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\([^`]*\))?`", text)) - {"pyproject.toml"}
    assert len(identifiers) > 30
    missing = {name for name in identifiers for part in name.split(".") if part not in words}
    assert not missing


def test_where_something_is_decided_it_is_defined() -> None:
    """Each row of the recipes' first table names definitions in the file that it names."""
    section = text_of("atlas/docs/contributing/recipes.md").partition("## Where it is decided")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 10
    for row in rows:
        for names, path in re.findall(r"((?:`\w+`(?: and )?)+) in `([\w./]+)`", row):
            source = (CHECKOUT / path).read_text(encoding="utf-8")
            for name in re.findall(r"\w+", names.replace(" and ", " ")):
                assert re.search(rf"\b(?:def|class) {name}\b|^{name}\b.* = |, {name} = ", source, re.MULTILINE), row


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_be_filled_in(name: str) -> None:
    assert not re.search(r"TODO|FIXME|TABLE$|@@", text_of(name), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_wrapped(name: str) -> None:
    fenced = False
    for number, line in enumerate(text_of(name).splitlines(), start=1):
        fenced ^= line.startswith("```")
        alone = fenced or line.startswith(("|", "![", "`", "    ")) or " " not in line.strip("- ")
        assert alone or len(line) <= 120, f"{name}:{number}"


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_the_first_pages_stay_short(name: str, limit: int) -> None:
    assert len(text_of(name).splitlines()) <= limit


def test_every_document_can_be_reached_from_the_contents() -> None:
    text = text_of(CONTENTS)
    linked = {(CHECKOUT / CONTENTS).parent.joinpath(target).resolve() for target in re.findall(r"\]\(([^)#]+)", text)}
    below = {path for path in (CHECKOUT / "atlas/docs").rglob("*") if path.suffix in (".md", ".ipynb")}
    assert below - {CHECKOUT / CONTENTS} <= linked
    headlines = text_of("scripts/benchmarks.md")
    for path in (CHECKOUT / "scripts/benchmarks").glob("*.md"):
        assert f"](benchmarks/{path.name})" in headlines, path.name


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_in_a_document_is_valid(name: str) -> None:
    for block in blocks(name):
        if block.language == "yaml":
            values = yaml.safe_load(block.text)
            assert validate({**LEAST, **values}, f"{name}, {block.heading}")


def test_every_shipped_configuration_is_valid() -> None:
    for path in sorted(set((CHECKOUT / "configs").glob("*.yaml")) - {CHECKOUT / "configs/tour.yaml"}):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        validate({"out": "runs/x", **values}, str(path))
        if path.stem != "tour":
            assert f"`{path.stem}`" in text_of(f"{REFERENCE}/command-line.md"), path.name


def test_the_reference_of_the_configuration_is_what_its_script_writes() -> None:
    line = [sys.executable, "scripts/write_reference.py", "--check"]
    process = subprocess.run(line, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout + process.stderr


def test_a_reference_that_does_not_fit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    script = importlib.import_module("write_reference")
    monkeypatch.setattr(script, "TARGET", tmp_path / "configuration.md")
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    (tmp_path / "configuration.md").write_text("old")
    assert script.main(["--check"]) == 1
    assert "Write it again: python scripts/write_reference.py" in capsys.readouterr().out


def test_the_reference_has_every_key_with_its_description_and_bounds() -> None:
    text = text_of(f"{REFERENCE}/configuration.md")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for key, field in Config.model_fields.items():
        assert f"\n| `{key}` |" in text
        assert str(field.description) in text
    assert set(sections) <= set(Config.model_fields)
    for key, field in Config(**validate(LEAST, "least").plain()):
        if key in sections and field is not None:
            for name, inner in type(field).model_fields.items():
                (row,) = (line for line in sections[key].splitlines() if line.startswith(f"| `{name}` |"))
                assert str(inner.description) in row.replace("\\|", "|")
    assert "| `limit` | whole number, ≥ 1 | none |" in text
    assert "| `grids` | list of whole numbers, ≥ 2, ≤ 1,280 | `[10, 20, 40]` |" in text
    assert "| `crop_scale` | list of 2 numbers, > 0, ≤ 1 | `[0.4, 1.0]` |" in text


def test_the_file_to_copy_from_has_every_key_and_its_default() -> None:
    values = yaml.safe_load((CHECKOUT / "configs/reference.yaml").read_text(encoding="utf-8"))
    config = validate(values, "reference.yaml")
    least = {key: values[key] for key in ("out", "layers")} | {
        "network": {"name": values["network"]["name"]},
        "images": {"source": values["images"]["source"]},
    }
    assert config == validate(least, "least"), "a default in reference.yaml is not the default"
    keys_in_file = {f"{section}.{key}" for section, keys in values.items() if isinstance(keys, dict) for key in keys}
    plain = config.plain()
    assert keys_in_file == {
        f"{section}.{key}" for section, keys in plain.items() if isinstance(keys, dict) for key in keys
    }


def test_the_file_to_copy_from_tells_every_key_of_tracking() -> None:
    text = (CHECKOUT / "configs/reference.yaml").read_text(encoding="utf-8").split("\ntracking: null")[1]
    for name, field in TrackingConfig.model_fields.items():
        assert f"{name}:" in text
        if isinstance(field.default, str):
            assert f"{name}: {field.default}" in text
    tracking = yaml.safe_load(snippet("atlas/docs/guides/tracking.md", "Tracking", "yaml"))["tracking"]
    assert TrackingConfig.model_validate(tracking).mode == "offline"


@pytest.mark.parametrize("word", ["run", "serve", "check", "explain"])
def test_every_option_of_a_command_is_in_the_reference(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command itself would parse it; its exit codes stand in the docstring of its main."""
    parsers: list[argparse.ArgumentParser] = []

    def parse(self: argparse.ArgumentParser, *_: object, **__: object) -> argparse.Namespace:
        parsers.append(self)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    try:
        main = importlib.import_module(f"atlas.{word}.__main__").main
    except ModuleNotFoundError:
        main = importlib.import_module(f"atlas.{word}").main
    with pytest.raises(SystemExit):
        main([])
    part = text_of(f"{REFERENCE}/command-line.md").split(f"\n## atlas {word}\n")[1].split("\n## ")[0]
    names_in_text = set(re.findall(r"^\| `([^ `]+)", part, re.MULTILINE))
    options = {
        action.option_strings[-1] if action.option_strings else (action.metavar or action.dest).upper()
        for action in parsers[0]._actions
        if action.dest != "help"
    }
    assert names_in_text == options
    codes = set(re.findall(r"^\| (\d) \|", part, re.MULTILINE))
    assert codes == set(re.findall(r"\b(\d)\b", str(main.__doc__)))


def test_every_public_name_is_in_the_reference_and_is_there() -> None:
    names_part, modules_part = text_of(f"{REFERENCE}/python.md").split("Modules that are public")
    names_in_text = set(re.findall(r"`atlas\.(\w+)(?:\(|`)", names_part))
    assert names_in_text == set(atlas.__all__)
    for name in names_in_text:
        assert getattr(atlas, name) is not None
    rows = re.findall(r"^\| `(atlas\.[\w.]+)` \| (.*?)(?:: |\|)", modules_part, re.MULTILINE)
    assert len(rows) > 3
    for module, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize(
    ("heading", "schemas"),
    [
        ("store", [pa.schema([*shards.STORE_SCHEMA, shards.ATTRIBUTION, *shards.TRUE_CLASS]), shards.FAILURES]),
        ("layout", [layout_tables.LAYOUT_SCHEMA]),
        ("cells", [build.CELLS_SCHEMA, words_table.WORDS, ERRORS_SCHEMA]),
        ("icons", [icons.ICONS_SCHEMA]),
        ("neurons", [tables.STATISTICS, tables.UNITS, tables.CIRCUIT, tables.CELLS]),
    ],
)
def test_every_column_is_in_the_reference(heading: str, schemas: list[pa.Schema]) -> None:
    text = text_of(f"{REFERENCE}/run-directory.md")
    part = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    names_in_text = {
        name for cell in re.findall(r"^\| (.+?) \|", part, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    columns = {name for schema in schemas for name in schema.names}
    if heading == "store":  # failures.parquet stands in the tree of files
        assert "store/failures.parquet            pictures and views that gave no row: image, view, error" in text
        columns -= set(shards.FAILURES.names) - set(shards.STORE_SCHEMA.names)
    assert names_in_text == columns


def test_every_figure_of_the_report_is_in_the_reference(undisturbed: RunDirectory) -> None:
    report = json.loads(undisturbed.report.read_text(encoding="utf-8"))
    text = text_of(f"{REFERENCE}/report.md")
    for layer in report["layers"].values():
        for part, figures in layer.items():
            inner = next(iter(figures.values())) if part in ("cells", "icons", "words") else figures
            section = text.split(f"\n## {part}\n")[1].split("\n## ")[0]
            for name in inner:
                assert f"`{name}`" in section, f"{part}: {name}"


def test_a_changed_document_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above see a link that leads nowhere, a missing anchor, a file that is not there, a long line, and a
    wrong key."""

    name = "README.md"
    checks: list[tuple[str, Callable[[str], None]]] = [
        ("[a](nowhere.md)", test_nothing_that_a_document_points_at_is_missing),
        ("[a](#nothing-of-this-name)", test_nothing_that_a_document_points_at_is_missing),
        ("`atlas/nothing.py`", test_every_file_that_a_document_names_is_there),
        ("word " * 30, test_lines_are_wrapped),
        ("```yaml\nnetwork: {nam: x}\n```", test_every_configuration_in_a_document_is_valid),
    ]
    real, helper = text_of, sys.modules["documents"]
    for added, check in checks:
        for names in (vars(helper), globals()):
            monkeypatch.setitem(
                names, "text_of", lambda name_of_document, added=added: f"{real(name_of_document)}\n{added}\n"
            )
        with pytest.raises((AssertionError, ConfigError)):
            check(name)
