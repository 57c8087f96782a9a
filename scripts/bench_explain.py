"""scripts/bench.py explain: one picture, asked of the server as the page asks it, over loopback.

Each round shows pictures that the server has not seen. What is timed:

- ready_seconds: from the start of the server until it can explain (torch, the network, the maps, in this process);
- drop_ms: from sending a picture until its summary is here: top classes, places on the atlas, attributions to five
  classes, all layers of the run; the median, and drop_ms_most the slowest;
- class_ms: the attributions to the tenth class; removed_seconds: every position of the layer taken out;
- first_icon_ms and icons_per_second: the icons of the layer's positions, the first 40;
- stop_ms: from hanging up until the last step of an icon that was under way;
- groups_ms: six groups with their effects, without their icons;
- forward_ms: the forward pass with all its steps, of a picture that is known; unit_ms: the arithmetic of one unit.
"""

from __future__ import annotations

import http.client
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench_rows import BenchRow  # beside this file
from PIL import Image, ImageOps
from skimage import data

from atlas import show
from atlas.explain import icons
from atlas.serve import limits

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
ICON_COUNT, UNIT_COUNT = 40, 40


def bench_explain(run: Path, layer: str | None, repeat: int) -> BenchRow:
    """One row of figures, the medians of ``repeat`` rounds of four photographs each."""
    limits.RATE = 1e6  # the bench is more than a person
    started = time.perf_counter()
    page = show(run)
    host = urlsplit(page.address).netloc
    while not _ask(host, "GET", "/api/explain")["ready"]:
        time.sleep(0.05)
    figures: dict[str, list[float]] = {"ready_seconds": [time.perf_counter() - started]}
    generator = random.Random(0)
    try:
        for number in range(repeat):
            for name in PHOTOS:
                for key, value in _round(host, _photo(name, number), layer, generator).items():
                    figures.setdefault(key, []).append(value)
    finally:
        page.close()
    row: BenchRow = {"bench": "explain", "system": "ours", "variant": "default", "layer": layer or "the middle one"}
    row |= {key: round(statistics.median(values), 3) for key, values in figures.items()}
    return row | {"drop_ms_most": round(max(figures["drop_ms"]), 1), "pictures": len(figures["drop_ms"])}


def _round(host: str, picture: bytes, layer: str | None, generator: random.Random) -> dict[str, float]:
    figures: dict[str, float] = {}
    with _timed(figures, "drop_ms", 1000):
        facts = _ask(host, "POST", "/api/explain", picture)
    layers = [entry["path"] for entry in facts["layers"]]
    layer = layer or layers[len(layers) // 2]
    best, *_, tenth = (entry["class"] for entry in facts["networks"][0]["classes"])
    with _timed(figures, "class_ms", 1000):
        _ask(host, "POST", f"/api/explain/classes?class={tenth}", picture)
    with _timed(figures, "removed_seconds", 1):
        _open(host, "POST", f"/api/explain/removed?layer={layer}&class={best}", picture).read()
    began = time.perf_counter()
    answer = _open(host, "POST", f"/api/explain/icons?layer={layer}", picture)
    answer.readline()
    figures["first_icon_ms"] = 1000 * (time.perf_counter() - began)
    for _ in range(ICON_COUNT - 1):
        answer.readline()
    figures["icons_per_second"] = ICON_COUNT / (time.perf_counter() - began)
    figures["stop_ms"] = _stop(answer)
    answer = _open(host, "POST", f"/api/explain/groups?layer={layer}&count=6", picture)
    with _timed(figures, "groups_ms", 1000):
        answer.readline()
    answer.close()
    with _timed(figures, "forward_ms", 1000):
        steps = _ask(host, "POST", "/api/forward", picture)["steps"]
    maps = [step for step in steps if len(step["shape"]) == 3]
    units = []
    for _ in range(UNIT_COUNT):
        step = generator.choice(maps)
        channel, y, x = (generator.randrange(side) for side in step["shape"])
        took: dict[str, float] = {}
        with _timed(took, "ms", 1000):
            _ask(host, "POST", f"/api/forward/unit?step={step['step']}&channel={channel}&y={y}&x={x}", picture)
        units.append(took["ms"])
    return figures | {"unit_ms": statistics.median(units)}


def _stop(answer: http.client.HTTPResponse) -> float:
    """Milliseconds from hanging up until the last step of the work for ``answer``."""
    last = [0.0]
    draw = icons.draw

    def watched(*arguments: Any, progress: Any, **options: Any) -> Any:
        def on_progress(share: float) -> None:
            last[0] = time.perf_counter()
            progress(share)

        return draw(*arguments, progress=on_progress, **options)

    icons.draw = watched
    try:
        answer.readline()  # the watched part is under way
        time.sleep(0.6)
        left = time.perf_counter()
        answer.close()
        time.sleep(1.5)
    finally:
        icons.draw = draw
    return max(0.0, 1000 * (last[0] - left))


def _photo(name: str, number: int) -> bytes:
    """A photograph that differs from round to round, as the JPEG of a camera."""
    picture = Image.fromarray(getattr(data, name)()).convert("RGB")
    side = 40 * number
    turned = ImageOps.mirror(picture) if number % 2 else picture
    file = BytesIO()
    turned.crop((side // 2, 0, turned.width - side // 2, turned.height)).save(file, "JPEG", quality=92)
    return file.getvalue()


@contextmanager
def _timed(figures: dict[str, float], name: str, units: float) -> Iterator[None]:
    began = time.perf_counter()
    yield
    figures[name] = units * (time.perf_counter() - began)


def _open(host: str, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(host, timeout=120)
    connection.request(method, path, body)
    answer = connection.getresponse()
    if answer.status != 200:
        raise OSError(f"{path}: {answer.read().decode()}")
    return answer


def _ask(host: str, method: str, path: str, body: bytes | None = None) -> Any:
    return json.loads(_open(host, method, path, body).read())
