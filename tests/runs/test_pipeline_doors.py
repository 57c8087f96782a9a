"""What lies beside a user's configuration: folders and files that are named as ours are; and networks that fail."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from checkout import CHECKOUT
from console_script import write_console_script
from distributed import LocalCluster
from tiny_run import TINY, end_all, environment, paint_pictures, tiny_values

MODULE = [sys.executable, "-m", "atlas.run"]
WRONG = "raise RuntimeError('the wrong module was imported')\n"


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A user's folder, with six pictures, her network and her configuration."""
    folder = tmp_path / "beside"
    folder.mkdir()
    paint_pictures(folder / "pictures", 6)
    (folder / "tiny.py").write_text(TINY)
    values = tiny_values(folder)
    values["images"]["crops"] = 2
    values["collect"]["attributions"] = False
    values["cluster"]["workers"] = 1
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return folder


def clutter(folder: Path, *names: str) -> None:
    """Files that must not be taken for ours: modules that cannot be imported, and pictures of a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(WRONG if path.suffix == ".py" else "no module")


def ask(words: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in a user's folder; ``variables`` of its environment."""
    return subprocess.run(
        words, cwd=folder, env={**environment(), **variables}, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("names", "script"),
    [
        (["pipelines/__init__.py", "atlas/photo.jpg"], False),
        (["pipelines/__init__.py", "atlas/__init__.py"], True),
    ],
)
def test_workers_find_their_modules_whatever_lies_beside_the_configuration(
    names: list[str], script: bool, beside: Path, tmp_path: Path
) -> None:
    """In the process of the command and in those of its workers, also where PYTHONPATH names the folder; and the user's
    own network is that of her folder, though another of its name is installed."""
    clutter(beside, *names)
    clutter(tmp_path, "installed/tiny.py")
    words = [str(write_console_script(tmp_path)), "run"] if script else MODULE
    paths = os.pathsep.join([".", str(CHECKOUT), str(tmp_path / "installed")][script:])
    process = ask([*words, "tiny.yaml", "--until", "collect"], beside, PYTHONPATH=paths)
    assert process.returncode == 0, process.stderr
    assert "Done until collect" in process.stdout


@pytest.mark.parametrize(
    ("names", "script"),
    [
        (["pipelines/notes.txt", "atlas/photo.jpg"], False),
        (["atlas.py", "pipelines.py"], True),
    ],
)
def test_the_command_finds_its_modules(names: list[str], script: bool, beside: Path, tmp_path: Path) -> None:
    clutter(beside, *names)
    words = [str(write_console_script(tmp_path)), "run"] if script else MODULE
    process = ask([*words, "tiny.yaml", "--dry-run"], beside)
    assert process.returncode == 0, process.stderr
    assert "Nothing was run (--dry-run)." in process.stdout


@contextmanager
def worker_started_by_hand(folder: Path) -> Iterator[str]:
    """The address of a scheduler with a worker that ``dask worker`` started in ``folder``."""
    with LocalCluster(n_workers=0, dashboard_address=None, protocol="tcp://") as cluster:
        address = cluster.scheduler_address
        words = [str(Path(sys.executable).parent / "dask"), "worker", address, "--nthreads", "1", "--memory-limit", "0"]
        process = subprocess.Popen(
            [*words, "--no-dashboard"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        try:
            while not cluster.scheduler.workers:
                assert process.poll() is None
                time.sleep(0.05)
            yield address
        finally:
            end_all(process)


def test_a_worker_started_by_hand_beside_the_configuration(beside: Path) -> None:
    clutter(beside, "pipelines/__init__.py", "atlas/photo.jpg")
    with worker_started_by_hand(beside) as address:
        process = ask(
            [
                *MODULE,
                "tiny.yaml",
                "--until",
                "collect",
                "--set",
                "cluster={kind: address, address: ADDRESS}".replace("ADDRESS", address),
            ],
            beside,
        )
    assert process.returncode == 0, process.stderr
    assert "Done until collect" in process.stdout


# Before forward() of a network: fails in the processes of workers.
FAILS = """
    def forward(self, x):
        if multiprocessing.parent_process() is not None:
            raise KeyError("seven")
"""


def test_a_network_that_fails_on_a_worker_is_a_sentence_and_a_file(beside: Path, tmp_path: Path) -> None:
    class_, _, rest = TINY.rpartition("\n    def forward(self, x):\n")
    (beside / "tiny.py").write_text(f"import multiprocessing\n{class_}{FAILS}{rest}")
    process = ask([*MODULE, "tiny.yaml", "--until", "collect"], beside, TMPDIR=str(tmp_path))
    assert process.returncode == 4
    assert "Something unforeseen went wrong in " in process.stderr
    assert "(KeyError: 'seven')" in process.stderr
    assert "Traceback" not in process.stderr
    (log,) = tmp_path.glob("atlas-*.traceback.txt")
    assert f"The full traceback is in {log}" in process.stderr
    assert 'raise KeyError("seven")' in log.read_text()
