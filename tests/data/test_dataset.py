"""Data sets: which image belongs to which class and to which split, and what is wrong with the others."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from resnetkit.data.dataset import Dataset, DatasetError, read_dataset
from resnetkit.sources.names import get_order


def write_files(folder: Path, *names: str) -> Path:
    """Write empty files, which is all that a data set needs before its images are opened."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def write_classes(folder: Path, sizes: Mapping[str, int]) -> Path:
    return write_files(folder, *(f"{name}/{number:03}.jpg" for name, size in sizes.items() for number in range(size)))


def name_samples(dataset: Dataset, split: str) -> list[str]:
    """Write the samples of a split as `<class>: <path>`."""
    samples = getattr(dataset, split)
    root = dataset.source if dataset.source.is_dir() else dataset.source.parent
    return [f"{dataset.classes[sample.label]}: {sample.path.relative_to(root).as_posix()}" for sample in samples]


def read(folder: Path, val_split: float = 0.2, seed: int = 0) -> Dataset:
    return read_dataset(folder, val_split, seed)


# --- Folders with splits ---


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("train", ["train", "Train"])
def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path, train: str, val: str) -> None:
    write_files(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{val}/dog/3.jpg", "test/cat/4.jpg")
    dataset = read(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert name_samples(dataset, "train") == [f"cat: {train}/cat/1.jpg", f"dog: {train}/dog/2.jpg"]
    assert name_samples(dataset, "val") == [f"dog: {val}/dog/3.jpg"]
    assert name_samples(dataset, "test") == ["cat: test/cat/4.jpg"]
    assert dataset.has_own_split


def test_validation_is_aligned_by_name_where_it_lacks_a_class(tmp_path: Path) -> None:
    write_files(tmp_path, *(f"train/{name}/1.jpg" for name in "abcd"), "val/c/1.jpg", "val/d/1.jpg")
    assert [sample.label for sample in read(tmp_path).val] == [2, 3]


def test_validation_is_drawn_from_train_where_only_test_is_beside_it(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_files(tmp_path, "test/a/1.jpg")
    dataset = read(tmp_path)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (16, 4, 1)
    assert not dataset.has_own_split


def test_train_may_be_a_class_among_others(tmp_path: Path) -> None:
    write_classes(tmp_path, {"car": 2, "plane": 2, "train": 2})
    assert read(tmp_path).classes == ("car", "plane", "train")


def test_other_folders_beside_the_splits_are_no_classes(tmp_path: Path) -> None:
    write_files(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "annotations/1.xml")
    assert read(tmp_path).classes == ("a", "b")


# --- What is in a class folder ---


def test_images_are_found_by_suffix_in_any_case_and_depth(tmp_path: Path) -> None:
    write_files(tmp_path, "a/1.JPG", "a/2.Jpeg", "a/deep/er/3.PNG", "a/deep/4.webp", "b/5.tif", "b/6.bmp")
    dataset = read(tmp_path)
    assert len(dataset.train) + len(dataset.val) == 6
    assert dataset.ignored == ()


def test_other_files_are_ignored_and_listed(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    write_files(tmp_path, "a/Thumbs.db", "b/notes.txt", "stray.jpg", "README.md", "b/noending")
    dataset = read(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in dataset.ignored} == {
        "a/Thumbs.db",
        "b/notes.txt",
        "b/noending",
        "stray.jpg",
    }
    assert len(dataset.train) + len(dataset.val) == 4


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    write_files(tmp_path, "a/._000.jpg", "a/.trash/1.jpg", ".cache/1.jpg", "__MACOSX/a/1.jpg")
    dataset = read(tmp_path)
    assert dataset.classes == ("a", "b")
    assert len(dataset.train) + len(dataset.val) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "data", {"a": 2, "b": 2})
    elsewhere = write_files(tmp_path / "elsewhere", "1.jpg", "2.jpg", "3.jpg")
    (folder / "c").symlink_to(elsewhere, target_is_directory=True)
    (folder / "a" / "loop").symlink_to(folder / "a", target_is_directory=True)
    (folder / "b" / "self").symlink_to(folder / "b" / "self")
    dataset = read(folder)
    counts = Counter(dataset.classes[sample.label] for sample in (*dataset.train, *dataset.val))
    assert counts == {"a": 2, "b": 2, "c": 3}


def test_classes_are_ordered_by_their_bytes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"b": 2, "B": 2, "10": 2, "9": 2, "ä": 2, "a b": 2})
    assert read(tmp_path).classes == ("10", "9", "B", "a b", "b", "ä")


def test_order_and_split_do_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"a": 9, "b": 14, "é": 5}
    first = read(write_classes(tmp_path / "first", sizes))
    decomposed = {unicodedata.normalize("NFD", name): size for name, size in sizes.items()}
    write_classes(tmp_path / "second", decomposed)
    listed = os.scandir

    @contextmanager
    def list_backwards(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with listed(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr(os, "scandir", list_backwards)
    second = read(tmp_path / "second")
    assert second.classes == first.classes
    for split in ("train", "val"):
        files = [unicodedata.normalize("NFC", text) for text in name_samples(second, split)]
        assert files == name_samples(first, split)


# --- The drawn split ---


def test_split_is_the_same_for_the_same_seed_only(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 30, "b": 30})
    assert read(tmp_path, seed=1) == read(tmp_path, seed=1)
    assert read(tmp_path, seed=1).val != read(tmp_path, seed=2).val


def test_draw_of_a_class_does_not_depend_on_other_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 20, "b": 20})
    before = name_samples(read(tmp_path), "val")
    write_classes(tmp_path, {"0": 20})
    assert name_samples(read(tmp_path), "val")[4:] == before


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("val_split", [0.1, 0.2, 0.25, 0.5])
@pytest.mark.parametrize("sizes", [(50, 50), (13, 29, 71), (10, 20, 30, 40), (101, 11)], ids=str)
def test_split_has_the_properties_of_a_stratified_shuffle_split(
    tmp_path: Path, sizes: tuple[int, ...], val_split: float, seed: int
) -> None:
    write_classes(tmp_path, {str(label): size for label, size in enumerate(sizes)})
    dataset = read(tmp_path, val_split, seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    splitter = StratifiedShuffleSplit(1, test_size=round(len(labels) * val_split), random_state=seed)
    _, expected = next(splitter.split(labels, labels))
    drawn = np.bincount([sample.label for sample in dataset.val], minlength=len(sizes))
    assert drawn.sum() == len(expected)
    assert np.abs(drawn - np.bincount(labels[expected], minlength=len(sizes))).max() <= 1
    paths = [sample.path for sample in (*dataset.train, *dataset.val)]
    assert len(paths) == len(set(paths)) == len(labels), "every image is in one split"


@given(
    sizes=st.dictionaries(st.text("abcé字", min_size=1, max_size=3), st.integers(1, 40), min_size=2, max_size=8),
    val_split=st.floats(0.01, 0.9),
)
def test_every_class_is_in_train_and_if_possible_in_validation(sizes: dict[str, int], val_split: float) -> None:
    from resnetkit.data.splitting import count_validation

    counts = count_validation(sizes, val_split)
    for name, size in sizes.items():
        assert 0 <= counts[name] <= size - 1
        assert counts[name] >= 1 or size == 1
        assert counts[name] in {1, size - 1} or abs(counts[name] - size * val_split) <= 1


def test_every_image_is_validated_in_some_draw(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 5, "b": 5})
    seen = {sample.path for seed in range(40) for sample in read(tmp_path, seed=seed).val}
    assert len(seen) == 10


# --- Tables ---

TABLES = {
    "with names": ["path,label,split", "1.jpg,cat,train", "sub/2.jpg,dog,train", "3.jpg,dog,val", "4.jpg,cat,test", ""],
    "without names": ["1.jpg,cat,train", "sub/2.jpg,dog,train", "3.jpg,dog,validation", "4.jpg,cat,test"],
    "other order": [
        "Split,x,Label,Path",
        "Train,x,cat,1.jpg",
        "train,,dog,sub/2.jpg",
        "val,,dog,3.jpg",
        "test,,cat,4.jpg",
    ],
    "semicolons": [
        "path;label;split",
        "1.jpg;cat;train",
        "sub/2.jpg; dog ;train",
        "",
        "3.jpg;dog;val",
        "4.jpg;cat;test",
    ],
    "quotes": [
        '"path","label","split"',
        '"1.jpg","cat","train"',
        "sub/2.jpg,dog,train",
        "3.jpg,dog,val",
        "4.jpg,cat,test",
    ],
    "byte order mark": ["\ufeff1.jpg,cat,train", "sub/2.jpg,dog,train", "3.jpg,dog,val", "4.jpg,cat,test"],
}


def write_table(folder: Path, text: str, name: str = "images.csv") -> Path:
    write_files(folder, "1.jpg", "sub/2.jpg", "3.jpg", "4.jpg")
    (folder / name).write_bytes(text.encode("utf-8"))
    return folder / name


@pytest.mark.parametrize("lines", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["Unix", "Windows"])
@pytest.mark.parametrize("name", ["images.csv", "images.TSV"])
def test_table_with_splits_is_taken_as_it_is(tmp_path: Path, lines: list[str], line_end: str, name: str) -> None:
    text = line_end.join(lines)
    if name.endswith("TSV"):
        text = text.replace(",", "\t").replace(";", "\t")
    dataset = read(write_table(tmp_path, text, name))
    assert dataset.classes == ("cat", "dog")
    assert name_samples(dataset, "train") == ["cat: 1.jpg", "dog: sub/2.jpg"]
    assert name_samples(dataset, "val") == ["dog: 3.jpg"]
    assert name_samples(dataset, "test") == ["cat: 4.jpg"]


def test_table_without_splits_is_split_as_folders_are(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"a": 10, "b": 20})
    lines = [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in sorted(folder.rglob("*.jpg"))]
    (folder / "images.csv").write_text("path,label\n" + "\n".join(lines))
    assert name_samples(read(folder / "images.csv"), "val") == name_samples(read(folder), "val")


def test_table_may_hold_absolute_paths_and_labels_with_commas(tmp_path: Path) -> None:
    path = write_table(tmp_path, f'{tmp_path / "1.jpg"},"cat, small"\nsub/2.jpg,dog\n3.jpg,"cat, small"\n4.jpg,dog\n')
    assert read(path).classes == ("cat, small", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        ("path,label\n", "no rows"),
        ("1.jpg,cat\nmissing.jpg,dog\n", r"row 2 .*'missing\.jpg'.*no file"),
        ("1.jpg,cat\n\n3.jpg\n", r"row 3 .*must be path,label,split, got '3\.jpg'"),
        ("path,label\n1.jpg,\n", r"row 2 .*must be path,label, got '1\.jpg,'"),
        ("1.jpg,cat,train\n3.jpg,dog,practice\n", "row 2 .*split train, val or test, got 'practice'"),
        ("1.jpg,cat,train\n3.jpg,dog,\n", "row 2 .*in all rows or in none"),
        ("1.jpg,cat,train,x\n", "row 1 .*must be path,label,split"),
        ('1.jpg,cat\n"3.jpg,dog\n', "row 2 .*cannot be read"),
        ("1.jpg,cat\n3.jpg,cat\n", "only the class 'cat'"),
        ("1.jpg,cat,train\n3.jpg,dog,train\n4.jpg,fish,val\n", "'fish' of the val split"),
        ('1.jpg,"cat\nbig"\n3.jpg,dog\n', "cannot be printed"),
    ],
)
def test_wrong_table_is_an_error_that_names_the_row(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(write_table(tmp_path, text))


def test_table_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_bytes("1.jpg,Bär\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="must be UTF-8"):
        read(tmp_path / "images.csv")


# --- What cannot be trained on ---


def test_empty_folder_is_told_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fruit").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        read(Path("fruit"))
    assert str(caught.value) == (
        "'fruit/' has no class folders; expected fruit/train/<class>/*.jpg or fruit/<class>/*.jpg."
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.jpg", "2.jpg"], "no class folders"),
        (["train/1.jpg", "val/1.jpg"], "no class folders"),
        (["a/1.jpg", "a/2.jpg"], "only the class 'a'"),
        (["train/a/1.jpg", "val/a/1.jpg"], "only the class 'a'"),
        (["a/1.jpg", "b/readme.txt"], "no training image of 'b'"),
        (["train/a/1.jpg", "train/b/x.txt", "val/a/1.jpg", "val/b/1.jpg"], "no training image of 'b'"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"], "'c' of the val split .* has no training images"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "test/d/1.jpg"], "'d' of the test split"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/x.txt"], "no image for validation"),
        (["a/1.jpg", "b/1.jpg"], "no image for validation"),
        (["val/a/1.jpg", "test/b/1.jpg"], "'test', 'val' but no folder 'train'"),
        (["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "both 'val' and 'valid'"),
    ],
)
def test_folder_that_cannot_be_trained_on_is_an_error(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(write_files(tmp_path, *names))


def test_missing_source_and_other_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"must be a folder, a CSV/TSV file or shards \(\.tar, \.parquet\); found nothing"
    ):
        read(tmp_path / "missing")
    write_files(tmp_path, "model.zip")
    with pytest.raises(DatasetError, match="found a file of another kind"):
        read(tmp_path / "model.zip")


def test_more_than_ten_thousand_classes_are_an_error(tmp_path: Path) -> None:
    write_files(tmp_path, "1.jpg")
    lines = [f"1.jpg,class {number},{split}" for number in range(10_001) for split in ("train", "val")]
    (tmp_path / "images.csv").write_text("\n".join(lines))
    with pytest.raises(DatasetError, match="10001 classes; expected at most 10000"):
        read(tmp_path / "images.csv")
    (tmp_path / "images.csv").write_text("\n".join(lines[:-2]))
    assert len(read(tmp_path / "images.csv").classes) == 10_000


def test_order_of_names_that_are_no_utf_8() -> None:
    assert get_order("\udcff") == b"\xff"
