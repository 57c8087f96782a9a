"""All items of a stage, part by part."""

from atlas.config.model import Config
from atlas.rundir.directory import RunDirectory
from pipelines.stage import Item, Stage


def planned(stage: Stage, config: Config, run: RunDirectory) -> list[Item]:
    """What ``stage`` plans of a run whose stages before it are finished."""
    return [item for part in stage.parts(config) for item in stage.plan(part.name, config, run)]
