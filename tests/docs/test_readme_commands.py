"""Every command of the README is run: by a test that takes it from there, or by a test or script named here.

scripts/demo, whole runs of the demo and of a million views, and the installation take too long for a test: tests run
their parts, and give them wrong input; whoever changes them runs them by hand.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
from dask.config import collect_env
from readme_commands import CHECKOUT, commands, the_command
from tiny_run import environment

from atlas.config.reading import load_config
from atlas.rundir.directory import RunDirectory

# The start of a command → a file that runs it, and the words by which it does.
RUN_BY = {
    "scripts/demo": ("tests/test_scripts.py", '"scripts/demo"'),
    "scripts/test": (".ci/run", "scripts/test"),
    "pip install": ("scripts/environment.sh", '-m pip install -q --disable-pip-version-check -e ".[$extras]"'),
    "python -m atlas.run demo --set images.source": ("tests/test_wheel.py", 'f"images.source={workshop / '),
    "python -m atlas.run my.yaml": ("tests/tiny_run.py", '[sys.executable, "-m", "atlas.run", *arguments]'),
    "python -m atlas.serve runs/": ("scripts/demo", 'python -m atlas.serve "$run"'),
    "python -m atlas.explain": ("tests/test_readme.py", "python -m atlas.explain"),
    "dask scheduler": ("tests/test_cluster_machines.py", '"scheduler", "scheduler", "--host"'),
    "OMP_NUM_THREADS=1 dask worker": ("tests/test_cluster_machines.py", '"--nthreads", "1", "--memory-limit", "0"'),
    "embedding-atlas": ("tests/test_readme.py", '"sh")'),
    "scripts/bench.py render": ("tests/test_bench.py", '"render"'),
    "scripts/picture.py": ("tests/test_scripts.py", '"scripts/picture.py"'),
    "python scripts/stamp_shards.py": ("tests/test_scripts.py", '"scripts/stamp_shards.py"'),
    "python -m atlas.run million": ("scripts/scaling.py", 'CROPS = "million", 25'),
    "scripts/scaling.py": ("tests/test_scaling.py", "scaling.main()"),
    "scripts/neurons.py": ("tests/test_scripts.py", 'import_module("neurons")'),
}  # fmt: skip


def test_every_command_is_run_somewhere() -> None:
    told = commands()
    assert len(told) > 20
    here = set[str]()
    for path in (CHECKOUT / "tests").glob("test_*.py"):
        here |= set(re.findall(r'the_command\("(.+?)"\)', path.read_text(encoding="utf-8")))
    for command in told:
        assert any(command.startswith(start) for start in {*here, *RUN_BY}), f"nothing runs: {command}"
    for start, (file, words) in RUN_BY.items():
        assert any(command.startswith(start) for command in told), f"the README does not have: {start}"
        assert words in (CHECKOUT / file).read_text(encoding="utf-8"), f"{file} does not run: {start}"


def test_every_extra_that_is_named_can_be_installed() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r'"\.\[(\w+)\]"', readme))
    extras = set(project["optional-dependencies"])
    assert extras - {"bench", "dev"} <= named
    assert named <= extras


def test_the_scheduler_started_by_hand_bears_lost_workers() -> None:
    """The two variables are those that the project's own clusters set."""
    told = dict(word.split("=") for word in the_command("export DASK")[1:])
    given = collect_env(told)["distributed"]["scheduler"]
    assert {name.replace("_", "-"): value for name, value in given.items()} == {
        "allowed-failures": 10,
        "worker-ttl": None,
    }


@pytest.fixture
def demo(undisturbed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A folder that has a finished run as runs/demo."""
    shutil.copytree(undisturbed.path, tmp_path / "runs/demo")
    return RunDirectory(tmp_path / "runs/demo")


def test_a_run_is_checked(demo: RunDirectory, tmp_path: Path) -> None:
    words = the_command("python -m atlas.check")
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    demo.report.unlink()
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode != 0
    assert "report.json" in done.stdout


def test_several_runs_are_served(demo: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(demo.path, tmp_path / "runs/other")
    (tmp_path / "runs/begun").mkdir()
    words = the_command("python -m atlas.serve runs/*")
    line = shlex.join([sys.executable, *words[1:-1]]) + f" {words[-1]} --port 0"  # the shell finds the runs
    with subprocess.Popen(
        line,
        shell=True,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdout
            assert re.match(r"Left out: The run runs/begun has no site yet; .* finishes it", server.stdout.readline())
            address = next(found[0] for line in server.stdout if (found := re.findall(r"http://\S+", line)))
            with urllib.request.urlopen(address, timeout=30) as answer:
                page = answer.read().decode()
            assert "demo" in page
            assert "other" in page
            assert "begun" not in page
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def test_a_pair_of_classes_is_asked_for_as_the_readme_says() -> None:
    """tests/test_maps.py makes such maps."""
    words = the_command("python -m atlas.run demo --set 'layout.class_pair")
    assert words[:4] == ["python", "-m", "atlas.run", "demo"]
    config = load_config("demo", [words[5]])
    assert config.layout.class_pair == (("lemon", "strawberry"),)


def test_the_demo_is_changed_as_the_documents_say() -> None:
    """What benchmarks.md measures by another demo is accepted."""
    text = (CHECKOUT / "scripts/benchmarks.md").read_text(encoding="utf-8")
    found = re.findall(r"`(python -m atlas\.run demo [^`]+)`", text)
    assert found
    for line in found:
        words = shlex.split(line)[4:]
        assert words[::2] == ["--set"] * (len(words) // 2)
        config = load_config("demo", words[1::2])
        assert config.layers == ("_blocks.13",)
