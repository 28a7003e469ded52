"""Paths and names in tables: read back as they were, and never a formula."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetkit.folders.cells import PathSet, read_path, read_text, write_path, write_text
from resnetkit.machine.text import to_encodable

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_text_is_no_formula_and_reads_back(text):
    cell = write_text(text)
    assert not cell.startswith(FORMULA)
    assert read_text(cell) == to_encodable(text)
    cell.encode("utf-8")


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_a_path_is_no_formula_and_reads_back(name):
    path = Path(os.fsdecode(name))
    cell = write_path(path)
    cell.encode("utf-8")
    assert not cell.startswith(FORMULA)
    assert os.path.abspath(read_path(cell)) == os.path.abspath(path)


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("a, b.png", "a, b.png"),
        ("=1+2.png", "./=1+2.png"),
        ("-x.png", "./-x.png"),
        ("/data/\udcff.png", "file:///data/%FF.png"),
        ("שלום.png", "שלום.png"),
    ],
)
def test_a_path_in_a_cell(path, cell):
    assert write_path(path) == cell
    assert str(read_path(cell)) == path


def test_a_set_of_paths_grows():
    paths = PathSet()
    names = [f"photos/{number}.png" for number in range(20_000)]
    assert all(paths.add(name) for name in names)
    assert not any(paths.add(name) for name in names)
    assert len(paths) == 20_000
