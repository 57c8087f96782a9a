#!/usr/bin/env python3
"""Whether two states of the code make the same: a small run, digests of all that it wrote, screenshots of its page.

scripts/same_run.py make FOLDER       the run, an explanation, digests.json and screens/*.png; some five minutes
scripts/same_run.py compare OLD NEW   what differs between two such folders; exit code 1 where something does

What runs is the code of the checkout in which this file lies, by its commands and its page only, so that this
file works in any state of the code. Digests are of files and of the columns, arrays and leaves in them: a column with
another name is changes apart from one with other values.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page, expect, sync_playwright
from skimage import data
from sklearn.datasets import load_sample_images

TREE = Path(__file__).resolve().parent.parent
RUN_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
CHROMIUM = os.environ.get("ATLAS_CHROMIUM", "/usr/bin/chromium")
DESKTOP, TALL, PHONE = ({"width": width, "height": height} for width, height in ((1440, 900), (1440, 1800), (360, 740)))
# Those that lie inside scikit-image, but for the cat: it is the picture that the run has not seen.
PHOTOS = "astronaut camera coffee coins colorwheel hubble_deep_field immunohistochemistry moon page retina rocket text"
CUTS = {"whole": (0, 0, 1, 1), "left": (0, 0, 0.6, 1), "right": (0.4, 0, 1, 1), "middle": (0.2, 0.2, 0.8, 0.8)}
PLACE = Path(tempfile.gettempdir()) / "same-run-photos"  # the same for all runs, as they note it
LAYER, OTHER_LAYER, UNIT_LAYER = "_blocks.10", "_blocks.14@lite1", "_blocks.4"
RUN_CONFIGURATION = f"""
network: {{name: efficientnet_lite0}}
compare: {{lite1: {{name: efficientnet_lite1}}}}
layers: [_blocks.2, {UNIT_LAYER}, {LAYER}, "{OTHER_LAYER}"]
images: {{source: {PLACE}, crops: 8}}
collect: {{batch: 16, precision: float32, rows_per_shard: 256}}
layout: {{deterministic: true, neighbors: 10, class_atlas: espresso, class_pair: [espresso, daisy],
         class_layers: [{LAYER}], class_grids: [4]}}
cells: {{grids: [5, 10], min_count: 4, exemplars: 3, diverse_exemplars: 2}}
render: {{size: 48, steps: 16, batch: 16, precision: float32}}
neurons: {{layers: [_blocks.2, {UNIT_LAYER}], pictures: 2, patches: 4, sources: 6}}
publish: {{opens: {LAYER}}}
cluster: {{workers: 1}}
"""
# Facts that the clock and the machine decide; what a marker says of its files, whose own digests are compared.
LEFT_OUT = re.compile(r"(^|\.)(created|seconds|\w+_per_second|\w*peak_mb)$|^files\..*\.(bytes|sha256)$")
NEGLIGIBLE = ", but in nothing that counts"
NEGLIGIBLE_STEPS = 4  # of 255: by so much, scaled pictures differ between two screenshots of one page
MOST_LINES = 15  # lines of one kind of difference


def make_run(folder: Path) -> int:
    """Fill ``folder``, which must not exist. Commands run in it, so that its own path is in nothing that they write."""
    folder.mkdir(parents=True)
    write_photos(folder / "cat.png")
    (folder / "small.yaml").write_text(RUN_CONFIGURATION)
    atlas(folder, "run small.yaml --set out=run")
    (folder / "check.txt").write_text(atlas(folder, "check run"))
    atlas(folder, f"explain run cat.png --out explained --layer {LAYER} --groups 3 --steps 8 --without-each")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    digests = {str(path.relative_to(folder)): [short_digest(path.read_bytes()), parts_of_file(path)] for path in files}
    (folder / "digests.json").write_text(json.dumps(digests, indent=1))
    with served_run(folder) as address, sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        photograph(playwright.chromium.launch(executable_path=CHROMIUM, args=options), address, folder)
    return 0


def write_photos(unseen: Path) -> None:
    """Cuts of photos, in folders that are their classes; and the one that the run does not see."""
    samples = load_sample_images()
    photos = {name: getattr(data, name)() for name in PHOTOS.split()}
    for name, pixels in {**photos, **dict(zip(samples.filenames, samples.images))}.items():
        photo = Image.fromarray(np.asarray(pixels)).convert("RGB")
        photo.thumbnail((480, 480))
        for cut, box in CUTS.items():
            (PLACE / cut).mkdir(parents=True, exist_ok=True)
            left, top, right, bottom = (int(share * side) for share, side in zip(box, 2 * photo.size))
            photo.crop((left, top, right, bottom)).save(PLACE / cut / f"{Path(name).stem}.png")
    Image.fromarray(data.chelsea()).save(unseen)


def atlas(folder: Path, command: str) -> str:
    """What a command of the package says."""
    print(f"atlas.{command}", flush=True)
    arguments = [sys.executable, "-m", *f"atlas.{command}".split()]
    process = subprocess.run(arguments, cwd=folder, env=RUN_ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        sys.exit(f"It ended with {process.returncode}.\n{process.stdout}")
    return process.stdout


@contextmanager
def served_run(folder: Path) -> Iterator[str]:
    """The address of the run's page."""
    arguments = [sys.executable, "-m", "atlas.serve", "run", "--port", "0"]
    with subprocess.Popen(arguments, cwd=folder, env=RUN_ENVIRONMENT, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.findall(r"http://\S+", server.stdout.readline() if server.stdout else "")[0]
        finally:
            server.terminate()


def short_digest(content: Any) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else repr(content).encode()).hexdigest()[:16]


def parts_of_file(path: Path) -> dict[str, str]:
    """What lies in a file, by name: type and digest of a column or an array, a leaf of JSON; {} where it is opaque."""
    facts: dict[str, str] = {}
    if path.suffix == ".parquet":
        table = pq.read_table(path).combine_chunks()
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        facts = {"number of rows": str(len(table)), **leaves(metadata, "metadata")}
        for field, column in zip(table.schema, table.columns):
            facts |= columns(field.name, column.chunk(0) if column.num_chunks else pa.array([], column.type))
            facts[field.name] += "" if field.nullable else " not null"
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            facts = {
                name: f"{entry.dtype} {entry.shape} {short_digest(entry.tobytes())}" for name, entry in arrays.items()
            }
    elif path.suffix == ".json":
        facts = leaves(json.loads(path.read_text()), "")
    return {name: text for name, text in facts.items() if not LEFT_OUT.search(name)}


def columns(name: str, column: Any) -> dict[str, str]:
    """A column's digest; of a nested one a digest for each field, so that names of fields are in no digest."""
    kind = column.type
    if pa.types.is_struct(kind):
        facts = {name: f"struct {short_digest(column.is_null().to_pylist())}"}
        for field, values in zip(kind, column.flatten()):
            facts |= columns(f"{name}.{field.name}", values)
        return facts
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = [None if entry is None else len(entry) for entry in column.to_pylist()]
        return {name: f"list {short_digest(lengths)}", **columns(f"{name}[]", column.flatten())}
    return {name: f"{kind} {short_digest(column.to_pylist())}"}


def leaves(value: Any, name: str) -> dict[str, str]:
    """The leaves of JSON by their paths; a list of objects is taken as a table, column by column."""
    if isinstance(value, dict) and value:
        return {
            key: text for entry in value for key, text in leaves(value[entry], f"{name}.{entry}".lstrip(".")).items()
        }
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        facts = {f"{name}[]": f"{len(value)} objects"}
        for key in sorted({key for entry in value for key in entry}):
            inner = [entry.get(key) for entry in value]
            if all(isinstance(entry, list) and all(isinstance(one, dict) for one in entry) for entry in inner):
                facts[f"{name}[].{key}"] = f"lists {short_digest([len(entry) for entry in inner])}"
                inner = [one for entry in inner for one in entry]
            facts |= leaves(inner, f"{name}[].{key}")
        return facts
    text = json.dumps(value, sort_keys=True)
    return {name: text if len(text) <= 80 else f"{len(text)} characters {short_digest(text)}"}


def photograph(browser: Browser, address: str, folder: Path) -> None:
    """All views of the page, into screens/: each on a page of its own, opened by a link, then a picture for each thing
    that is done there: the name of a button, of a key or of a layer, or a function."""

    def view(name: str, link: str = "", *acts: Any, **options: Any) -> None:
        print(f"screen {name}", flush=True)
        with browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options}) as context:
            page = context.new_page()
            page.set_default_timeout(300_000)
            page.goto(address + link)
            settle(page, folder / "screens" / f"{name}.png")
            for number, act in enumerate(acts, 2):
                if callable(act):
                    act(page)
                elif act.startswith("key "):
                    page.keyboard.press(act.removeprefix("key "))
                elif act.startswith("layer "):
                    page.get_by_role("button", name="choose another").click()
                    page.get_by_role("menuitemradio", name=act.removeprefix("layer ")).first.click()
                else:
                    page.get_by_role("button", name=act, exact=True).first.click()
                settle(page, folder / "screens" / f"{name}-{number}.png")

    def give(page: Page) -> None:
        page.get_by_role("button", name="One image").click()
        page.set_input_files("input[type=file]", folder / "cat.png")
        expect(page.get_by_role("button", name="Step by step")).to_be_visible()

    (folder / "screens").mkdir()
    view("map", "", "View", "key Escape", "key ?")
    view("map-dark", color_scheme="dark")
    view("map-phone", "", open_cell, viewport=PHONE)
    view("cell", f"#layer={LAYER}&patches=0.5", open_cell)
    view("heat", f"#layer={LAYER}&class=espresso&class=daisy&side=both")
    view("two-maps", f"#layer={LAYER}&with={OTHER_LAYER}")
    view("class-maps", "", f"layer {LAYER}: espresso", f"layer {LAYER}: espresso → daisy")
    view("neurons", f"#neurons={UNIT_LAYER}", "most pose-invariant")
    view("neuron", f"#unit={UNIT_LAYER}:7", "Show on the map", viewport=TALL)
    view("circuit", f"#unit={UNIT_LAYER}:7&show=circuit")
    view("tour", "#tour=1", *["key ArrowRight"] * 6)
    view("image", "", give, "icons", "class effect", "Find groups", viewport=TALL)
    view("steps", "", give, "Step by step")


def settle(page: Page, path: Path) -> None:
    """Wait until nothing is at work and three screenshots in a row are the same; write the last one."""
    page.wait_for_load_state("networkidle")
    page.evaluate("document.fonts.ready")
    shots: list[bytes] = []
    for _ in range(120):
        for busy in (page.get_by_role("progressbar"), page.get_by_text("drawing …")):
            expect(busy).to_have_count(0, timeout=300_000)
        shots = [*shots[-2:], page.screenshot(animations="disabled")]
        if len(shots) == 3 and len(set(shots)) == 1:
            path.write_bytes(shots[-1])
            return
        page.wait_for_timeout(700)
    sys.exit(f"The page does not come to rest: {path.name}")


def open_cell(page: Page) -> None:
    """Click beside the middle of the map, further and further from it, until a cell opens."""
    width, height = page.evaluate("[innerWidth, innerHeight]")
    step = min(width, height) / 20
    for x, y in sorted(np.ndindex(13, 13), key=lambda at: abs(at[0] - 6.2) + abs(at[1] - 6.4)):
        page.mouse.click(width / 2 + (x - 6) * step, height / 2 + (y - 6) * step)
        page.wait_for_timeout(300)
        if page.get_by_role("heading", name=re.compile(r"Row \d+, column \d+")).count():
            page.mouse.move(1, 1)
            return
    sys.exit("There is no cell to be opened.")


def compare_runs(old: Path, new: Path) -> int:
    """Print what differs. 0 where nothing does."""
    before, after = (json.loads((folder / "digests.json").read_text()) for folder in (old, new))
    facts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    whole = [{name: bytes_and_parts[0] for name, bytes_and_parts in entry.items()} for entry in (before, after)]
    for kind, name, _ in differences(*whole):
        changes = list(differences(before[name][1], after[name][1])) if kind == "differ" else []
        for what, part, values in changes:
            facts[f"parts {what}"][part].append(f"{name} {values}")
        if not changes:
            equal = kind == "differ" and before[name][1]
            facts[f"files {kind}{NEGLIGIBLE if equal else ''}"][name] = [""]
    screens = [
        {path.name: short_digest(path.read_bytes()) for path in (entry / "screens").iterdir()} for entry in (old, new)
    ]
    for kind, name, _ in differences(*screens):
        most, pixels = unequal(old, new, name) if kind == "differ" else (255, "")
        facts[f"screens {kind}{NEGLIGIBLE if most <= NEGLIGIBLE_STEPS else ''}"][name] = [pixels]
    for kind, places in facts.items():
        print(f"{len(places)} {kind}")
        for name, where in list(places.items())[:MOST_LINES]:
            print(f"    {name}  {where[0]}" + (f" and {len(where) - 1} more" if len(where) > 1 else ""))
        if len(places) > MOST_LINES:
            print("    …")
    print(f"{len(before.keys() & after.keys())} files, {len(screens[0].keys() & screens[1].keys())} screens compared")
    return int(any(NEGLIGIBLE not in kind for kind in facts))


def differences(before: dict[str, str], after: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Of values by name: what kind of difference, the name, the values. What has only another name is paired."""
    gone, come = ([name for name in one if name not in other] for one, other in ((before, after), (after, before)))
    for name in gone:
        other = next((other for other in come if after[other] == before[name]), None)
        if other is not None:
            come.remove(other)
        yield ("only in the old run", name, "") if other is None else ("of another name", f"{name} → {other}", "")
    yield from (("only in the new run", name, "") for name in come)
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield "differ", name, f"({before[name]} → {after[name]})"


def unequal(old: Path, new: Path, name: str) -> tuple[int, str]:
    """The largest difference between two screenshots, 0 to 255; how many pixels differ, by how much, and where."""
    pictures = [Image.open(folder / "screens" / name).convert("RGB") for folder in (old, new)]
    apart = np.asarray(ImageChops.difference(*pictures)).max(2)
    share, box = f"{(apart > 0).sum():,} pixels ({(apart > 0).mean():.3%})", Image.fromarray(apart).getbbox()
    return int(apart.max()), f"{share} differ, by at most {apart.max()} of 255, within {box}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "compare"])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if len(options.folders) != (1 if options.command == "make" else 2):
        parser.error("expected make FOLDER or compare OLD NEW")
    return make_run(options.folders[0].absolute()) if options.command == "make" else compare_runs(*options.folders)


if __name__ == "__main__":
    sys.exit(main())
