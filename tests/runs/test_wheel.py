"""The wheel: what is in it and what is not, and that a run and its page work from it alone."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from console_script import write_console_script
from tiny_run import CHECKOUT, tiny_values

import atlas

LARGEST = 3_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout in the present environment."""
    folder = tmp_path_factory.mktemp("wheel")
    process = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, beside what it depends on, and no checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # A folder named in a .pth file is searched, but its own .pth files, where the checkout stands, are not read.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin/python"


def test_the_wheel_holds_the_packages_the_page_and_the_configurations_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata_file = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(metadata_file).decode()
        entries = archive.read(metadata_file.replace("METADATA", "entry_points.txt")).decode()
        licenses = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    modules = {
        path.relative_to(CHECKOUT).as_posix()
        for package in ("atlas", "pipelines")
        for path in (CHECKOUT / package).rglob("*.py")
        if "node_modules" not in path.parts
    }
    page = {
        path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "atlas/viewer/dist").rglob("*") if path.is_file()
    }
    configs = {f"atlas/configs/{path.name}" for path in (CHECKOUT / "configs").glob("*.yaml")}
    assert {"atlas/run.py", "pipelines/pipeline.py"} <= modules
    assert "atlas/viewer/dist/index.html" in page
    assert {"atlas/configs/demo.yaml", "atlas/configs/million.yaml"} <= configs
    assert names == modules | page | configs | {"atlas/py.typed", "atlas/architecture.md"}
    assert f"Version: {atlas.__version__}\n" in metadata
    assert entries.split("\n")[:2] == ["[console_scripts]", "atlas = atlas.cli:main"]
    assert len(licenses) == 1


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= LARGEST


def test_a_run_and_its_page_work_from_the_wheel_alone(installed: Path, workshop: Path, tmp_path: Path) -> None:
    def python(*arguments: str) -> str:
        process = subprocess.run(
            [str(installed), *arguments],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr + process.stdout
        return process.stdout

    where = Path(python("-c", "import atlas; print(atlas.__file__)").strip())
    assert where.is_relative_to(installed.parents[1]), "not the checkout's"
    process = python("-m", "atlas.run", "demo", "--dry-run", "--set", f"images.source={workshop / 'pictures'}")
    assert "_blocks.10: 112 channels" in process
    assert "Nothing was run (--dry-run)." in process

    script = write_console_script(tmp_path, str(installed))
    assert python(str(script), "--version") == f"activation-atlas {atlas.__version__}\n"

    values = tiny_values(workshop)
    values["images"] |= {"crops": 4, "limit": 12}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "tiny.py").write_text((workshop / "tiny.py").read_text())
    python("-m", "atlas.run", "tiny.yaml")
    site = tmp_path / "runs/tiny/site"
    dist = CHECKOUT / "atlas/viewer/dist"
    assert (site / "index.html").read_bytes() == (dist / "index.html").read_bytes()
    answered = python(
        "-c",
        "from starlette.testclient import TestClient\n"
        "from atlas.serve.app import create_app\n"
        "from pathlib import Path\n"
        "client = TestClient(create_app([Path('runs/tiny')]), base_url='http://127.0.0.1')\n"
        "print(client.get('/').status_code, client.get('/atlas.json').json()['title'])",
    )
    assert answered.split() == ["200", "tiny"]
