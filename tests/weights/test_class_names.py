"""Class names: which file they come from, and what is wrong with a file."""

from __future__ import annotations

import pytest

from resnetkit.weights.architectures import get_imagenet_classes
from resnetkit.weights.class_names import find_class_names, read_class_file
from resnetkit.weights.errors import WeightsError


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nfish",
        b"cat\ndog\nfish\n\n \n",
        b"cat\r\ndog\r\nfish\r\n",
        b"cat\rdog\rfish\r",
        b"\xef\xbb\xbfcat\ndog\nfish\n",
        b"  cat\t\ndog \nfish\n",
    ],
    ids=["plain", "blank lines at the end", "CRLF", "CR", "BOM", "spaces"],
)
def test_names_are_read_from_files_of_every_system(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_class_file(path) == ("cat", "dog", "fish")


def test_letters_of_other_languages_and_their_line_separators_stay(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Bär\n猫\na\u2028b\n", encoding="utf-8")
    assert read_class_file(path) == ("Bär", "猫", "a\u2028b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"cat\n\ndog\n", "blank line at 2"),
        (b"\ncat\n", "blank line at 1"),
        ("Bär\n".encode("latin-1"), "is not UTF-8"),
        ("Bär\n".encode("utf-16"), "is not UTF-8"),
    ],
    ids=["empty", "only blank", "blank between", "blank first", "Latin-1", "UTF-16"],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_class_file(path)
    assert str(path) in str(caught.value)


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="is a folder"):
        read_class_file(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        read_class_file(tmp_path / "names.txt")


def test_the_class_file_comes_before_the_one_beside_the_weights(tmp_path):
    (tmp_path / "classes.txt").write_text("beside\n")
    (tmp_path / "names.txt").write_text("chosen\n")
    weights = tmp_path / "model.pth"
    assert find_class_names(1, tmp_path / "names.txt", weights) == ("chosen",)
    assert find_class_names(1, None, weights) == ("beside",)


def test_a_thousand_outputs_without_names_are_imagenets(tmp_path):
    assert find_class_names(1000, None, tmp_path / "model.pth") == get_imagenet_classes()
    with pytest.raises(WeightsError, match=r"has 3 outputs and no class names; set 'class_file'"):
        find_class_names(3, None, tmp_path / "model.pth")


def test_a_wrong_number_of_names_says_both_numbers_and_files(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(WeightsError, match=r"names.txt' has 2 names, but .*model.pth' has 3 outputs"):
        find_class_names(3, tmp_path / "names.txt", tmp_path / "model.pth")
