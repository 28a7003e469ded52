"""Keys: images in tar shards, Parquet files and behind addresses, read as if each were a file."""

from __future__ import annotations

import copy
import gzip
import io
import os
import pickle
import posixpath
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from resnetkit.decoding import storage
from resnetkit.decoding.storage import StorageError, get_version, open_key
from resnetkit.folders.cells import read_path, write_path
from resnetkit.folders.listing import ListingError, list_files
from resnetkit.images.pixels import ImageError
from resnetkit.images.reading import read_image
from resnetkit.machine.files import Address, resolve_path, to_path
from tests.shards import write_tar


@pytest.fixture(scope="module")
def images(photograph_folder: Path) -> dict[str, bytes]:
    """Files of photographs by name."""
    return {path.name: path.read_bytes() for path in sorted(photograph_folder.iterdir())}


@pytest.fixture
def bucket(images):
    """Photographs in fsspec's memory, at `memory://bucket/photos/`."""
    system = fsspec.filesystem("memory")
    for name, content in images.items():
        system.pipe_file(f"/bucket/photos/{name}", content)
    system.pipe_file("/bucket/photos/notes.txt", b"no image")
    yield system
    system.rm("/bucket", recursive=True)


def list_keys(*sources: object) -> list[str]:
    return [str(file.path) for file in list_files(map(str, sources))]


@pytest.mark.parametrize(
    ("text", "parent"),
    [("s3://bucket/photos/17.jpg", "s3://bucket/photos"), ("memory://a/b", "memory://a")],
)
def test_an_address_stays_one(text: str, parent: str) -> None:
    path = to_path(text)
    assert isinstance(path, Address)
    for same in (path, pickle.loads(pickle.dumps(path)), copy.copy(path), path.absolute(), path.resolve()):
        assert (str(same), same) == (text, path)
        assert os.fspath(same) == text
    assert str(path.parent) == parent
    assert path.parent / path.name == path
    assert path.relative_to(path.parent) == Path(path.name)
    assert hash(Address(text)) == hash(path)
    assert resolve_path(text) == path
    assert read_path(write_path(path)) == path


def test_a_tar_is_read_as_a_folder(images, tmp_path):
    files = {f"./cats/{name}": content for name, content in images.items()} | {
        "cats/china.cls": b"3",
        "../../up.png": b"",
    }
    path = write_tar(tmp_path / "shard.tar", files)
    assert list_keys(path) == [str(path / "cats" / name) for name in images] + [f"{path}/../../up.png"]
    assert [str(file.name) for file in list_files(str(path))][-1] == "shard.tar/up.png"
    for name, content in images.items():
        with open_key(path / "cats" / name) as file:
            assert file.read() == content
        assert get_version(path / "cats" / name) == (len(content), path.stat().st_mtime_ns)
    with pytest.raises(ImageError, match=r"shard\.tar/cats/none\.png': no such file"):
        read_image(path / "cats" / "none.png")


def test_a_shard_that_was_replaced_is_read_anew(images, tmp_path):
    path = write_tar(tmp_path / "shard.tar", {"a.png": images["china.png"]})
    with open_key(path / "a.png") as file:
        assert file.read() == images["china.png"]
    write_tar(path, {"a.png": images["flower.png"]})
    with open_key(path / "a.png") as file:
        assert file.read() == images["flower.png"]


@pytest.mark.parametrize("is_struct", [False, True], ids=["bytes", "struct"])
def test_rows_of_a_parquet_file_are_read_in_any_order_by_threads(images, tmp_path, is_struct):
    contents = list(images.values()) * 3
    column = [{"bytes": content, "path": "x.png"} for content in contents] if is_struct else contents
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"id": range(len(column)), "image": column}), path, row_group_size=2)
    keys = [path / str(row) for row in np.random.default_rng(0).permutation(len(column))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda key: open_key(key).read(), keys))
    assert found == [contents[int(key.name)] for key in keys]
    assert len(list_keys(path)) == len(contents)
    with pytest.raises(ImageError, match="no such file"):
        read_image(path / str(len(contents)))


def test_what_is_behind_an_address_is_listed_and_read(bucket, images):
    keys = list_keys("memory://bucket/photos")
    assert keys == [f"memory://bucket/photos/{name}" for name in images]
    assert list_keys("memory://bucket/*/c*.png") == ["memory://bucket/photos/china.png"]
    assert [str(file.name) for file in list_files("memory://bucket/photos")] == list(images)
    with open_key(to_path(keys[0])) as file:
        assert file.read() == images["astronaut.png"]
    with pytest.raises(ImageError, match=r"'memory://bucket/photos/none\.png': no such file"):
        read_image(to_path("memory://bucket/photos/none.png"))


def test_shards_behind_an_address_are_copied_and_removed_again(bucket, images, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_opened", storage._Opened())
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    for number in range(6):
        path = write_tar(tmp_path / "shard.tar", {f"{number}.png": images["tiny.png"]})
        bucket.pipe_file(f"/bucket/shards/{number}.tar", path.read_bytes())
    keys = list_keys("memory://bucket/shards/*.tar")
    assert keys == [f"memory://bucket/shards/{number}.tar/{number}.png" for number in range(6)]
    assert all(read_image(to_path(key)).shape == (20, 31, 3) for key in keys)
    assert 1 <= len(list((tmp_path / "copies").iterdir())) <= 4
    storage._opened._archives.clear()
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("cut.tar", "cannot be read as a tar file", id="cut off"),
        pytest.param("packed.tar", "expected a whole one that is not compressed", id="compressed"),
        pytest.param("damaged.parquet", "cannot be read as a Parquet file", id="no parquet"),
        pytest.param("numbers.parquet", "has no column of image files, as bytes; its columns are a", id="no images"),
        pytest.param("nowhere://bucket/a", "Protocol not known: nowhere", id="unknown address"),
        pytest.param("s3://bucket/a", r"pip install 'resnet-for-ikomia\[s3\]'", id="package"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_sentence(images, tmp_path, monkeypatch, name, sentence):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    whole = write_tar(tmp_path / "whole.tar", {"a.png": images["china.png"], "b.png": images["tiny.png"]}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(images["china.png"]) - 1000])
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole))
    (tmp_path / "damaged.parquet").write_bytes(whole)
    parquet.write_table(pa.table({"a": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(ListingError, match=sentence) as caught:
        list_keys(name if "://" in name else tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["damaged.tar", "damaged.parquet"])
def test_a_damaged_shard_behind_an_address_is_named(bucket, name):
    fsspec.filesystem("memory").pipe_file(f"/bucket/{name}", b"no shard" * 100)
    with pytest.raises(StorageError, match=f"^'memory://bucket/{name}' cannot be read as a"):
        storage.open_archive(to_path(f"memory://bucket/{name}"))


def test_without_pyarrow_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(StorageError, match=r"needs pyarrow, .* pip install pyarrow"):
        storage.ParquetArchive(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["photos.parquet", "photos.tar"])
def test_a_shard_that_is_shortened_while_it_is_open_ends_no_process(images, tmp_path, name, run_script):
    path = tmp_path / name
    if name.endswith(".tar"):
        write_tar(path, images)
    else:
        parquet.write_table(pa.table({"image": list(images.values())}), path, row_group_size=1)
    code = """
import os, sys
from pathlib import Path
from resnetkit.decoding.storage import open_archive

path = Path(sys.argv[1])
archive = open_archive(path)
*_, last = archive.list()
whole = archive.read(last)
os.truncate(path, 1000)
try:
    found = archive.read([*archive.list()][-2])
except OSError:
    found = b""
assert len(found) < 1000
"""
    run_script(code, [str(path)])


def test_entries_of_a_tar_file_are_found_whatever_their_names_are(tmp_path: Path) -> None:
    names = ["b/2.jpg", "a/1.jpg", "no text \udcff.jpg", "./c//3.jpg", "é/" + 200 * "long/" + "4.jpg", "B/2.jpg"]
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for name in [*names, "a/1.jpg"]:  # the last of two that have one name counts
            entry = tarfile.TarInfo(name)
            entry.size = archive.offset + len(name)
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    with tarfile.open(shard) as archive:
        sizes = {posixpath.normpath(member.name): member.size for member in archive}
    opened = storage.open_archive(shard)
    assert list(opened.list()) == [posixpath.normpath(name) for name in names]
    assert {key: opened.measure(key) for key in opened.list()} == sizes
    assert all(len(opened.read(key)) == size for key, size in sizes.items())
    for missing in ("", "a", "a/0.jpg", "zzz.jpg"):
        with pytest.raises(KeyError):
            opened.read(missing)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert list(storage.open_archive(tmp_path / "empty.tar").list()) == []
    with pytest.raises(FileNotFoundError):
        open_key(tmp_path / "empty.tar" / "1.jpg")
