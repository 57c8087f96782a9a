"""The ablation: one setting changed at a time, each default drawn once, a tidy sheet, and sentences for mistakes."""

import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checkout import CHECKOUT
from PIL import Image

from atlas.networks.network import Network
from atlas.store.moments import Moments
from atlas.visualize import Recipe, draw
from atlas.visualize.score import centre_activations, cosines

LAYER, SIZE, COUNT = "branches", 32, 3
SHORT = {"steps": 4}  # a recipe for tests


@pytest.fixture(scope="module")
def ablate() -> Iterator[ModuleType]:
    """scripts/ablate.py as a module, which finds what lies beside itself as it does when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "scripts"))
        yield importlib.import_module("ablate")


@pytest.fixture(scope="module")
def task(ablate: ModuleType, small: Network) -> Any:
    """A few directions of the small network, with parents, as bench_task.read_task would give them."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    rows = centre_activations(small, LAYER, pictures)
    moments = Moments.empty(rows.shape[1])
    moments.add(rows)
    means = rows[:8]
    level = {
        "row": np.arange(8),
        "mean": means,
        "cosines": np.tile(np.linspace(0, 1, 101, dtype=np.float32), (8, 1)),
        "norm": np.linalg.norm(means, axis=1),
    }
    own = np.array([5, 0, 3])
    return ablate.Task(
        small, LAYER, SIZE, moments.second_moment, level, own, np.array([11, 12, 13]), pictures[20 : 20 + COUNT]
    )


@pytest.fixture
def short(ablate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant takes few steps, whatever it asks for."""
    ours = ablate.bench_render.our_icons
    monkeypatch.setattr(
        ablate.bench_render, "our_icons", lambda task, steps, **values: ours(task, SHORT["steps"], **values)
    )


@pytest.fixture
def task_without_run(ablate: ModuleType, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds the task without a run."""
    monkeypatch.setattr(ablate.bench_task, "read_task", lambda run, **options: task)


def raw(task: Any, pixels: np.ndarray) -> np.ndarray:
    return cosines(centre_activations(task.network, task.layer, pixels), task.means)


def test_every_variant_can_be_drawn_and_differs_from_its_default(ablate: ModuleType) -> None:
    signature = inspect.signature(draw)
    for group in ablate.GROUPS:
        variants = ablate.variants(group)
        assert next(iter(variants)) == ablate.DEFAULT
        default = variants.pop(ablate.DEFAULT)
        assert variants
        for variant, values in variants.items():
            assert values != default, f"{group}, {variant}"
            rest = {name: value for name, value in values.items() if name not in ("tries", "apart")}
            signature.bind("network", "layer", "means", second_moment="moment", **rest)
            assert rest.get("start", ablate.bench_render.PARENTS) == ablate.bench_render.PARENTS
            changed = [
                field.name
                for field in fields(Recipe)
                if getattr(values.get("recipe", Recipe()), field.name) != getattr(Recipe(), field.name)
            ]
            together = (["contrast", "noise"], ["decay", "phase_only"])
            assert len(changed) == 1 or (not changed and "recipe" not in values) or changed in together, (
                f"{group}, {variant}: the recipe differs from the default in {changed or 'nothing'}"
            )
            if "steps" in values:
                assert values["steps"] != Recipe().steps


def test_the_default_is_what_draw_draws_and_a_variant_is_not(ablate: ModuleType, task: Any, short: None) -> None:
    measurements = list(ablate.ablate(task, ["colour"]))
    assert [entry.row["variant"] for entry in measurements] == ["default", "chroma 1", "chroma 4", "gain 0.5", "gain 3"]
    alone = draw(
        task.network, LAYER, task.means, second_moment=task.second_moment, size=SIZE, seeds=task.seeds, **SHORT
    )
    np.testing.assert_array_equal(measurements[0].pixels, alone.pixels)
    row = measurements[0].row
    assert (row["bench"], row["group"], row["layer"], row["icons"]) == ("ablate", "colour", LAYER, COUNT)
    for name, value in ablate.bench_render.score_figures(
        task, ablate.bench_render.scores_of(task, alone.pixels)
    ).items():
        assert row[name] == pytest.approx(value, rel=1e-3)
    assert row["lowest_cosine"] == pytest.approx(raw(task, alone.pixels).min(), rel=1e-3)
    assert row["icons_per_cpu_second"] == pytest.approx(COUNT / row["cpu_seconds"], rel=1e-2)
    for entry in measurements[1:]:
        assert (entry.pixels != alone.pixels).any()
    spread = [entry.pixels.std(axis=3).mean() for entry in measurements]
    assert spread[1] < spread[2], "less chroma is greyer"


def test_starts_begin_with_the_parents(ablate: ModuleType, task: Any, short: None) -> None:
    first, *_, alone = ablate.ablate(task, [ablate.STARTS])
    begun = draw(
        task.network,
        LAYER,
        task.means,
        second_moment=task.second_moment,
        size=SIZE,
        seeds=task.seeds,
        start=task.parents,
        **SHORT,
    )
    np.testing.assert_array_equal(first.pixels, begun.pixels)
    assert alone.row["variant"] == "no parents, 92 steps"
    assert (alone.pixels != first.pixels).any()


def test_the_best_of_two_is_never_worse_than_one(ablate: ModuleType, task: Any) -> None:
    once, twice, other = (
        ablate.draw_variant(entry, **SHORT, **values)
        for entry, values in (
            (task, {}),
            (task, {"tries": 2}),
            (replace(task, seeds=task.seeds + ablate.TRY_APART), {}),
        )
    )
    both = np.stack([raw(task, once.pixels), raw(task, other.pixels)])
    np.testing.assert_array_equal(raw(task, twice.pixels), both.max(0))
    best = both.argmax(0)
    for icon, choice in enumerate(best):
        np.testing.assert_array_equal(twice.pixels[icon], (once, other)[choice].pixels[icon])


def test_a_default_is_drawn_once_and_told_in_every_group(
    ablate: ModuleType, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fake(task: Any, values: dict[str, Any]) -> Any:
        calls.append(values)
        return ablate.Measurement({"median_cosine": len(calls)}, task.parents)

    monkeypatch.setattr(ablate, "measure_variant", fake)
    measurements = list(ablate.ablate(task, list(ablate.GROUPS)))
    assert calls.count({}) == 1
    assert calls.count({"start": ablate.bench_render.PARENTS}) == 1
    defaults = [entry.row for entry in measurements if entry.row["variant"] == "default"]
    assert [row["group"] for row in defaults] == list(ablate.GROUPS)
    assert {row["median_cosine"] for row in defaults if row["group"] != ablate.STARTS} == {1}
    assert len(measurements) == len(calls) + len(ablate.GROUPS) - 2


def test_the_command_writes_table_rows_and_sheet(
    ablate: ModuleType, task_without_run: None, short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "rows.json", tmp_path / "new" / "sheet.png"
    arguments = ["--groups", "precision,tries", "--threads", "1", "--json", str(out), "--sheet", str(sheet)]
    assert ablate.main(arguments) == 0
    rows = json.loads(out.read_text())
    assert [(row["group"], row["variant"]) for row in rows] == [
        ("precision", "default"),
        ("precision", "float32"),
        ("tries", "default"),
        ("tries", "best of 2"),
        ("tries", "best of 4"),
    ]
    assert rows[0]["median_cosine"] == rows[2]["median_cosine"] <= rows[3]["median_cosine"] <= rows[4]["median_cosine"]
    assert rows[4]["icons_per_cpu_second"] < rows[2]["icons_per_cpu_second"]
    printed = capsys.readouterr().out
    assert f"{LAYER}, {COUNT} icons of grid 20, {SIZE} px" in printed
    assert f"{rows[4]['median_cosine']:.3f}" in printed
    assert Image.open(sheet).size[1] == 2 * ablate.MARGIN + 2 * ablate.HEADING + 5 * (SIZE + ablate.GAP)


def test_the_sheet_shows_names_and_icons(ablate: ModuleType) -> None:
    red = np.full((2, SIZE, SIZE, 3), (200, 0, 0), np.uint8)
    names = [("first", "default"), ("first", "a longer name"), ("second", "default")]
    measurements = [ablate.Measurement({"group": group, "variant": variant}, red) for group, variant in names]
    sheet = np.asarray(ablate.make_sheet(measurements))
    columns = np.flatnonzero((sheet == (200, 0, 0)).all(2).any(0))
    rows = np.flatnonzero((sheet == (200, 0, 0)).all(2).any(1))
    left = columns[0]
    assert sheet.shape[1] == left + 2 * SIZE + ablate.GAP + ablate.MARGIN
    assert sheet.shape[0] == 2 * ablate.MARGIN + 2 * ablate.HEADING + 3 * (SIZE + ablate.GAP)
    assert (len(columns), len(rows)) == (2 * SIZE, 3 * SIZE)
    tops = rows[::SIZE]
    ink = [(sheet[top : top + SIZE, :left] < 128).all(2) for top in tops]
    assert ink[1].sum() > ink[0].sum() > 20, "a longer name takes more ink"
    np.testing.assert_array_equal(ink[0], ink[2])
    assert not ink[1][:, left - ablate.LABEL_GAP + 1 :].any(), "names do not touch the icons"
    for top in tops[[0, 2]]:
        heading = sheet[top - ablate.HEADING : top]
        assert (heading[:, :left] < 128).all(2).sum() > 20
        assert ((heading == ablate.RULE).all(2).mean(1) > 0.7).sum() == 1, "one rule from side to side"
    assert (sheet[[0, -1]] == 255).all()
    assert (sheet[:, [0, -1]] == 255).all()


def test_without_parents_starts_are_left_out_and_refused(
    ablate: ModuleType, task: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(task, parents=None)
    assert ablate.choose_groups(task, None) == list(ablate.GROUPS)
    assert ablate.choose_groups(bare, None) == [group for group in ablate.GROUPS if group != ablate.STARTS]
    monkeypatch.setattr(ablate.bench_task, "read_task", lambda run, **options: bare)
    assert ablate.main(["--groups", "colour,starts"]) == 2
    output = capsys.readouterr().err
    assert output.startswith("The group starts needs the icons of a grid half as fine")
    assert "Traceback" not in output


def test_a_missing_run_is_a_sentence(ablate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main(["--run", str(tmp_path / "nothing")]) == 2
    assert "nothing is no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--groups", "colour,size"], "'size' is not known; expected some of objective,seeds,whitening,optimiser,"),
        (["--sheet", "sheet.tiff"], "'sheet.tiff' ends in neither .png nor .webp"),
        (["--count", "0"], "--count"),
    ],
)
def test_wrong_arguments_are_refused(
    ablate: ModuleType, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        ablate.main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
