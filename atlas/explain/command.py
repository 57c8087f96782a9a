"""The command `atlas explain`, from a file's name to a written folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from atlas.errors import ConfigError
from atlas.explain.explainer import Explainer
from atlas.explain.folder import ExplanationOptions, check_folder, prepare_folder, write_explanation
from atlas.explain.groups import FEWEST_GROUPS, MOST_GROUPS
from atlas.explain.square import read_square


def explain(
    run: str,
    image: Path,
    out: Path,
    *,
    layers: Sequence[str] = (),
    classes: Sequence[str] = (),
    groups: int = 6,
    steps: int = 64,
    without_each: bool = False,
) -> None:
    """Explain the picture in the file ``image`` by ``run`` into the folder ``out``, with the rest as in
    ExplanationOptions. Prints where the page is. Raises ConfigError and AtlasError with what is wrong."""
    options = ExplanationOptions(layers, classes, groups, steps, without_each)
    if options.groups and not FEWEST_GROUPS <= options.groups <= MOST_GROUPS:
        raise ConfigError(f"--groups {options.groups}: expected {FEWEST_GROUPS} to {MOST_GROUPS}, or 0 for none.")
    if not 1 <= options.steps <= 10_000:
        raise ConfigError(f"--steps {options.steps}: expected 1 to 10,000.")
    data = _read(image)
    read_square(data, [16], name=str(image))  # before the network is loaded, which takes longer
    check_folder(out)
    console = Console(file=sys.stderr)
    console.print(f"Loading the network and the maps of {run} …", highlight=False)
    explainer = Explainer(run)
    picture = explainer.look(data, name=str(image))
    for layer in options.layers:
        explainer.layer(layer)
    for name in options.classes:
        for network in explainer.networks:
            explainer.class_of(name, network)
    prepare_folder(out)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), console=console
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def advance_bar(task: str, share: float) -> None:
            if task not in tasks:
                tasks[task] = progress.add_task(task, total=1.0)
            progress.update(tasks[task], completed=share)

        write_explanation(explainer, picture, image.name, out, options, advance_bar)
    print(f"Written: {out / 'index.html'}")


def _read(image: Path) -> bytes:
    try:
        return image.expanduser().read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"There is no file {image}. Give the path of a picture.") from None
    except IsADirectoryError:
        raise ConfigError(f"{image} is a folder. Give the path of one picture.") from None
    except OSError as error:
        raise ConfigError(f"{image} cannot be read ({error.strerror or error}). Give the path of a picture.") from None
