"""The drawn validation split: what stays where it was when a data set changes a little."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from resnetkit.data.dataset import Dataset, read_dataset


def write_classes(folder: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        for number in range(size):
            path = folder / name / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def list_files(dataset: Dataset, split: str, class_name: str | None = None) -> list[str]:
    samples = getattr(dataset, split)
    return [
        sample.path.relative_to(dataset.source).as_posix()
        for sample in samples
        if class_name in (None, dataset.classes[sample.label])
    ]


def read(folder: Path, split_rule: int = 2, seed: int = 0) -> Dataset:
    return read_dataset(folder, 0.2, seed, split_rule)


@pytest.mark.parametrize("name", ["000a.jpg", "020a.jpg", "zzz.jpg", "more/1.jpg"])
@pytest.mark.parametrize("seed", range(5))
def test_one_image_more_moves_none_into_validation(tmp_path: Path, name: str, seed: int) -> None:
    write_classes(tmp_path, a=40, b=40)
    before = set(list_files(read(tmp_path, seed=seed), "val"))
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).touch()
    after = set(list_files(read(tmp_path, seed=seed), "val"))
    added = after - before
    assert added <= {f"a/{name}"}
    assert before - after == set() if not added else len(before - after) == 1


@pytest.mark.parametrize("seed", range(5))
def test_one_image_less_moves_one_at_most(tmp_path: Path, seed: int) -> None:
    write_classes(tmp_path, a=40, b=40)
    before = set(list_files(read(tmp_path, seed=seed), "val"))
    (tmp_path / "a" / "007.jpg").unlink()
    after = set(list_files(read(tmp_path, seed=seed), "val"))
    assert before - after <= {"a/007.jpg"}
    assert len(after - before) <= 1


def test_neither_the_class_nor_the_place_of_the_data_set_changes_the_draw(tmp_path: Path) -> None:
    first = read(write_classes(tmp_path / "here", a=20, b=20))
    second = read(write_classes(tmp_path / "a" / "there", renamed=20, b=20, c=20))
    assert list_files(second, "val", "b") == list_files(first, "val", "b")
    assert list_files(second, "val", "renamed") == [
        name.replace("a/", "renamed/") for name in list_files(first, "val", "a")
    ]


@pytest.mark.parametrize(("rule", "expected"), [(1, "5e97e6f2"), (2, "ae8a1670")], ids=["old runs", "now"])
def test_the_draw_is_the_same_for_ever(tmp_path: Path, rule: int, expected: str) -> None:
    """Resumed runs get the images that they began with: rule 1 is recorded from the code that had no other."""
    drawn = list_files(read(write_classes(tmp_path, a=40, b=13, é=9), rule, seed=3), "val")
    assert compute_hash(drawn) == expected


def compute_hash(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
