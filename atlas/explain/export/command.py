"""The command `python -m atlas.explain`, from a file's name to a written folder."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from atlas.errors import ConfigError
from atlas.explain.explainer import Explainer
from atlas.explain.export.folder import Wanted, check, prepare, write_explanation
from atlas.explain.groups import FEWEST, MOST
from atlas.explain.square import read_square


def explain(run: str, image: Path, out: Path, **wanted: object) -> None:
    """Explain the picture in the file ``image`` by ``run`` into the folder ``out``; ``wanted`` as in Wanted. Says where
    the page is. Raises ConfigError and AtlasError with what is wrong."""
    asked = Wanted(**wanted)  # type: ignore[arg-type]
    if asked.groups and not FEWEST <= asked.groups <= MOST:
        raise ConfigError(f"--groups {asked.groups}: expected {FEWEST} to {MOST}, or 0 for none.")
    if not 1 <= asked.steps <= 10_000:
        raise ConfigError(f"--steps {asked.steps}: expected 1 to 10,000.")
    data = _read(image)
    read_square(data, [16], name=str(image))  # before the network is loaded, which takes longer
    check(out)
    console = Console(file=sys.stderr)
    console.print(f"Loading the network and the maps of {run} …", highlight=False)
    explainer = Explainer(run)
    picture = explainer.look(data, name=str(image))
    for layer in asked.layers:
        explainer.layer(layer)
    for name in asked.classes:
        for network in explainer.networks:
            explainer.class_of(name, network)
    prepare(out)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), console=console
    ) as progress:
        tasks: dict[str, int] = {}

        def tell(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=1.0)
            progress.update(tasks[what], completed=share)  # type: ignore[arg-type]

        write_explanation(explainer, picture, image.name, out, asked, tell)
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
