"""The built wheel, installed into an environment of its own, works from a user's own directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow  # `.ci/run` runs these
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("prebake", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources."""
    work = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, work / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(build, cwd=work, check=True)
    (built,) = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_dir(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a new environment."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    return python.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with a `train.py` and a `shards/` package of its own."""
    (tmp_path / "train.py").write_text("raise SystemExit('the project runs its own train.py')\n")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__init__.py").write_text("raise ImportError('the project imports its own shards')\n")
    return tmp_path


def run(bin_dir: Path, project: Path, *command: object) -> str:
    """Run a program of the environment in the project, with the packages of this environment; return its output."""
    words = [str(bin_dir / str(command[0])), *map(str, command[1:])]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_only_prebake_at_top_level(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"prebake"}
    assert {"prebake/py.typed", "prebake/format/FORMAT.md"} <= set(names)


def test_bake_train_verify_predict_from_a_users_directory(bin_dir: Path, project: Path) -> None:
    assert run(bin_dir, project, "prebake", "--version").startswith("prebake ")
    run(bin_dir, project, "prebake", "precompute", "--dataset", "digits", "--epochs", "1")
    run(bin_dir, project, "prebake", "train", "--shards", "shards/", "--epochs", "1", "--batch-size", "500")
    assert "all as written" in run(bin_dir, project, "prebake", "verify", "shards/digits")
    (path,) = (project / "runs").iterdir()
    Image.new("L", (8, 8)).save(project / "black.png")
    assert "black.png: " in run(bin_dir, project, "prebake", "predict", path, "black.png")


def test_a_users_strict_mypy_sees_the_types(bin_dir: Path, project: Path) -> None:
    (project / "user.py").write_text("from prebake import ShardSet\n\nreveal_type(ShardSet('x').epochs)\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(bin_dir / "python"), "user.py"]
    done = subprocess.run(mypy, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "int"' in done.stdout.replace("builtins.", "")
