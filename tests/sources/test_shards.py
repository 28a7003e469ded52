"""Data sets in tar shards and Parquet files, on this machine or behind an address."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from safetensors.torch import load_file

from resnetkit.__main__ import main
from resnetkit.data.dataset import read_dataset, read_source
from resnetkit.data.identity import hash_dataset, measure_files
from resnetkit.data.scanning import check_images
from resnetkit.machine.files import Address
from resnetkit.machine.progress import Progress
from resnetkit.sources.mirror import make_local
from resnetkit.sources.names import DatasetError
from tests.shards import write_tar


def write_shards(folder: Path, images: Path) -> Path:
    """Write a data set of folders as a shard for each split, by the convention of WebDataset."""
    for split in ("train", "val", "test"):
        files: dict[str, bytes] = {}
        for path in sorted((images / split).rglob("*.png")):
            key = f"{path.parent.name}-{path.stem}"
            files |= {f"{key}.png": path.read_bytes(), f"{key}.cls": path.parent.name.encode()}
        write_tar(folder / f"{split}-000000.tar", files)
    return folder


def write_tables(folder: Path, images: Path) -> Path:
    """Write a data set of folders as a Parquet file for each split, the files in a column of bytes."""
    folder.mkdir()
    for split in ("train", "val", "test"):
        paths = sorted((images / split).rglob("*.png"))
        rows = {"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
        parquet.write_table(pa.table(rows), folder / f"{split}.parquet", row_group_size=10)
    return folder


def count(found: Mapping[str, Mapping[str, Iterable[Path]]]) -> dict[str, dict[str, int]]:
    return {
        split: {name: len(list(paths)) for name, paths in sorted(classes.items())} for split, classes in found.items()
    }


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        pytest.param(
            {"train-00.tar": ["a.png", "a.cls"], "train-01.tar": ["b.png", "b.cls"], "val-00.tar": ["c.png", "c.cls"]},
            {"train": {"a": 1, "b": 1}, "val": {"c": 1}, "test": {}}, id="class files",
        ),
        pytest.param(
            {"all.tar": ["train/a/1.png", "train/a/2.png", "test/b/deep/3.png", "val/b/4.png", "notes.txt"]},
            {"train": {"a": 2}, "val": {"b": 1}, "test": {"b": 1}}, id="folders of splits",
        ),
        pytest.param(
            {"train/0.tar": ["./a/1.png", "./b/2.png"], "validation/0.tar": ["a/3.png"]},
            {"train": {"a": 1, "b": 1}, "val": {"a": 1}, "test": {}}, id="shards in folders of splits",
        ),
        pytest.param(
            {"a.tar": ["cat/1.png", "dog/2.png"]}, {"train": {"cat": 1, "dog": 1}, "val": {}, "test": {}}, id="folders",
        ),
    ],
)  # fmt: skip
def test_classes_and_splits_are_those_of_names_and_folders(tmp_path, shards, expected):
    for name, members in shards.items():
        write_tar(tmp_path / name, {member: Path(member).stem.encode() for member in members})
    assert count(read_source(tmp_path).splits) == expected


def test_rows_have_the_names_that_hugging_face_notes(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": [{"bytes": b"x", "path": "1"}] * 3, "label": [0, 1, 1]}).replace_schema_metadata(noted)
    for split in ("train", "test"):
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    found = read_source(tmp_path).splits
    assert count(found) == {"train": {"cat": 1, "dog": 2}, "val": {}, "test": {"cat": 1, "dog": 2}}
    assert found["train"]["dog"][0] == tmp_path / "train-00000-of-00001.parquet" / "1"


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        pytest.param(
            ["17.png"], r"'17\.png' without a class; expected <class>/17\.png, or its class in '17\.cls'", id="no class"
        ),
        pytest.param(["notes.txt"], "has no images in its shards", id="no images"),
    ],
)  # fmt: skip
def test_shards_without_classes_or_images_are_refused(tmp_path, members, sentence):
    write_tar(tmp_path / "a.tar", dict.fromkeys(members, b""))
    with pytest.raises(DatasetError, match=sentence):
        read_source(tmp_path)


def test_a_folder_of_images_is_none_of_shards(three_digits, tmp_path):
    source = Path(shutil.copytree(three_digits, tmp_path / "digits"))
    write_tar(source / "train" / "0" / "backup.tar", {"17.png": b""})
    assert sum(len(paths) for paths in read_source(source).splits["train"].values()) == 33


def test_shards_are_checked_and_known_by_their_content(three_digits, tmp_path):
    source = write_shards(tmp_path / "shards", three_digits)
    dataset, report = check_images(read_dataset(source, 0.2, 0), 500, Progress())
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (33, 15, 9)
    assert dataset.classes == ("0", "1", "2")
    assert (report.unreadable, report.ignored) == ([], [])
    one = hash_dataset(*measure_files(dataset))
    shutil.move(source, tmp_path / "elsewhere")
    assert hash_dataset(*measure_files(read_dataset(tmp_path / "elsewhere", 0.2, 0))) == one


def test_a_data_set_in_a_bucket_is_copied_where_it_changed(three_digits, tmp_path):
    system = fsspec.filesystem("memory")
    for path in write_shards(tmp_path / "shards", three_digits).iterdir():
        system.put_file(str(path), f"/bucket/{path.name}")
    address = Address("memory://bucket")
    try:
        folder = make_local(address, Progress())
        assert count(read_source(folder).splits)["train"] == {"0": 11, "1": 11, "2": 11}
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
        system.rm_file("/bucket/test-000000.tar")
        system.put_file(str(tmp_path / "shards" / "train-000000.tar"), "/bucket/val-000000.tar")
        assert make_local(address, Progress()) == folder
        after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
        assert sorted(after) == ["train-000000.tar", "val-000000.tar"]
        assert after["train-000000.tar"] == before["train-000000.tar"]
        assert (folder / "val-000000.tar").read_bytes() == (tmp_path / "shards" / "train-000000.tar").read_bytes()
        assert make_local(Address("memory://bucket/val-*.tar"), Progress()).name == "val-000000.tar"
        with pytest.raises(DatasetError, match="there is nothing at 'memory://nowhere'"):
            make_local(Address("memory://nowhere"), Progress())
    finally:
        system.rm("/bucket", recursive=True)


def test_training_reads_from_shards_what_it_reads_from_files(three_digits, tmp_path):
    from resnetkit.data.loading import ImageLoader, LoaderSettings
    from resnetkit.images.preprocessing import Preprocessing

    preprocessing = Preprocessing(32, 32, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    batches = []
    for source in (write_shards(tmp_path / "shards", three_digits), three_digits):
        loader = ImageLoader(read_dataset(source, 0.2, 0).train, preprocessing, LoaderSettings(is_checked=True))
        batches.append(list(loader.plain(16)))
        loader.close()
    for one, other in zip(*batches, strict=True):
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)


def test_a_training_on_shards_is_that_on_files(three_digits, tmp_path, without_report):
    options = [
        "--no-use-pretrained", "--no-feature-extract", "--input-size=32", "--batch-size=8", "--optimizer=sgd",
        "--learning-rate=0.02", "--augmentation=basic", "--tracking=off", "--no-export-pth", "--epochs=2", "--quiet",
    ]  # fmt: skip
    sources = {
        "files": three_digits,
        "tar": write_shards(tmp_path / "shards", three_digits),
        "parquet": write_tables(tmp_path / "tables", three_digits),
    }
    for name, source in sources.items():
        assert main(["train", str(source), *options, "--run-folder", str(tmp_path / name)]) == 0
    weights = {name: load_file(tmp_path / name / "best.safetensors") for name in sources}
    for key, expected in weights["files"].items():
        assert weights["tar"][key].equal(expected)
        assert weights["parquet"][key].equal(expected)
    with np.load(tmp_path / "tar" / "predictions.npz") as predictions:
        assert predictions["val_paths"][0].startswith(str(tmp_path / "shards" / "val-000000.tar" / "0-"))
