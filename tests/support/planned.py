"""The stages of a run, and all items of one, part by part."""

from atlas.config.model import Config
from atlas.rundir.directory import RunDirectory
from pipelines import cells, collect, layout, neurons, publish, render
from pipelines.stage import Item, Stage

MODULES: tuple[Stage, ...] = (collect, layout, cells, render, neurons, publish)


def planned(stage: Stage, config: Config, run: RunDirectory) -> list[Item]:
    """What ``stage`` plans of a run whose stages before it are finished."""
    return [item for part in stage.parts(config) for item in stage.plan(part.name, config, run)]
