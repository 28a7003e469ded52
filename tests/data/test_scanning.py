"""The look at every image before training."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetkit.data import scanning
from resnetkit.data.dataset import Dataset, DatasetError, read_dataset
from resnetkit.data.scanning import DataReport, check_images
from resnetkit.images import inspection
from resnetkit.machine import threads as threads_module
from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.sources.near_duplicates import THUMBNAIL_BYTES, find_near_duplicates


@pytest.fixture
def folder(photographs: Mapping[str, np.ndarray], tmp_path: Path) -> Path:
    """Different parts of two photographs, as train/, val/ and test/ with the classes china and flower."""
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for number in range(count):
            for name in ("china", "flower"):
                path = tmp_path / "data" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                top = 10 * number + 100 * ("train", "val", "test").index(split)
                Image.fromarray(photographs[name][top : top + 60, 20:100]).save(path)
    return tmp_path / "data"


def check(folder: Path, max_megapixels: float = 500) -> tuple[Dataset, DataReport]:
    return check_images(read_dataset(folder, 0.2, 0), max_megapixels, Progress())


def test_clean_data_set_stays_as_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, report = check(folder)
    assert dataset == read_dataset(folder, 0.2, 0)
    assert report.to_dict() == {
        "source": folder.as_posix(),
        "has_own_split": True,
        "class_counts": {"china": {"train": 4, "val": 2, "test": 1}, "flower": {"train": 4, "val": 2, "test": 1}},
        "image_sizes": {
            "width": {"smallest": 80, "median": 80, "largest": 80},
            "height": {"smallest": 60, "median": 60, "largest": 60},
        },
        "unreadable": [],
        "leaks": [],
        "label_conflicts": [],
        "duplicates": [],
        "near_duplicates": [],
        "ignored": [],
    }
    assert not caplog.records


def test_nothing_in_the_folder_is_changed(folder: Path) -> None:
    (folder / "train" / "china" / "broken.jpg").write_bytes(b"no image")
    shutil.copy(folder / "train" / "china" / "0.png", folder / "val" / "china" / "copy.png")

    def take_stock() -> dict[Path, tuple[int, str]]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}

    before = take_stock()
    check(folder)
    assert take_stock() == before


def test_unreadable_and_oversize_images_are_left_out_and_listed(
    folder: Path, photographs: Mapping[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    whole = (folder / "train" / "china" / "0.png").read_bytes()
    (folder / "train" / "china" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "val" / "flower" / "empty.jpg").touch()
    (folder / "test" / "flower" / "text.jpg").write_text("no image")
    Image.fromarray(photographs["china"]).save(folder / "train" / "china" / "large.png")
    (folder / "val" / "china" / "notes.txt").touch()
    dataset, report = check(folder, max_megapixels=0.1)
    left_out = {entry["path"]: entry["reason"] for entry in report.unreadable}
    assert list(left_out) == [
        "train/china/cut.png",
        "train/china/large.png",
        "val/flower/empty.jpg",
        "test/flower/text.jpg",
    ]
    assert "640x427 pixels are more than the limit of 0.1 megapixels" in left_out["train/china/large.png"]
    assert "empty file" in left_out["val/flower/empty.jpg"]
    assert report.ignored == ["val/china/notes.txt"]
    assert not {"cut.png", "large.png", "empty.jpg", "text.jpg"} & {
        sample.path.name for sample in (*dataset.train, *dataset.val, *dataset.test)
    }
    assert report.class_counts["china"] == {"train": 4, "val": 2, "test": 1}
    assert sum("left out" in record.message for record in caplog.records) == 4


def test_same_pictures_are_found_whatever_their_format(folder: Path) -> None:
    original = folder / "train" / "china" / "0.png"
    shutil.copy(original, folder / "train" / "china" / "copy.png")
    with Image.open(original) as image:
        image.save(folder / "train" / "china" / "other.bmp")
    dataset, report = check(folder)
    assert report.duplicates == [["train/china/0.png", "train/china/copy.png", "train/china/other.bmp"]]
    assert report.leaks == []
    assert len(dataset.train) == 10, "duplicates stay in"


@pytest.mark.parametrize("split", ["val", "test"])
def test_leaks_are_listed_warned_about_and_kept(folder: Path, split: str, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(folder / "train" / "flower" / "2.png", folder / split / "flower" / "copy.png")
    dataset, report = check(folder)
    assert report.leaks == [["train/flower/2.png", f"{split}/flower/copy.png"]]
    assert any(sample.path.name == "copy.png" for sample in getattr(dataset, split))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 pictures are in train and also in val or test" in record.message
    assert "train/flower/2.png" in record.message


def test_nearly_the_same_pictures_are_listed_once(
    folder: Path, photographs: Mapping[str, np.ndarray], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Saved again as JPEG, scaled, or lighter: each is found; the neighbouring cuts of the same photograph are not."""
    image = Image.open(folder / "train" / "flower" / "1.png")
    image.save(folder / "val" / "flower" / "again.jpg", quality=60)
    image.resize((40, 30), Image.Resampling.BOX).save(folder / "test" / "flower" / "half.png")
    image.point(lambda level: min(255, round(1.1 * level + 5))).save(folder / "val" / "china" / "lighter.png")
    shutil.copy(folder / "train" / "china" / "0.png", folder / "val" / "china" / "copy.png")  # that is a leak
    for _ in range(2):  # the second time from what is known
        caplog.clear()
        _, report = check(folder)
        found = {(pair["path"], pair["split"], pair["train_path"]) for pair in report.near_duplicates or []}
        assert found == {
            ("val/flower/again.jpg", "val", "train/flower/1.png"),
            ("val/china/lighter.png", "val", "train/flower/1.png"),
            ("test/flower/half.png", "test", "train/flower/1.png"),
        }
        assert len(report.leaks) == 1
        assert sum("3 pictures of val or test are nearly the same" in record.message for record in caplog.records) == 1
    report.write_near_duplicates(tmp_path)
    with (tmp_path / "near_duplicates.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = sorted((row["label"], row["train_label"]) for row in rows)
    assert labels == [("china", "flower"), ("flower", "flower"), ("flower", "flower")]
    assert all(0.975 <= float(row["similarity"]) <= 1 for row in rows)


def test_an_even_wall_and_a_common_scene_make_nothing_similar() -> None:
    random = np.random.default_rng(0)
    scene = random.integers(0, 256, THUMBNAIL_BYTES)
    things = np.clip(scene + random.normal(0, 8, (60, THUMBNAIL_BYTES)), 0, 255).astype(np.uint8)
    walls = np.clip(128 + random.normal(0, 1, (60, THUMBNAIL_BYTES)), 0, 255).astype(np.uint8)
    for pictures in (things, walls):
        assert find_near_duplicates(pictures[:40], pictures[40:], Progress()) == []
    again = np.clip(things[:3] + random.normal(0, 0.7, (3, THUMBNAIL_BYTES)), 0, 255).astype(np.uint8)
    found = find_near_duplicates(things, again, Progress())
    assert [(first, second) for first, second, _ in found] == [(0, 0), (1, 1), (2, 2)]


def test_picture_in_val_and_test_alone_is_no_leak_of_train(folder: Path) -> None:
    shutil.copy(folder / "val" / "flower" / "0.png", folder / "test" / "flower" / "copy.png")
    _, report = check(folder)
    assert report.leaks == []
    assert report.duplicates == [["val/flower/0.png", "test/flower/copy.png"]]


def test_picture_in_two_classes_is_a_conflict(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(folder / "train" / "china" / "1.png", folder / "train" / "flower" / "copy.png")
    _, report = check(folder)
    assert report.label_conflicts == [["train/china/1.png", "train/flower/copy.png"]]
    assert "more than one class" in caplog.text


def test_equal_checksums_alone_make_no_duplicates(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnetkit.data.scanning.zlib", SimpleNamespace(crc32=lambda _: 0))
    _, report = check(folder)
    assert report.duplicates == []


def test_files_of_other_bytes_and_equal_pixels_are_found_among_copies(folder: Path) -> None:
    original = folder / "train" / "china" / "1.png"
    for number in range(3):
        shutil.copy(original, folder / "train" / "china" / f"copy{number}.png")
        with Image.open(original) as image:
            image.save(folder / "val" / "china" / f"copy{number}.bmp")
    _, report = check(folder)
    assert [len(group) for group in report.duplicates] == [7]
    assert [len(group) for group in report.leaks] == [7]


def test_large_groups_are_logged_in_a_few_words(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(60):
        shutil.copy(folder / "train" / "china" / "1.png", folder / "val" / "flower" / f"copy{number:02}.png")
    _, report = check(folder)
    assert [len(group) for group in report.leaks] == [61]
    leaks, conflicts = (record.message for record in caplog.records)
    for message in (leaks, conflicts):
        assert "copy01.png and 58 more" in message
        assert "copy02.png" not in message


def test_many_unreadable_images_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        (folder / "train" / "china" / f"bad{number}.png").write_bytes(b"no image")
    _, report = check(folder)
    assert len(report.unreadable) == 100
    assert len(caplog.records) == 21
    assert "left out 80 more images" in caplog.text


def test_looking_for_duplicates_may_stop_and_takes_several_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        shutil.copy(folder / "train" / "china" / "1.png", folder / "train" / "china" / f"copy{number}.png")
    threads, questions = set(), []
    hash_content = scanning.hash_content

    def notice(path: Path) -> bytes:
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return hash_content(path)

    monkeypatch.setattr(scanning, "hash_content", notice)
    monkeypatch.setattr(threads_module, "count_cores", lambda: 4)
    dataset = read_dataset(folder, 0.2, 0)
    running = threading.active_count()
    with pytest.raises(TrainingStopped):
        check_images(dataset, 500, Progress(is_stop_requested=lambda: len(questions.append(1) or questions) > 70))
    assert len(questions) == 71, "it stopped among the 51 that look the same, after all 64 were read"
    assert threading.active_count() == running
    assert threading.get_ident() not in threads
    assert len(threads) > 1


def test_data_set_that_vanishes_while_it_is_checked_is_one_error(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = read_dataset(folder, 0.2, 0)
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match="is no longer there"):
        check_images(dataset, 500, Progress())
    assert not caplog.records


def test_class_without_a_readable_training_image_is_an_error(folder: Path) -> None:
    for path in (folder / "train" / "flower").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DatasetError, match="no readable training image of 'flower'"):
        check(folder)


def test_nothing_readable_for_validation_is_an_error(folder: Path) -> None:
    for path in (folder / "val").rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DatasetError, match="no image for validation"):
        check(folder)


def test_progress_counts_every_image_and_may_stop(folder: Path) -> None:
    seen = []
    check_images(read_dataset(folder, 0.2, 0), 500, Progress(is_stop_requested=lambda: bool(seen.append(1))))
    assert len(seen) == 14

    threads = threading.active_count()
    with pytest.raises(TrainingStopped):
        check_images(read_dataset(folder, 0.2, 0), 500, Progress(is_stop_requested=lambda: True))
    assert threading.active_count() == threads


def test_each_image_that_can_be_read_is_handed_over_once(folder: Path) -> None:
    (folder / "val" / "china" / "0.png").write_bytes(b"broken")
    handed_over = []
    dataset, _ = check_images(
        read_dataset(folder, 0.2, 0), 500, Progress(), lambda *arguments: handed_over.append(arguments)
    )
    expected = {(split, sample.path) for split in ("train", "val", "test") for sample in getattr(dataset, split)}
    assert len(handed_over) == len(expected) == 13
    assert {(split, path) for split, path, _ in handed_over} == expected
    assert all(np.array_equal(image, np.array(Image.open(path))) for _, path, image in handed_over)


def test_report_can_be_written_whatever_the_names(folder: Path) -> None:
    odd = folder / "train" / "china" / "od\udcffd.jpg"
    try:
        odd.write_bytes(b"broken")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8")
    _, report = check(folder)
    text = json.dumps(report.to_dict(), ensure_ascii=False)
    assert "od\N{REPLACEMENT CHARACTER}d.jpg" in text
    text.encode("utf-8")


@pytest.fixture
def settled(folder: Path) -> Path:
    """The data set as it was written an hour ago, with a copy of a picture in another format."""
    Image.open(folder / "train" / "china" / "0.png").save(folder / "train" / "china" / "copy.bmp")
    for path in folder.rglob("*.*"):
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded, in any order."""
    names: list[str] = []
    hold_image = scanning.hold_image

    def notice(path: Path, **options: Any) -> AbstractContextManager[np.ndarray]:
        names.append(path.name)
        return hold_image(path, **options)

    monkeypatch.setattr(scanning, "hold_image", notice)
    return names


def test_a_second_look_decodes_what_has_changed(settled: Path, read: list[str]) -> None:
    first = check(settled)
    assert len(read) == 15 + 2  # the pictures that are the same once more
    assert len(first[1].duplicates) == 1
    read.clear()
    assert check(settled) == first
    assert read == []
    changed = settled / "val" / "flower" / "1.png"
    Image.open(settled / "train" / "china" / "0.png").save(changed)
    _, report = check(settled)
    assert set(read) == {"1.png"}
    assert report.leaks == [["train/china/0.png", "train/china/copy.bmp", "val/flower/1.png"]]


def test_a_look_with_another_limit_of_size_heeds_it(settled: Path, read: list[str]) -> None:
    check(settled)
    with pytest.raises(DatasetError, match="no readable training image"):
        check(settled, max_megapixels=0.001)


def test_files_that_were_written_just_now_are_read_again(folder: Path, read: list[str]) -> None:
    check(folder)
    check(folder)
    assert len(read) == 2 * 14


def test_damaged_findings_cost_a_warning_and_time(
    settled: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = check(settled)
    with closing(inspection.Inspections(settled)) as inspections:
        path = inspections._path
    assert path.stat().st_size > 0
    path.write_bytes(b"no database at all" * 1000)
    read.clear()
    assert check(settled) == first
    assert len(read) == 17
    assert "is not kept in" in caplog.text
