"""Paths in parameters, and files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnetkit.machine.files import atomic_path, get_ikomia_root, resolve_path, write_text


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
