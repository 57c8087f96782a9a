"""Every command of the documents is run: by a test that takes it from there, or by a test or script named here.

scripts/demo, whole runs of the demo and of a million views, and the installation take too long for a test: tests run
their parts, and give them wrong input; whoever changes them runs them by hand.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from dask.config import collect_env
from documents import CHECKOUT, as_module, commands, documents, snippet, text_of, the_command
from tiny_run import environment

import atlas
from atlas.config.reading import load_config
from atlas.rundir.directory import RunDirectory

# The start of a command → a file that runs it, and the words by which it does.
RUN_BY = {
    "scripts/demo": ("tests/scripts/test_scripts.py", '"scripts/demo"'),
    "scripts/test": (".ci/run", "scripts/test"),
    "source .venv/bin/activate": ("scripts/environment.sh", "-m venv .venv"),
    "pip install": ("scripts/environment.sh", '-m pip install -q --disable-pip-version-check -e ".[$extras]"'),
    "atlas run demo": ("tests/runs/test_wheel.py", 'f"images.source={workshop / '),
    "atlas run my.yaml": ("tests/support/tiny_run.py", '[sys.executable, "-m", "atlas.run", *arguments]'),
    "atlas run million": ("scripts/scaling.py", 'CROPS = "million", 25'),
    "atlas run imagenet": ("tests/docs/test_commands.py", "test_every_run_that_is_written_down_is_a_valid_one"),
    "atlas status runs/": ("tests/runs/test_pipeline.py", '["status", str(undisturbed.path)]'),
    "atlas serve runs/": ("tests/unit/serve/test_server.py", "serve.main([{str(run_folder)!r}"),
    "atlas explain": ("tests/docs/test_recipes.py", 'the_command("atlas explain runs/demo")'),
    "dask scheduler": ("tests/runs/test_cluster_machines.py", '"scheduler", "scheduler", "--host"'),
    "OMP_NUM_THREADS=1 dask worker": ("tests/runs/test_cluster_machines.py", '"--nthreads", "1", "--memory-limit"'),
    "embedding-atlas": ("tests/docs/test_recipes.py", '"sh")'),
    "scripts/ablate.py": ("tests/scripts/test_ablate.py", '"--count"'),
    "scripts/bench.py": ("tests/scripts/test_bench_all.py", "test_all_takes_the_commands_that_the_figures_name"),
    "scripts/picture.py": ("tests/scripts/test_scripts.py", '"scripts/picture.py"'),
    "python scripts/stamp_shards.py": ("tests/scripts/test_scripts.py", '"scripts/stamp_shards.py"'),
    "python scripts/build_viewer.py": ("scripts/test", "scripts/build_viewer.py --check"),
    "python scripts/write_reference.py": ("tests/docs/test_documents.py", "write_reference"),
    "scripts/scaling.py": ("tests/scripts/test_scaling.py", "scaling.main()"),
    "scripts/kill.py": ("tests/scripts/test_kill.py", "kill.main()"),
    "scripts/idle.py": ("tests/scripts/test_idle.py", "idle.record("),
    "scripts/neurons.py": ("tests/scripts/test_scripts.py", 'import_module("neurons")'),
}  # fmt: skip


def is_run(command: str) -> bool:
    """Whether a command is more than the name of a program, as sentences have it."""
    return bool(re.search(r" \S", command.replace("python -m ", "").replace("python ", ""))) and not re.fullmatch(
        r"(atlas|dask|wandb|mlflow|tensorboard) \w+|atlas run FILE", command
    )


def test_every_command_is_run_somewhere() -> None:
    commands_of_tests = [command for command in commands() if is_run(command)]
    assert len(commands_of_tests) > 50
    here = set[str]()
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        here |= set(re.findall(r'the_command\("(.+?)"\)', path.read_text(encoding="utf-8")))
    for command in commands_of_tests:
        assert any(command.startswith(start) for start in {*here, *RUN_BY}), f"nothing runs: {command}"
    for start, (file, words) in RUN_BY.items():
        assert any(command.startswith(start) for command in commands()), f"no document has: {start}"
        assert words in (CHECKOUT / file).read_text(encoding="utf-8"), f"{file} does not run: {start}"


def test_every_run_that_is_written_down_is_a_valid_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are known, and what it sets is accepted."""
    (tmp_path / "my.yaml").write_text(snippet("README.md", "The YAML in one screen", "yaml"))
    monkeypatch.chdir(tmp_path)
    run_commands = [command for command in commands() if re.match(r"atlas run (?!FILE)\S", command)]
    assert len(run_commands) > 8
    for command in run_commands:
        words = shlex.split(command)[2:]
        name, rest = words[0], words[1:]
        overrides = [rest[place + 1] for place, word in enumerate(rest) if word == "--set"]
        others = {word for word in rest if word.startswith("--")}
        assert others <= {"--set", "--dry-run", "--until", "--serve"}, command
        assert load_config(name, overrides).layers, command


def test_a_layer_near_the_end_is_drawn_as_the_measurements_say() -> None:
    (command,) = (command for command in commands() if "_blocks.13" in command)
    words = shlex.split(command)[3:]
    assert words[::2] == ["--set"] * (len(words) // 2)
    assert load_config("demo", words[1::2]).layers == ("_blocks.13",)


def test_every_extra_that_is_named_can_be_installed() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    everything = "\n".join(path.read_text(encoding="utf-8") for path in documents())
    extras_in_documents = {extra for some in re.findall(r'"\.\[([\w,]+)\]"', everything) for extra in some.split(",")}
    extras = set(project["optional-dependencies"])
    assert extras_in_documents == extras
    text = text_of("atlas/docs/install.md")
    assert all(f'".[{extra}]"' in text for extra in extras), "install.md lists them all"


def test_the_scheduler_started_by_hand_bears_lost_workers() -> None:
    """The two variables are those that the project's own clusters set."""
    variables = dict(word.split("=") for word in the_command("export DASK")[1:])
    settings = collect_env(variables)["distributed"]["scheduler"]
    assert {name.replace("_", "-"): value for name, value in settings.items()} == {
        "allowed-failures": 10,
        "worker-ttl": None,
    }


def test_the_console_script_says_its_version_and_leads_to_the_modules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from atlas.cli import main

    with suppress(SystemExit):
        main(the_command("atlas --version")[1:])
    assert atlas.__version__ in capsys.readouterr().out
    assert main(["check", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.fixture
def demo(undisturbed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A folder that has a finished run as runs/demo."""
    shutil.copytree(undisturbed.path, tmp_path / "runs/demo")
    return RunDirectory(tmp_path / "runs/demo")


def test_a_run_is_checked(demo: RunDirectory, tmp_path: Path) -> None:
    words = as_module(the_command("atlas check runs/demo"))
    process = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr + process.stdout
    demo.report.unlink()
    process = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert process.returncode != 0
    assert "report.json" in process.stdout


def test_several_runs_are_served(demo: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(demo.path, tmp_path / "runs/other")
    (tmp_path / "runs/begun").mkdir()
    (tmp_path / "runs/begun/run.json").write_text("{}")
    words = as_module(the_command("atlas serve runs/*"))
    line = shlex.join(words[:-1]) + f" {words[-1]} --port 0"  # the shell finds the runs
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
            assert re.match(r"Left out: The run runs/begun has no site yet; .* makes it", server.stdout.readline())
            address = next(addresses[0] for line in server.stdout if (addresses := re.findall(r"http://\S+", line)))
            with urllib.request.urlopen(address, timeout=30) as answer:
                page = answer.read().decode()
            assert "demo" in page
            assert "other" in page
            assert "begun" not in page
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def test_a_pair_of_classes_is_asked_for_as_the_guide_says() -> None:
    """The tests of maps make such maps."""
    words = the_command("atlas run demo --set 'layout.class_pair")
    config = load_config("demo", [words[4]])
    assert config.layout.class_pair == (("lemon", "strawberry"),)
