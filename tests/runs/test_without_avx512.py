"""What may depend on the processor, on one without AVX-512: tests, and a whole run in bfloat16, in processes that are
told to leave it out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from looked_run import NEURONS
from tiny_run import CHECKOUT, command, environment

from atlas.check.verify import verify
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import read_metadata

WITHOUT_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def python(*arguments: str, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    variables = {**environment(), **WITHOUT_AVX512}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=500
    )


def test_bfloat16_does_not_pay_there() -> None:
    code = """
import torch
from atlas.networks.precision import bfloat16_pays
from atlas.networks.program.fused import convolves_in
print(convolves_in(torch.float32), convolves_in(torch.bfloat16), bfloat16_pays(torch.device("cpu")))
"""
    process = python("-c", code)
    assert process.stdout.split() == ["True", "False", "False"], process.stderr


def test_networks_are_recorded_and_read_there() -> None:
    modules = ("tests/unit/visualize/test_subnetwork.py", "tests/unit/networks/test_observer.py")
    process = python("-m", "pytest", "-p", "no:cacheprovider", *modules)
    assert process.returncode == 0, process.stdout + process.stderr
    assert " passed" in process.stdout
    assert "skipped" not in process.stdout


def test_a_run_in_bfloat16_is_whole_there(workshop: Path, undisturbed: RunDirectory) -> None:
    directory = RunDirectory(workshop / "runs" / "without-avx512")
    changes = (
        f"out={directory.path}", "collect.precision=bfloat16", "render.precision=bfloat16",
        f"neurons={json.dumps(NEURONS)}"
    )  # fmt: skip
    arguments = [word for change in changes for word in ("--set", change)]
    process = python(*command("tiny.yaml", *arguments)[1:], folder=workshop)
    assert process.returncode == 0, process.stderr + process.stdout
    assert "Traceback" not in process.stderr
    assert verify(directory).problems == []
    stages = directory.read_manifest()["stages"]
    assert stages["collect"]["batch_settings"]["precision"] == "bfloat16"
    for stage in ("render", "neurons"):
        assert {settings["precision"] for settings in stages[stage]["batch_settings"].values()} == {"bfloat16"}
    for layer in ("middle", "last"):
        shards = directory.shards(layer)
        assert read_metadata(shards[0])["precision"] == "bfloat16"
        rows, expected = (
            np.stack(pq.read_table(run_directory.shards(layer))["activation"].to_numpy()).astype(float)
            for run_directory in (directory, undisturbed)
        )
        assert rows.shape == expected.shape
        assert not np.array_equal(rows, expected)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((rows * expected).sum(1) > 0.999 * lengths)[lengths > 0].all()
