"""Paths in parameters, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from resnetkit.machine.files import (
    atomic_path,
    get_ikomia_root,
    hash_files,
    read_file,
    resolve_path,
    write_json,
    write_text,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("file://{folder}/a b.pth", "a b.pth"),
        ("file://{folder}/a%20b.pth", "a b.pth"),
        ("file://{folder}/100%25.pth", "100%.pth"),
        ("file://{folder}/100%.pth", "100%.pth"),
        ("file://localhost{folder}/a%20b.pth", "a b.pth"),
        ("{folder}/sub/../a b.pth", "a b.pth"),
        ("{folder}/#1?.pth", "#1?.pth"),
        ("file://{folder}/#1?.pth", "#1?.pth"),
    ],
)
def test_addresses_and_paths(tmp_path, text, name):
    (tmp_path / name).touch()
    assert resolve_path(text.format(folder=tmp_path)) == tmp_path / name


def test_home_and_relative_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("~/a.pth") == Path.home() / "a.pth"
    assert resolve_path("a.pth") == tmp_path / "a.pth"
    assert resolve_path("~nobody-of-that-name/a.pth") == tmp_path / "~nobody-of-that-name" / "a.pth"


def test_an_address_below_a_plugin_is_found_where_plugins_are(tmp_path, monkeypatch):
    """As in a workflow that was packed with its files."""
    path = tmp_path / "infer_resnet" / "data" / "my model.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_path("file://infer_resnet/data/my model.pth") == path


def test_links_are_kept(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    assert resolve_path(str(tmp_path / "latest")) == tmp_path / "latest"


def test_the_ikomia_folder_is_in_the_home_folder():
    assert get_ikomia_root() == Path.home() / "Ikomia"


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "classes.txt"
    write_text(path, "old\n")
    write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes no folder")
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    with atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
        written = temporary.stat().st_ino
    assert flushed == [written, tmp_path.stat().st_ino]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.onnx"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".onnx"
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_home_folder_there_is_one_among_the_temporary_files(tmp_path, monkeypatch, caplog):
    from resnetkit.machine import files

    def refuse():
        raise RuntimeError("Could not determine home directory.")

    files._make_temporary_root.cache_clear()
    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = get_ikomia_root()
    assert get_ikomia_root() == root
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o077 == 0
    assert len(caplog.records) == 1
    files._make_temporary_root.cache_clear()
    root.chmod(0o777)  # perhaps made by somebody else, who would then choose what is read
    assert get_ikomia_root() != root
    files._make_temporary_root.cache_clear()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (lambda path: read_file(path, 100), lambda path: hash_files([path])):
        with pytest.raises(OSError, match="no regular file"):
            read(tmp_path / "pipe")


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, more than the 4"):
        read_file(tmp_path / "file", 4)


def test_json_has_a_line_per_row_and_not_per_number(tmp_path):
    content = {"classes": ["a"] * 500, "per_class": [{"name": "a", "interval": [0.0, 1.0]}] * 500}
    content["confusion_matrix"] = [[0] * 500] * 500
    write_json(tmp_path / "metrics.json", content)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.count("\n") < 1020
    assert len(text) < 900_000
