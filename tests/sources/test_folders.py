"""What the sub-folders of a data set mean: classes, splits, neither, or refused with what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnetkit.data.dataset import Dataset, DatasetError, read_dataset
from resnetkit.sources.names import find_split


def write_files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def write_images(folder: Path, *folders: str) -> Path:
    """Write four empty images into each folder, whose name is part of theirs: none has the path of another's."""
    return write_files(folder, *(f"{name}/{number}.jpg" for name in folders for number in range(4)))


def read(folder: Path, output_folder: Path | None = None) -> Dataset:
    return read_dataset(folder, 0.25, 0, output_folder=output_folder)


def count(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.val), len(dataset.test)


def list_ignored(dataset: Dataset) -> set[str]:
    return {path.relative_to(dataset.source).as_posix() for path in dataset.ignored}


# --- Names of splits ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", ("train", "")),
        ("TRAINING", ("train", "")),
        ("training_set", ("train", "")),
        ("trainset", ("train", "")),
        ("TrainImages", ("train", "")),
        ("train2017", ("train", "")),
        ("01-train", ("train", "")),
        ("trainval", ("train", "")),
        ("seg_train", ("train", "seg")),
        ("asl_alphabet_test", ("test", "asl alphabet")),
        ("Testing", ("test", "")),
        ("dev", ("val", "")),
        ("Validation Set", ("val", "")),
        ("eval", ("eval", "")),
        ("seg_pred", ("unlabelled", "seg")),
        ("strain", None),
        ("contest", None),
        ("invalid", None),
        ("device", None),
        ("train_test_split", None),
        ("trains", None),
        ("字", None),
    ],
)
def test_names_of_splits_are_understood(name: str, expected: tuple[str, str] | None) -> None:
    assert find_split(name) == expected


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("train", "testing", "test"),
        ("train", "dev", "val"),
        ("train", "eval", "val"),
        ("train", "holdout", "val"),
        ("seg_train", "seg_test", "test"),
        ("training_set", "test_set", "test"),
        ("training_set/training_set", "test_set/test_set", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("TRAIN", "VALID", "val"),
        ("train_data", "validation_data", "val"),
        ("flowers-train", "flowers-val", "val"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val", "val"),
        ("trainset", "testset", "test"),
        ("train images", "test images", "test"),
        ("train/images", "test/images", "test"),
        ("data/Training", "data/Testing", "test"),
    ],
)
def test_splits_by_any_usual_name_are_no_classes(tmp_path: Path, train: str, other: str, split: str) -> None:
    dataset = read(write_images(tmp_path, f"{train}/a", f"{train}/b", f"{other}/a", f"{other}/b"))
    assert dataset.classes == ("a", "b")
    assert count(dataset) == ((8, 8, 0) if split == "val" else (6, 2, 8))


def test_eval_beside_a_validation_split_is_for_the_test(tmp_path: Path) -> None:
    folders = [f"{split}/{name}" for split in ("train", "dev", "eval") for name in "ab"]
    assert count(read(write_images(tmp_path, *folders))) == (8, 8, 8)


@pytest.mark.parametrize("parts", [("part1", "part2"), ("siteA", "siteB", "siteC"), ("x/1", "x/2")], ids=str)
def test_parts_that_each_have_the_splits_are_one_data_set(tmp_path: Path, parts: tuple[str, ...]) -> None:
    folders = [f"{part}/{split}/{name}" for part in parts for split in ("train", "test") for name in "ab"]
    dataset = read(write_images(tmp_path, *folders))
    assert dataset.classes == ("a", "b")
    assert count(dataset) == (6 * len(parts), 2 * len(parts), 8 * len(parts))


def test_splits_inside_of_classes_are_understood(tmp_path: Path) -> None:
    dataset = read(write_images(tmp_path, "cat/train", "cat/test", "dog/Train", "dog/test", "cat/val", "dog/val"))
    assert dataset.classes == ("cat", "dog")
    assert count(dataset) == (8, 8, 8)


def test_held_out_images_beside_the_classes_are_a_split(tmp_path: Path) -> None:
    dataset = read(write_images(tmp_path, "cat", "dog", "test/cat", "test/dog"))
    assert dataset.classes == ("cat", "dog")
    assert count(dataset) == (6, 2, 8)


@pytest.mark.parametrize("depth", ["", "data/", "archive/data/"])
def test_one_more_folder_around_everything_changes_nothing(tmp_path: Path, depth: str) -> None:
    dataset = read(write_images(tmp_path, f"{depth}apple", f"{depth}pear"))
    assert dataset.classes == ("apple", "pear")


# --- Refused with what was found ---


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["Foo/a", "Foo/b", "Bar/a", "Bar/b"], "'Bar', 'Foo', which hold no images, but the same folders 'a', 'b'"),
        (["eins/a", "eins/b", "eins/c", "zwei/a", "zwei/b"], "the same folders 'a', 'b', 'c'"),
        (["fold1/a", "fold1/b", "fold2/a", "fold2/b", "fold3/a", "fold3/b"], "name them train, val and test"),
        (["train/a", "train/b", "extra"], "'train' with folders of images \\('a', 'b'\\) and 'extra' with images"),
        (["train1/a", "train1/b", "train2/a", "train2/b"], "both 'train1' and 'train2'"),
        (["seg_train", "seg_test"], "no class folders"),
        (["train_images", "test_images"], "no class folders"),
        (["test/a", "test/b", "val/a", "val/b"], "no folder 'train'"),
    ],
)
def test_splits_of_unclear_meaning_are_refused(tmp_path: Path, folders: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(write_images(tmp_path, *folders))


@pytest.mark.parametrize(
    "names",
    [
        ("car", "plane", "train"),
        ("car", "train"),
        ("freight_train", "passenger_train"),
        ("bus station", "train station"),
        ("steam train", "test tube"),
        ("invalid", "valid"),
        ("control", "test"),
        ("cat", "dev", "dog"),
    ],
)
def test_classes_may_have_the_words_of_splits_in_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    dataset = read(write_images(tmp_path, *names))
    assert dataset.classes == names
    assert count(dataset)[2] == 0


def test_the_class_train_may_have_folders_like_the_others(tmp_path: Path) -> None:
    dataset = read(write_images(tmp_path, "car/sedan", "car/van", "plane/jet", "train/diesel", "train/steam"))
    assert dataset.classes == ("car", "plane", "train")


def test_a_class_train_in_splits_is_a_class(tmp_path: Path) -> None:
    dataset = read(write_images(tmp_path, "train/car", "train/train", "val/car", "val/train"))
    assert dataset.classes == ("car", "train")
    assert count(dataset) == (8, 8, 0)


def test_classes_may_have_one_folder_each(tmp_path: Path) -> None:
    folders = [f"train/{name}/images" for name in ("n01", "n02")]
    dataset = read(write_images(tmp_path, *folders, "val/n01/images", "val/n02/images"))
    assert dataset.classes == ("n01", "n02")


# --- Unlabelled pictures ---


@pytest.mark.parametrize("folder", ["test", "Testing", "test/test", "test/images", "seg_pred/seg_pred", "unlabelled"])
def test_pictures_without_classes_are_called_unlabelled(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = read(write_images(tmp_path, "train/a", "train/b", folder))
    assert dataset.classes == ("a", "b")
    assert count(dataset) == (6, 2, 0)
    assert f"the images in '{tmp_path / folder}' have no classes; they are unlabelled" in caplog.text
    assert list_ignored(dataset) == {folder}


def test_a_folder_beside_the_splits_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read(write_images(tmp_path, "train/a", "train/b", "val/a", "masks"))
    assert dataset.classes == ("a", "b")
    assert f"left out the folder '{tmp_path / 'masks'}'" in caplog.text


# --- What is no part of a data set ---

SYSTEM = [
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "#recycle",
    "@Recycle",
    "__pycache__",
    "__MACOSX",
    ".ipynb_checkpoints",
    ".Trash-1000",
]


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_systems_are_left_out_and_listed(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = read(write_images(tmp_path, "a", "b", name, f"a/{name}/1.jpg", f"b/deep/{name}"))
    assert dataset.classes == ("a", "b")
    assert count(dataset) == (6, 2, 0)
    assert list_ignored(dataset) == {name, f"a/{name}", f"b/deep/{name}"}
    assert not caplog.records


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_systems_are_left_out_of_splits(tmp_path: Path, name: str) -> None:
    dataset = read(write_images(tmp_path, "train/a", "train/b", f"train/{name}", "val/a", f"val/{name}", name))
    assert dataset.classes == ("a", "b")
    assert count(dataset) == (8, 4, 0)
    assert list_ignored(dataset) == {name, f"train/{name}", f"val/{name}"}


def test_files_of_systems_are_left_out_and_listed(tmp_path: Path) -> None:
    write_files(tmp_path, "a/Thumbs.db", "a/.DS_Store", "a/._0.jpg", "b/desktop.ini", "Thumbs.db")
    dataset = read(write_images(tmp_path, "a", "b"))
    assert list_ignored(dataset) == {"a/Thumbs.db", "a/.DS_Store", "a/._0.jpg", "b/desktop.ini", "Thumbs.db"}


@pytest.mark.parametrize("folder", ["", "train/"])
def test_a_hidden_folder_of_images_is_not_lost_in_silence(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = read(write_images(tmp_path, f"{folder}Java", f"{folder}PHP", f"{folder}.NET"))
    assert dataset.classes == ("Java", "PHP")
    assert f"left out the hidden folder '{tmp_path / folder / '.NET'}'" in caplog.text
    assert list_ignored(dataset) == {f"{folder}.NET"}


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, *(f"a/{number}.PSD" for number in range(5)), "b/1.cr2", "b/notes.txt")
    read(write_images(tmp_path, "a", "b"))
    [record] = caplog.records
    assert "5 .psd" in record.message
    assert "1 .cr2" in record.message


# --- What training writes ---


def write_run(folder: Path) -> None:
    """Write what a run folder holds from its first moment, and pictures."""
    write_files(folder, "state.pt", "report.html", "confusion_matrix.png", "worst_mistakes.png")


PLAIN = ("a", "b")
DIVIDED = ("train/a", "train/b", "val/a", "val/b")


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        *((PLAIN, place) for place in ("", "runs", "out/deep/runs", "a", "a/runs")),
        *((DIVIDED, place) for place in ("", "runs", "out/deep/runs", "train", "train/runs", "train/a", "val/b/runs")),
        (("data/a", "data/b"), ""),
        (("data/a", "data/b"), "data/runs"),
        (("one/train/a", "one/train/b", "two/train/a", "two/train/b"), "runs"),
    ],
)
def test_run_folders_are_no_classes(tmp_path: Path, layout: tuple[str, ...], place: str) -> None:
    write_images(tmp_path, *layout)
    expected = read(tmp_path)
    output = tmp_path / place
    output.mkdir(parents=True, exist_ok=True)
    before = read(tmp_path, output)
    write_run(output / "20260101-000000_resnet18")
    (output / "latest").symlink_to("20260101-000000_resnet18")
    for output_folder in (output, None):
        after = read(tmp_path, output_folder)
        for dataset in (before, after):
            assert (dataset.classes, dataset.train, dataset.val) == (expected.classes, expected.train, expected.val)


@pytest.mark.parametrize("name", ["mlruns", "MLflow", "tracked"])
def test_the_tracking_store_is_no_class(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "a", "b", f"{name}/0/run/artifacts")
    (tmp_path / name / "0" / "meta.yaml").write_text("artifact_location: x\nexperiment_id: '0'\n")
    dataset = read(tmp_path)
    assert dataset.classes == ("a", "b")
    assert list_ignored(dataset) == {name}


def test_an_empty_class_folder_stays_an_error(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(DatasetError, match="no training image of 'c'"):
        read(tmp_path, tmp_path / "elsewhere")


def test_a_class_is_no_output_because_training_writes_into_it(tmp_path: Path) -> None:
    assert read(write_images(tmp_path, "a", "b"), tmp_path / "b").classes == ("a", "b")


# --- Names that are nearly the same ---


def test_names_that_differ_by_blanks_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read(write_images(tmp_path, "cat", "cat ", "dog"))
    assert dataset.classes == ("cat", "dog")
    assert count(dataset) == (9, 3, 0)
    assert "'cat', 'cat ' are taken for one class, 'cat'" in caplog.text


def test_names_that_differ_by_case_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, "Cat", "cat", "dog")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell them apart")
    assert read(tmp_path).classes == ("Cat", "cat", "dog")
    assert "'Cat', 'cat' are different classes" in caplog.text
