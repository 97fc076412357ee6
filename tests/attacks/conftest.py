"""The set that all attacks start from."""

import shutil
from pathlib import Path

import pytest

from tests.attacks.hostile import bake


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set that is as it should be; read only."""
    return bake(tmp_path_factory.mktemp("whole") / "set")


@pytest.fixture
def victim(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "set"))
