"""Which files are meant: folders, patterns, lists in several forms, and names that are hard to write down."""

from __future__ import annotations

import io
import os
import sys

import pytest

from resnetkit.folders.listing import ListingError, list_files


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of empty files, which is the current one's sub-folder `photos`."""
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/er/c.webp", ".cache/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def list_paths(*sources) -> list[str]:
    return [str(file.path) for file in list_files(sources)]


def test_a_folder_gives_the_images_below_it_in_order(photos):
    expected = ["a.png", "b.JPG", "deep/er/c.webp"]
    assert list_paths("photos") == [f"photos/{name}" for name in expected]
    assert list_paths(photos) == [str(photos / name) for name in expected]
    assert [str(file.name) for file in list_files(photos)] == expected


def test_a_folder_that_is_linked_into_itself_is_read_once(photos):
    (photos / "deep" / "round").symlink_to(photos, target_is_directory=True)
    assert len(list_paths("photos")) == 3


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["photos/a.png"]),
        ("photos/**/*.webp", ["photos/deep/er/c.webp"]),
        ("photos/d*", ["photos/deep/er/c.webp"]),
        ("photos/**", ["photos/a.png", "photos/b.JPG", "photos/deep/er/c.webp"]),
        ("photos/*.gif", ["photos/*.gif"]),
    ],
    ids=["files", "recursive", "folders", "all", "nothing"],
)
def test_a_pattern(photos, pattern, expected):
    assert sorted(list_paths(pattern)) == expected


def test_a_file_whose_name_looks_like_a_pattern(photos):
    (photos / "a[1].png").touch()
    assert list_paths("photos/a[1].png") == ["photos/a[1].png"]


def test_missing_files_are_listed_so_that_they_get_an_answer(photos):
    assert list_paths("photos/none.jpg", "nowhere") == ["photos/none.jpg", "nowhere"]


def test_a_text_list_names_files_folders_and_what_is_missing(photos):
    (photos / "list.txt").write_bytes("\ufeffa.png\r\n\r\ndeep\nnone.jpg\nphotos/b.JPG\n".encode())
    assert list_paths("photos/list.txt") == [
        "photos/a.png",
        "photos/deep/er/c.webp",
        "photos/none.jpg",
        "photos/b.JPG",  # relative to the current folder, where alone it exists
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "label,Image Path\ncat,a.png\ndog,deep/er/c.webp\n"),
        ("list.csv", "a.png,cat\ndeep/er/c.webp,dog\n"),
        ("list.csv", "file_name;label\na.png;cat\n\ndeep/er/c.webp;dog\n"),
        ("list.tsv", "path\tlabel\na.png\tcat\ndeep/er/c.webp\tdog\n"),
        ("list.csv", '\ufeffpath\r\n"a.png"\r\n"deep/er/c.webp"\r\n'),
    ],
    ids=["heading", "no heading", "semicolons", "tabs", "byte order mark"],
)
def test_a_table_of_paths(photos, name, content):
    (photos / name).write_text(content, encoding="utf-8", newline="")
    assert list_paths(photos / name) == [str(photos / "a.png"), str(photos / "deep" / "er" / "c.webp")]


@pytest.mark.parametrize("separator", [b"\n", b"\0"], ids=["lines", "print0"])
def test_standard_input(photos, monkeypatch, separator):
    names = [b"photos/a.png", b'photos/\xff, "x".png', b"x" * 70000 + b".png"]
    if separator == b"\0":
        names.append(b"photos/new\nline.png")
    stream = io.BufferedReader(io.BytesIO(separator.join(names) + separator))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    assert [os.fsencode(path) for path in list_paths("-")] == names


def test_nothing_gives_nothing(photos):
    (photos / "empty").mkdir()
    (photos / "empty.txt").touch()
    (photos / "empty.csv").touch()
    assert list_paths("photos/empty", "photos/empty.txt", "photos/empty.csv") == []
    assert list_paths() == []


def test_a_folder_that_cannot_be_read_is_said(photos, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ListingError, match=r"the folder 'photos' cannot be read \(Permission denied\)"):
        list_paths("photos")


def test_names_to_save_under_stay_below_a_folder(photos):
    names = [str(file.name) for file in list_files(["../x/a.png", photos / "a.png", ".."[:1] + "/photos/b.JPG"])]
    assert names == ["x/a.png", str(photos / "a.png").lstrip("/"), "photos/b.JPG"]
