"""The graph of a whole run: what comes before what, how far it goes, and a configuration that changes in the middle."""

from pathlib import Path

from tiny_run import PLAIN_STAGES, atlas_run, configure, contents, kill_when

from atlas.rundir.directory import RunDirectory
from pipelines.pipeline import run


def times(directory: RunDirectory, stages: tuple[str, ...]) -> dict[Path, int]:
    """When each file of some stages was written."""
    return {
        path: path.stat().st_mtime_ns
        for stage in stages
        for path in directory.folder(stage).rglob("*")
        if path.is_file()
    }


def test_one_map_is_published_level_by_level_before_another_is_begun(workshop: Path, scheduler: str) -> None:
    """By the times of the markers, on one worker: the opening layer's map, the other layer's, that of a class."""
    layout = {"class_atlas": ["class 1"], "class_layers": ["last"]}
    directory = run(configure(workshop, scheduler, "ordered", layout=layout))
    icons, markers = directory.folder("render"), directory.folder("publish") / ".markers"
    expected = [
        directory.folder("layout") / "box.json",
        *(
            path
            for layer in ("last", "middle")
            for path in (
                directory.folder("cells") / f"{layer}.json",
                icons / layer / "grid-004" / "part-00000.json",
                markers / f"{layer}-grid-004.json",
                icons / layer / "grid-008" / "part-00000.json",
                markers / f"{layer}-grid-008.json",
                markers / f"{layer}-atlas.json",
            )
        ),
        directory.folder("layout") / "class-last--class-1.json",
        directory.folder("cells") / "last--class-1.json",
        icons / "last--class-1" / "grid-008" / "part-00000.json",
        markers / "last--class-1-atlas.json",
        markers / "tour.json",
        markers / "page.json",
    ]
    assert sorted(expected, key=lambda path: path.stat().st_mtime_ns) == expected


def test_until_a_stage_all_up_to_it_is_done_and_nothing_after_it(
    workshop: Path, scheduler: str, undisturbed: RunDirectory
) -> None:
    """Stage by stage, each time without touching what is there; in the end all is as in one go."""
    config = configure(workshop, scheduler, "until")
    directory = RunDirectory(Path(config.out))
    for number, stage in enumerate(PLAIN_STAGES, 1):
        before = times(directory, PLAIN_STAGES[: number - 1])
        run(config, until=stage)
        assert {name for name in PLAIN_STAGES if directory.folder(name).exists()} == set(PLAIN_STAGES[:number])
        assert directory.read_manifest()["stages"].keys() == set(PLAIN_STAGES[:number])
        assert contents(directory, (stage,)) == contents(undisturbed, (stage,))
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_key_that_changes_in_the_middle_of_a_stage_and_comes_back(workshop: Path, undisturbed: RunDirectory) -> None:
    """Killed while icons are drawn, gone on with otherwise drawn ones, then as before: what was drawn first is used."""
    directory = RunDirectory(workshop / "runs" / "rethought")
    arguments = ("tiny.yaml", "--set", f"out={directory.path}")
    kill_when(lambda: any(directory.folder("render").rglob("part-*.json")), workshop, "rethought.log", *arguments)
    above = times(directory, PLAIN_STAGES[:3])
    key, left = directory.stage_key("render"), contents(directory, ("render",))
    markers = {name for name in left if name.endswith(".json")}
    assert 0 < len(markers) < len(list(undisturbed.folder("render").rglob("part-*.json")))
    process = atlas_run(workshop, *arguments, "--set", "render.steps=4")
    assert process.returncode == 0, process.stderr
    aside = directory.path / f"icons.{key[:8]}"
    drawn_before = {path.relative_to(aside): path.stat().st_mtime_ns for path in aside.rglob("part-*.json")}
    assert {f"icons/{name}" for name in drawn_before} == markers
    other = contents(directory, ("render",))
    assert other.keys() == contents(undisturbed, ("render",)).keys()
    assert not set(other.values()) & set(contents(undisturbed, ("render",)).values())
    process = atlas_run(workshop, *arguments)
    assert process.returncode == 0, process.stderr
    assert contents(directory) == contents(undisturbed)
    icons = directory.folder("render")
    assert {name: (icons / name).stat().st_mtime_ns for name in drawn_before} == drawn_before
    assert {path: path.stat().st_mtime_ns for path in above} == above
