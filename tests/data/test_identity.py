"""The hash of a data set: the one that runs of earlier versions have in their state."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from resnetkit.data import identity
from resnetkit.data.dataset import Dataset, Samples, read_dataset
from resnetkit.data.identity import hash_dataset, hash_listing, measure_files
from resnetkit.sources.names import SPLITS
from resnetkit.sources.paths import PathList


def hash_whole(dataset: Dataset, sizes: dict[Path, int]) -> str:
    """Compute what runs were begun with, from one JSON text of all images."""
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent
    splits = []
    for split in SPLITS:
        rows = []
        for sample in getattr(dataset, split):
            path = sample.path.relative_to(folder) if sample.path.is_relative_to(folder) else sample.path
            rows.append((path.as_posix(), sample.label, sizes[sample.path]))
        splits.append(rows)
    return hashlib.sha256(json.dumps([dataset.classes, splits], ensure_ascii=True).encode()).hexdigest()


def write_folder(folder: Path) -> Path:
    """Write a data set of odd names and files of different sizes."""
    names = ("1.png", "2 \n.png", "no text \udcff.png", 'quo"te\\.png', "日本.png", 200 * "x" + ".jpg", "more/1.png")
    for number, class_name in enumerate(("b 'é'", "a")):
        for size, name in enumerate(names):
            path = folder / class_name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (size + 10 * number))
    return folder


def write_table(folder: Path, elsewhere: Path) -> Path:
    """Write a table beside its images, of which one lies elsewhere."""
    paths = [*sorted((folder / "a").glob("*.png")), *sorted((folder / "a").glob("../b*/*.jpg")), elsewhere]
    elsewhere.write_bytes(b"elsewhere")
    lines = [f'"{str(path).replace(chr(34), 2 * chr(34))}",{number % 2}' for number, path in enumerate(paths)]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label", *(line for line in lines if line.isprintable())]), encoding="utf-8")
    return table


@pytest.mark.parametrize("block_size", [1, 3, 1000])
def test_the_hash_is_that_of_earlier_versions(tmp_path: Path, block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_BLOCK_SIZE", block_size)
    folder = write_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    table = write_table(folder, tmp_path / "elsewhere.png")
    for source in (folder, Path("data"), table, Path("data") / "table.csv"):
        dataset, sizes = measure_files(read_dataset(source, 0.3, 0))
        by_path = {sample.path: sample.path.stat().st_size for split in SPLITS for sample in getattr(dataset, split)}
        assert hash_dataset(dataset, sizes) == hash_whole(dataset, by_path)
        assert hash_listing(dataset) == hash_whole(dataset, dict.fromkeys(by_path, 0))


def test_the_hash_is_one_that_an_earlier_version_computed() -> None:
    folder = Path("/nowhere/data")
    train, val = (
        Samples(PathList(folder, [folder / name for name in names]), range(2))
        for names in (("a/1.png", "b/\udcff.png"), ("a/2.png", "b/é.png"))
    )
    dataset = Dataset(folder / "table.csv", ("a", "b"), train, val, val[:0], has_own_split=True)
    expected = "0e38e2d9c8fc6d57911aa83f24b2ee1f31daf89b2d679a48d43560622a8cb82f"
    assert hash_dataset(dataset, np.array([1, 2, 3, 4])) == expected


def test_sizes_follow_the_images_that_are_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "data")
    dataset = read_dataset(folder, 0.3, 0)
    victims = [dataset.train[1].path, dataset.val[0].path]
    for path in victims:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        left, sizes = measure_files(dataset)
    assert "2 images vanished since they were checked" in caplog.text
    paths = [sample.path for split in SPLITS for sample in getattr(left, split)]
    assert sizes.tolist() == [path.stat().st_size for path in paths]
    assert set(paths).isdisjoint(victims)
    assert (len(left.train), len(left.val)) == (len(dataset.train) - 1, len(dataset.val) - 1)
