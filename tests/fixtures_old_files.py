"""Fixtures for the tests of old files: those of tests/material/before_0_1, unpacked."""

from __future__ import annotations

import functools
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MATERIAL = Path(__file__).resolve().parent / "material" / "before_0_1"


def unpack(name: str, folder: Path) -> Path:
    """Unpack `<name>.tar.xz` into a new folder; return it."""
    with tarfile.open(MATERIAL / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def unpack_old() -> Callable[[str, Path], Path]:
    """`unpack_old("head_interrupted", folder)`: an old run folder that may be written to."""
    return unpack


@pytest.fixture(scope="session")
def old_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """`old_folder("head_finished")`, each unpacked once. Do not write into it."""
    folder = tmp_path_factory.mktemp("old")
    yield functools.cache(lambda name: unpack(name, folder / name))
    shutil.rmtree(folder)  # of the size of networks
