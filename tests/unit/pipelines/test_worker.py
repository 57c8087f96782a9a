"""What a worker caches: by what a thing depends on, not by its name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atlas.errors import AtlasError
from atlas.networks.network import describe_layer, load
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from pipelines import worker


@pytest.fixture(autouse=True)
def forgotten() -> None:
    for cached in (worker._network, worker._layers, worker._observer, worker._observer_of, worker._listing):
        cached.cache_clear()


def test_a_network_is_loaded_once_and_computes_with_the_runs_threads(made_run: RunDirectory) -> None:
    config = made_run.config()
    threads = torch.get_num_threads()
    own = config.networks()[""]
    try:
        network = worker.network(made_run, own, threads=2)
        assert torch.get_num_threads() == 2
        assert worker.network(made_run, own, threads=1) is network
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert network.name == "small_network:factory"
    assert len(network.folded) == 9


def test_layers_are_those_of_the_network_by_their_names_in_the_run(made_run: RunDirectory) -> None:
    network = load("small_network:factory", size=32)
    expected = {layer: describe_layer(network, layer) for layer in ("residual", "branches")}
    assert worker.layers(made_run, made_run.config().networks()[""]) == expected


def test_readers_share_the_network_and_keep_their_precision(made_run: RunDirectory) -> None:
    config = made_run.config()
    networks = config.networks()
    own = networks[""]
    (reader,) = worker.readers(made_run, networks.values(), "float32", threads=1)
    assert reader.observer.network is worker.network(made_run, own, threads=1)
    assert list(reader.layers) == ["residual", "branches"]
    assert worker.readers(made_run, networks.values(), "float32", threads=1)[0].observer is reader.observer
    assert worker.readers(made_run, networks.values(), "bfloat16", threads=1)[0].observer is not reader.observer
    single = worker.observer(made_run, own, "branches")
    assert single is worker.observer(made_run, own, "branches")
    assert single is not worker.observer(made_run, own, "residual")


def test_other_weights_than_the_runs_are_refused(made_copy: RunDirectory) -> None:
    facts = made_copy.read_manifest()["network"]
    made_copy.update_manifest(network={**facts, "sha256": "0" * 64})
    with pytest.raises(AtlasError, match="network: a worker loads other weights for small_network:factory than this"):
        worker.network(made_copy, made_copy.config().networks()[""], threads=1)


def test_a_listing_that_was_written_anew_is_read_anew(made_copy: RunDirectory) -> None:
    """A standing worker outlives a run, whose folder may get another listing."""
    first = worker.listing(made_copy)
    assert worker.listing(made_copy) is first
    table = first.table.slice(0, 3)
    Listing(table, source=first.source, label_names=first.label_names, kind=first.kind).save(Path(made_copy.listing))
    os.utime(made_copy.listing, ns=(1, 1))
    assert len(worker.listing(made_copy)) == 3


_WORK = """
import sys
import numpy as np
from atlas.networks.network import load
from atlas.networks.observer import Observer
from atlas.visualize import draw
network = load("efficientnet_lite0", keep=("_blocks.1",), device="cpu")
Observer(network, ("_blocks.1",)).maps(network.noise(1))
draw(network, "_blocks.1", np.ones((1, 24), np.float32), second_moment=np.eye(24), size=32, steps=2)
print([name for name in ("torch._dynamo", "torchvision", "sympy") if name in sys.modules])
"""


def test_no_process_of_a_run_imports_torchs_compiler() -> None:
    """It takes a second of every process: of the client, and of each worker."""
    outcome = subprocess.run([sys.executable, "-c", _WORK], capture_output=True, text=True, check=True)
    assert outcome.stdout.split("\n")[-2] == "[]"
