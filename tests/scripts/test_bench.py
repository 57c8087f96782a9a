"""The bench: the same task for all systems, plausible rows, and sentences for mistakes; ours and the peers for real."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from loaded_bench import CHECKOUT
from PIL import Image

from atlas.networks.network import Network
from atlas.rundir.directory import RunDirectory

COSINE = "median_cosine"
FIGURES = {
    "icons_per_second",
    "median_cosine",
    "median_cosine_whitened",
    "median_cosine_robust",
    "rank1_share",
    "near_rank_share",
    "flagged_share",
    "seconds",
    "icons",
    "steps",
    "peak_share",
}


@pytest.fixture(scope="module")
def bench_render(bench: ModuleType) -> ModuleType:
    """scripts/bench_render.py as a module."""
    return importlib.import_module("bench_render")


@pytest.fixture(scope="module")
def bench_peers(bench: ModuleType) -> ModuleType:
    """scripts/bench_peers.py as a module."""
    return importlib.import_module("bench_peers")


@pytest.fixture(scope="module")
def read_task(bench: ModuleType) -> Callable[..., Any]:
    """What reads a run's directions, of scripts/bench_task.py."""
    return importlib.import_module("bench_task").read_task


def check_row(row: dict, system: str, icons: int) -> None:
    assert {"bench", "system", "variant", *FIGURES} <= set(row)
    assert (row["bench"], row["system"], row["icons"]) == ("render", system, icons)
    assert row["icons_per_second"] == pytest.approx(icons / row["seconds"], rel=1e-3)
    assert row["seconds"] > 0
    assert 0 < row["peak_share"] < 1
    for name in ("median_cosine", "median_cosine_whitened", "median_cosine_robust"):
        assert -1 <= row[name] <= 1
    for name in ("rank1_share", "near_rank_share", "flagged_share"):
        assert 0 <= row[name] <= 1
    assert row["rank1_share"] <= row["near_rank_share"]


def test_equal_seeds_choose_equal_directions(read_task: Callable[..., Any], tiny: RunDirectory) -> None:
    first, again, other = (read_task(tiny, layer=None, grid=8, count=5, seed=seed) for seed in (3, 3, 4))
    assert first.layer == "last", "the middle of the run's two layers"
    np.testing.assert_array_equal(first.means, again.means)
    np.testing.assert_array_equal(first.parents, again.parents)
    assert first.own.tolist() != other.own.tolist()
    assert len(set(first.own.tolist())) == 5
    assert read_task(tiny, layer=None, grid=8, count=3, seed=3).own.tolist() == first.own[:3].tolist()


def test_the_directions_are_means_of_drawn_cells_of_the_grid(
    bench_render: ModuleType, read_task: Callable[..., Any], tiny: RunDirectory
) -> None:
    task = read_task(tiny, layer="middle", grid=4, count=1000, seed=0)
    cells = pq.read_table(tiny.cells("middle")).to_pylist()
    means = [cell["mean"] for cell in cells if cell["grid"] == 4 and cell["count"] >= 2]
    assert sorted(map(tuple, task.means.tolist())) == sorted(map(tuple, means))
    assert task.parents is None, "nothing is coarser"
    assert [contender.variant for contender in bench_render.contenders(["ours"], task)] == ["default", "quick"]


def test_a_run_without_icons_has_no_parents(read_task: Callable[..., Any], tiny: RunDirectory, tmp_path: Path) -> None:
    bare = RunDirectory(tmp_path / "bare")
    shutil.copytree(tiny.path, bare.path, ignore=shutil.ignore_patterns("icons", "site", "store"))
    assert read_task(bare, layer=None, grid=8, count=2, seed=0).parents is None


def test_ours_is_measured(
    bench: ModuleType, tiny: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    arguments = ["--run", str(tiny.path), "--grid", "8", "--count", "5", "--threads", "1", "--json", str(out)]
    assert bench.main(["render", *arguments, "--systems", "ours", "--repeat", "2"]) == 0
    rows = json.loads(out.read_text())
    assert [row["variant"] for row in rows] == ["default", "from parents", "quick"]
    for row in rows:
        check_row(row, "ours", 5)
    printed = capsys.readouterr().out
    assert "peak" in printed
    assert "GFLOP/s" in printed
    assert f"{rows[0]['median_cosine']}" in printed
    assert "from parents" in printed


@pytest.mark.parametrize(("system", "variants"), [("torch-lucent", 3), ("horama", 2)])
def test_a_peer_draws_the_same_task(
    bench_render: ModuleType,
    bench_peers: ModuleType,
    read_task: Callable[..., Any],
    tiny: RunDirectory,
    system: str,
    variants: int,
) -> None:
    task = read_task(tiny, layer=None, grid=8, count=1, seed=0)
    bench_peers.import_peers([system])
    rows = list(bench_render.bench_render(task, [system], steps=2))
    assert len(rows) == variants
    assert rows[0]["variant"] == "default"
    for row in rows:
        check_row(row, system, 1)
        assert row["steps"] == 2
    assert not any(module._forward_hooks for module in task.network.module.modules()), "left as it was"


def test_peers_climb(
    bench_render: ModuleType, bench_peers: ModuleType, read_task: Callable[..., Any], tiny: RunDirectory
) -> None:
    """The peers are asked the right way: with steps, the cosine rises."""
    task = read_task(tiny, layer=None, grid=8, count=2, seed=0)
    bench_peers.import_peers(list(bench_peers.PEERS))
    for draw, values in ((bench_peers.lucent_icons, {"own_size": True}), (bench_peers.horama_icons, {"whole": True})):
        few, more = (
            bench_render.score_figures(task, bench_render.scores_of(task, draw(task, steps, **values).pixels))[
                "median_cosine"
            ]
            for steps in (1, 40)
        )
        assert more > few


def test_a_step_counts_what_the_layers_multiply(bench_render: ModuleType, small: Network) -> None:
    """Stem: 8 filters of 3 × 3 × 3 at 16 × 16 places; forward, and as much again back to the picture."""
    assert bench_render.step_flops(small, "stem", 32) == 2 * 2 * 8 * 27 * 16 * 16


@pytest.mark.parametrize("system", ["torch-lucent", "horama"])
def test_a_missing_peer_is_a_sentence(
    bench: ModuleType,
    bench_peers: ModuleType,
    system: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, bench_peers.PEERS[system], None)  # as Python answers what cannot be imported
    assert bench.main(["render", "--systems", f"ours,{system}"]) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"{system} cannot be imported")
    assert 'pip install -e ".[bench]"' in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--layer", "first"], "has no layer first. Its layers: middle, last."),
        (["--grid", "5"], "has no grid 5. Its grids: 4, 8."),
    ],
)
def test_what_a_run_does_not_have_is_a_sentence(
    bench: ModuleType, tiny: RunDirectory, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert bench.main(["render", "--run", str(tiny.path), "--systems", "ours", "--grid", "8", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_run_is_a_sentence(
    bench: ModuleType, tiny: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["render", "--systems", "ours", "--grid", "8", "--run"]
    assert bench.main([*arguments, str(tmp_path / "nothing")]) == 2
    assert "nothing is no run directory" in capsys.readouterr().err
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(tiny.manifest, begun)
    assert bench.main([*arguments, str(begun)]) == 2
    assert "has no cells of layer last yet. Finish the run first" in capsys.readouterr().err


def test_tiles_beside_libvips(tmp_path: Path, capfd: pytest.CaptureFixture[str], bench: ModuleType) -> None:
    """The same tiles of the same pictures by both, each in a process of its own."""
    table = tmp_path / "rows.json"
    assert bench.main(["tiles", "--grid", "20", "--threads", "1", "--json", str(table)]) == 0
    assert "512 made icons, grids 10, 20, 1 threads" in capfd.readouterr().out
    rows = {(row["system"], row["variant"]): row for row in json.loads(table.read_text())}
    assert [*rows] == [
        ("ours", "one grid"),
        ("ours", "combined"),
        ("pyvips", "one grid"),
        ("pyvips", "combined"),
        ("bound", "encoding alone"),
    ]
    for row in rows.values():
        assert row["tiles_per_second"] == pytest.approx(row["tiles"] / row["seconds"], rel=1e-3)
        assert 20 < row["peak_mb"] < 200, "nothing but the system itself"
    for variant in ("one grid", "combined"):
        ours, libvips = rows["ours", variant], rows["pyvips", variant]
        assert ours["tiles"] == libvips["tiles"] == 9 + 4 + 10
        assert ours["megabytes"] == pytest.approx(libvips["megabytes"], rel=0.01)
        assert ours["mean_error"] == pytest.approx(libvips["mean_error"], rel=0.01)
        assert 0.5 < ours["mean_error"] < 10
    assert rows["bound", "encoding alone"]["tiles"] == 9


def test_tiles_of_a_run_take_its_icons(
    bench: ModuleType, tiny: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["tiles", "--grid", "10", "--run", str(tiny.path)]) == 2
    assert "have 32 px; those of a run with 80 fit" in capsys.readouterr().err
    assert bench.main(["tiles", "--grid", "10", "--run", str(tiny.path), "--layer", "first"]) == 2
    assert "has no icons of layer first. Finish the run first" in capsys.readouterr().err


def test_both_are_given_the_same_picture(bench: ModuleType, tmp_path: Path) -> None:
    """A round map: its corners are empty, its middle has icons of the pool."""
    import bench_tiles

    pool = bench_tiles.made_icons(0, 3)
    bench_tiles.write_picture(tmp_path / "10.rgba", pool, 10, 0)
    picture = bench_tiles.picture(tmp_path / "10.rgba", 10)
    assert picture.shape == (800, 800, 4)
    icon = bench_tiles.icons_of(tmp_path / "10.rgba", 10)
    assert icon(0, 0) is None
    assert icon(9, 9) is None
    assert any((icon(4, 5) == pixels).all() for pixels in pool)
    assert (icon(4, 5) == picture[320:400, 400:480, :3]).all()
    assert sum(icon(row, col) is not None for row in range(10) for col in range(10)) == 80


def test_without_libvips_is_a_sentence(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert bench.main(["tiles"]) == 2
    assert capsys.readouterr().err.startswith("pyvips cannot be imported")


def test_without_a_browsers_driver_is_a_sentence(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "bench_viewer", raising=False)
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    assert bench.main(["viewer"]) == 2
    assert capsys.readouterr().err.endswith('The benches need more than the product: pip install -e ".[bench]".\n')


@pytest.mark.parametrize("arguments", [["--systems", "ours,lucid"], ["--count", "0"], ["--seed", "-1"]])
def test_wrong_arguments_are_refused(
    bench: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(["render", *arguments])
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_one_picture_is_asked_of_the_server(
    bench: ModuleType,
    tiny: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import bench_explain

    from atlas.serve import limits

    monkeypatch.setattr(limits, "RATE", limits.RATE)  # the bench sets another
    monkeypatch.setattr(bench_explain, "PHOTOS", ("coffee",))
    monkeypatch.setattr(bench_explain, "ICON_COUNT", 4)
    assert bench.main(["explain", "--run", str(tiny.path), "--json", str(tmp_path / "rows.json")]) == 0
    assert "threads" not in capsys.readouterr().out, "it sets none"
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["bench"], row["system"], row["pictures"]) == ("explain", "ours", 1)
    assert row["drop_ms_most"] == pytest.approx(row["drop_ms"], abs=0.1)
    for name in ("ready_seconds", "drop_ms", "class_ms", "removed_seconds", "icons_per_second", "unit_ms", "groups_ms"):
        assert row[name] > 0
    assert row["stop_ms"] < 5000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("collect", ["--threads"]),
        ("layout", ["--repeat", "--seed"]),
        ("viewer", ["--threads", "--seed"]),
        ("explain", ["--threads", "--seed"]),
        ("decode", ["--threads", "--seed"]),
        ("schedule", ["--threads", "--repeat", "--seed"]),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], name: str, options: list[str]
) -> None:
    needed = ["--run", "runs/demo"] if name == "layout" else []
    for option in options:
        with pytest.raises(SystemExit) as stopped:
            bench.make_parser().parse_args([name, *needed, option, "1"])
        assert stopped.value.code == 2
        assert f"unrecognized arguments: {option}" in capsys.readouterr().err


def test_decoders_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bench: ModuleType
) -> None:
    decode = importlib.import_module("bench_decode")
    monkeypatch.setattr(decode, "SIZES", {"small": (120, 90)})
    monkeypatch.setattr(decode, "VIEWS", 2)
    monkeypatch.setattr(decode, "LAYERS", ("_blocks.4", "_blocks.7"))
    out = tmp_path / "decode.json"
    assert bench.main(["decode", "--json", str(out)]) == 0
    assert {"_blocks.4", "_blocks.7"} <= set(capsys.readouterr().out.split()), "what differs is in the table"
    rows = json.loads(out.read_text())
    by_system = {row["system"]: row for row in rows if row["bench"] == "decode"}
    assert {"Pillow", "simplejpeg", "atlas.pictures.decode"} <= set(by_system)
    assert by_system["simplejpeg"]["most"] == by_system["atlas.pictures.decode"]["most"] == 0, "the same pixels"
    assert all(row["images_per_second"] > 0 for row in by_system.values())
    spare = [row for row in rows if row["bench"] == "spare"]
    assert next(row["spare"] for row in spare) == [1.0, 1.5]
    assert all(0.8 < row["lowest_cosine_of_95"] <= row["median_cosine"] <= 1 for row in spare)


def test_what_handing_out_an_item_costs(tmp_path: Path, bench: ModuleType) -> None:
    out = tmp_path / "schedule.json"
    assert bench.main(["schedule", "--items", "40", "--workers", "1", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["items"] == 40
    assert row["ms_an_item"] > 0
    assert row["bytes_of_an_item"] < 300
    assert 0 < row["bytes_written_an_item"] < 20_000


def test_collect_beside_its_bound_and_a_plain_loop(tmp_path: Path) -> None:
    """A real run, its parts and the loop, each in processes of its own, over 24 pictures."""
    table = tmp_path / "rows.json"
    command = [sys.executable, "scripts/bench.py", "collect", "--count", "24", "--processes", "1", "--json", str(table)]
    process = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "24 JPEGs, layers _blocks.10" in process.stdout
    rows = {(row["system"], row["variant"]): row for row in json.loads(table.read_text())}
    decode, forward = rows["ours", "decode alone"], rows["ours", "forward alone"]
    bound, loop = rows["bound", "decode and forward"], rows["plain loop", "DataLoader, hook, batch 64, np.save"]
    for row in rows.values():
        assert (row["bench"], row["processes"], row["images"]) == ("collect", 1, 24)
        assert row["images_per_second"] > 0
    rates = 1 / decode["images_per_second"] + 1 / forward["images_per_second"]
    assert bound["images_per_second"] == pytest.approx(1 / rates, rel=1e-3)
    ours, default = rows["ours", "activations only"], rows["ours", "default"]
    assert ours["of_bound"] == pytest.approx(ours["images_per_second"] / bound["images_per_second"], rel=1e-2)
    assert ours["of_plain_loop"] == pytest.approx(ours["images_per_second"] / loop["images_per_second"], rel=1e-2)
    assert default["on_top"] == pytest.approx(
        ours["images_per_second"] / default["images_per_second"] - 1, rel=1e-2, abs=1e-3
    )
    assert 300 < ours["peak_mb"] < 4000


def test_a_run_is_watched_from_the_command_to_its_end(
    bench: ModuleType,
    workshop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    out, pictures = tmp_path / "first.json", tmp_path / "pictures"
    words = ["first", "--config", "tiny.yaml", "--set", "render.quick_steps=1"]
    assert bench.main([*words, "--pictures", str(pictures), "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert 0 < row["first_level_s"] <= row["opening_layer_s"] <= row["whole_s"]
    assert row["expected_whole_s"] >= 60
    assert "publish: " in capfd.readouterr().out, "the run's own lines are passed on"
    sizes = {Image.open(path).size for path in pictures.glob("*.png")}
    assert sizes == {(1440, 900)}

    assert bench.main(["first", "--config", "tiny.yaml", "--set", "layers=[nowhere]"]) == 2
    assert "The run ended with exit code 2; its own lines say why." in capfd.readouterr().err
