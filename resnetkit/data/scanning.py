"""A look at every image before training: what cannot be read, what is there twice, what leaks into validation."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from resnetkit.data.dataset import Dataset, DatasetError, Sample, check_splits
from resnetkit.decoding.storage import open_key
from resnetkit.folders.cells import write_path, write_text
from resnetkit.folders.tables import write_csv
from resnetkit.images.inspection import Finding, Inspections
from resnetkit.images.pixels import ImageError, ValueRange
from resnetkit.images.reading import hold_image
from resnetkit.machine import ranks
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import to_encodable
from resnetkit.machine.threads import map_in_threads
from resnetkit.sources.names import SPLITS
from resnetkit.sources.near_duplicates import THUMBNAIL_BYTES, find_near_duplicates, is_comparable, make_thumbnail

logger = get_logger()

#: Lines about single files on the console, of one kind; the report has them all.
MAX_WARNINGS = 20
NEAR_DUPLICATES_NAME = "near_duplicates.csv"
#: Files of a group that the console names.
_MAX_NAMED = 3


@dataclass(frozen=True)
class DataReport:
    """What was found in a data set; paths are relative to its folder and use slashes.

    Attributes:
        source: Folder or table of the data set.
        has_own_split: Whether the validation split came with the data set.
        class_counts: Readable images of each class, by split.
        image_sizes: Smallest, median and largest width and height, in pixels.
        unreadable: Path and reason of each image that was left out.
        leaks: Groups of files with the same picture, in train and also in val or test.
        label_conflicts: Groups of files with the same picture in different classes.
        duplicates: All groups of files with the same picture: equal pixels, whatever the format of the file.
        near_duplicates: Images of val and test that are nearly the same as one of train: path, split and label of both,
            and how similar they are, to 1; None where there are too many images to be compared.
        ignored: What was left out of the folders: no images by their names, hidden, of the system, or of training.
    """

    source: str
    has_own_split: bool
    class_counts: dict[str, dict[str, int]]
    image_sizes: dict[str, dict[str, int]]
    unreadable: list[dict[str, str]]
    leaks: list[list[str]]
    label_conflicts: list[list[str]]
    duplicates: list[list[str]]
    near_duplicates: list[dict[str, Any]] | None
    ignored: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return dict(vars(self))

    def write_near_duplicates(self, folder: Path) -> None:
        """Write the pairs that are nearly the same as CSV, where there are some."""
        pairs = self.near_duplicates or []
        (folder / NEAR_DUPLICATES_NAME).unlink(missing_ok=True)
        if pairs:
            names = [name for name in pairs[0] if "path" not in name]
            rows = (
                [*map(write_path, (pair["path"], pair["train_path"])), *(write_text(str(pair[name])) for name in names)]
                for pair in pairs
            )
            write_csv(folder / NEAR_DUPLICATES_NAME, [["path", "train_path", *names], *rows])


@dataclass(frozen=True, slots=True)
class _Picture:
    """What is known of one image file: its size, a checksum and a thumbnail of its pixels, or why it cannot be read."""

    split: str
    sample: Sample
    width: int = 0
    height: int = 0
    checksum: int = 0
    thumbnail: bytes = b""
    reason: str = ""


@dataclass(frozen=True)
class _Look:
    """How an image is looked at."""

    read: Callable[[Path], AbstractContextManager[np.ndarray]]
    max_megapixels: float
    has_thumbnails: bool
    on_image: Callable[[str, Path, np.ndarray], None]


def check_images(
    dataset: Dataset,
    max_megapixels: float,
    progress: Progress,
    on_image: Callable[[str, Path, np.ndarray], None] = lambda *_: None,
    value_range: ValueRange | None = None,
) -> tuple[Dataset, DataReport]:
    """Read every image once, in threads, unless it was read at an earlier start and has not changed since.

    Nothing in the user's folder is changed; what is known of its files is kept in the Ikomia folder.

    Args:
        dataset: What `read_dataset` found.
        max_megapixels: Larger images count as unreadable.
        progress: Shows a bar, and may stop between two images.
        on_image: Called in a thread with split, path and image, (H, W, 3) uint8, of each file that was read.
        value_range: What is black and white in images of more than 8 bits.

    Returns:
        The data set without unreadable images, and what was found. Duplicates and leaks stay in; a warning is logged.

    Raises:
        DatasetError: A class is left without a training image, or nothing is left for validation.
    """
    read = partial(hold_image, max_megapixels=max_megapixels, value_range=value_range)
    items = [(split, sample) for split in SPLITS for sample in getattr(dataset, split)]
    share = items[ranks.get_rank() :: ranks.get_size()]
    has_thumbnails = is_comparable(len(dataset.train), len(dataset.val) + len(dataset.test))
    with closing(Inspections(dataset.source, value_range)) as inspections:
        with progress.show("checking images", len(share), unit="image") as bar:
            looks = _look_at_all(share, _Look(read, max_megapixels, has_thumbnails, on_image), inspections)
            pictures = list(progress.watch(looks, bar))
        pictures = _gather(items, pictures)
        groups = _find_same([picture for picture in pictures if not picture.reason], inspections, read, progress)
    _check_is_there(dataset, pictures)
    readable = [picture for picture in pictures if not picture.reason]
    train, val, test = (tuple(picture.sample for picture in readable if picture.split == split) for split in SPLITS)
    cleaned = replace(dataset, train=train, val=val, test=test)
    near = _find_near(readable, groups, progress) if has_thumbnails else None
    report = _make_report(cleaned, pictures, groups, near)
    _warn(report)
    check_splits(cleaned)
    return cleaned, report


def _look_at_all(items: Iterable[tuple[str, Sample]], how: _Look, inspections: Inspections) -> Iterator[_Picture]:
    def look_at(item: tuple[str, Sample]) -> _Picture:
        split, sample = item
        try:
            with how.read(sample.path) as image:
                how.on_image(split, sample.path, image)
                checksum = zlib.crc32(np.ascontiguousarray(image).data)
                thumbnail = make_thumbnail(image) if how.has_thumbnails else b""
                height, width = image.shape[:2]
        except ImageError as error:
            return _Picture(split, sample, reason=str(error))
        inspections.keep(sample.path, Finding(width, height, checksum, thumbnail=thumbnail))
        return _Picture(split, sample, width, height, checksum, thumbnail)

    def recall(item: tuple[str, Sample]) -> _Picture | None:
        known = inspections.find(item[1].path)
        if known is None or known.width * known.height / 1e6 > how.max_megapixels:
            return None
        if how.has_thumbnails and len(known.thumbnail) != THUMBNAIL_BYTES:
            return None
        return _Picture(*item, known.width, known.height, known.checksum, known.thumbnail)

    return map_in_threads(look_at, items, recall)


def _gather(items: Sequence[tuple[str, Sample]], own: list[_Picture]) -> list[_Picture]:
    """Return the pictures of all processes that train together, in the order of the items."""
    if (size := ranks.get_size()) == 1:
        return own
    facts: list[tuple[int, int, int, bytes, str]] = [(0, 0, 0, b"", "")] * len(items)
    shares = ranks.gather([(each.width, each.height, each.checksum, each.thumbnail, each.reason) for each in own])
    for rank, share in enumerate(shares):
        facts[rank::size] = share
    return [_Picture(split, sample, *found) for (split, sample), found in zip(items, facts, strict=True)]


def _check_is_there(dataset: Dataset, pictures: Sequence[_Picture]) -> None:
    """Refuse a data set whose folder went away while it was checked.

    Raises:
        DatasetError: It is so.
    """
    if any(picture.reason for picture in pictures) and not dataset.source.exists():
        raise DatasetError(f"'{dataset.source}' is no longer there; it vanished while its images were checked")


def _find_same(
    pictures: Sequence[_Picture],
    inspections: Inspections,
    read: Callable[[Path], AbstractContextManager[np.ndarray]],
    progress: Progress,
) -> list[list[_Picture]]:
    """Group files with equal pixels.

    Only what agrees in size and checksum is read again, and of that only files of different bytes are decoded again;
    neither where it is known from an earlier start.
    """

    def hash_file(path: Path) -> bytes:
        if (known := inspections.find(path)) and known.content:
            return known.content
        if content := _hash_file(path):
            inspections.add_hashes(path, content=content)
        return content or bytes(path)  # It vanished meanwhile: equal to nothing.

    def hash_pixels(path: Path) -> bytes:
        if (known := inspections.find(path)) and known.pixels:
            return known.pixels
        if found := _hash_pixels(path, read):
            inspections.add_hashes(path, pixels=found)
        return found or bytes(path)  # It became unreadable meanwhile: equal to nothing.

    candidates = defaultdict(list)
    for picture in pictures:
        candidates[picture.width, picture.height, picture.checksum].append(picture)
    alike = [group for group in candidates.values() if len(group) > 1]
    paths = [picture.sample.path for group in alike for picture in group]
    contents = dict(zip(paths, _hash_all(hash_file, paths, progress), strict=True))
    by_content = [{contents[picture.sample.path]: picture.sample.path for picture in group} for group in alike]
    differing = {content: path for paths in by_content if len(paths) > 1 for content, path in paths.items()}
    hashes = _hash_all(hash_pixels, list(differing.values()), progress)
    pixels = dict(zip(differing, hashes, strict=True))
    groups = []
    for group in alike:
        same = defaultdict(list)
        for picture in group:
            content = contents[picture.sample.path]
            same[pixels.get(content, content)].append(picture)
        groups += [group for group in same.values() if len(group) > 1]
    return groups


def _find_near(
    pictures: Sequence[_Picture], groups: Sequence[Sequence[_Picture]], progress: Progress
) -> list[tuple[_Picture, _Picture, float]]:
    """Find pictures of val and test that are nearly the same as one of train; those that are the same are known."""
    known = {id(picture) for group in groups if _is_leak(group) for picture in group}
    train = [picture for picture in pictures if picture.split == "train"]
    others = [picture for picture in pictures if picture.split != "train" and id(picture) not in known]
    if not train or not others:
        return []

    def stack(pictures: Sequence[_Picture]) -> np.ndarray:
        thumbnails = b"".join(picture.thumbnail for picture in pictures)
        return np.frombuffer(thumbnails, np.uint8).reshape(len(pictures), THUMBNAIL_BYTES)

    pairs = find_near_duplicates(stack(train), stack(others), progress)
    return [(train[first], others[second], similarity) for first, second, similarity in pairs]


def _hash_all(function: Callable[[Path], bytes], paths: Sequence[Path], progress: Progress) -> list[bytes]:
    if not paths:
        return []  # a bar of nothing says nothing
    with progress.show("comparing images", len(paths), unit="image") as bar:
        return list(progress.watch(map_in_threads(function, paths), bar))


def _hash_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open_key(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return b""
    return digest.digest()


def _hash_pixels(path: Path, read: Callable[[Path], AbstractContextManager[np.ndarray]]) -> bytes:
    try:
        with read(path) as image:
            return hashlib.sha256(np.ascontiguousarray(image).data).digest()
    except ImageError:
        return b""


def _make_report(
    dataset: Dataset,
    pictures: Sequence[_Picture],
    groups: Sequence[Sequence[_Picture]],
    near: Sequence[tuple[_Picture, _Picture, float]] | None,
) -> DataReport:
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent
    counts = {name: dict.fromkeys(SPLITS, 0) for name in dataset.classes}
    for split in SPLITS:
        for sample in getattr(dataset, split):
            counts[dataset.classes[sample.label]][split] += 1

    def name_all(pictures: Iterable[_Picture]) -> list[str]:
        return [_name(picture.sample.path, folder) for picture in pictures]

    def describe(picture: _Picture, other: _Picture, similarity: float) -> dict[str, Any]:
        paths = {"path": _name(other.sample.path, folder), "train_path": _name(picture.sample.path, folder)}
        labels = {"label": dataset.classes[other.sample.label], "train_label": dataset.classes[picture.sample.label]}
        return {**paths, "split": other.split, **labels, "similarity": round(similarity, 4)}

    return DataReport(
        source=_name(dataset.source, None),
        has_own_split=dataset.has_own_split,
        class_counts=counts,
        image_sizes=_summarize_sizes([picture for picture in pictures if not picture.reason]),
        unreadable=[
            {"path": _name(picture.sample.path, folder), "reason": to_encodable(picture.reason)}
            for picture in pictures
            if picture.reason
        ],
        leaks=[name_all(group) for group in groups if _is_leak(group)],
        label_conflicts=[name_all(group) for group in groups if len({picture.sample.label for picture in group}) > 1],
        duplicates=[name_all(group) for group in groups],
        near_duplicates=None if near is None else [describe(*pair) for pair in near],
        ignored=[_name(path, folder) for path in dataset.ignored],
    )


def _is_leak(group: Sequence[_Picture]) -> bool:
    splits = {picture.split for picture in group}
    return "train" in splits and len(splits) > 1


def _summarize_sizes(pictures: Sequence[_Picture]) -> dict[str, dict[str, int]]:
    sides = {"width": [p.width for p in pictures], "height": [p.height for p in pictures]}
    return {
        side: {"smallest": min(values), "median": median_low(values), "largest": max(values)}
        for side, values in sides.items()
        if values
    }


def _warn(report: DataReport) -> None:
    for entry in report.unreadable[:MAX_WARNINGS]:
        logger.warning("left out %s", entry["reason"])
    if len(report.unreadable) > MAX_WARNINGS:
        logger.warning("left out %d more images that cannot be read", len(report.unreadable) - MAX_WARNINGS)
    if report.leaks:
        remedy = "remove the copies" if report.has_own_split else "remove the copies, or give a validation split"
        logger.warning(
            "%d pictures are in train and also in val or test, such as %s; figures come out too good; %s",
            len(report.leaks),
            _shorten(report.leaks[0]),
            remedy,
        )
    if report.near_duplicates:
        first = report.near_duplicates[0]
        logger.warning(
            "%d pictures of val or test are nearly the same as one of train, such as %s and %s; figures may come out "
            "too good; %s lists them",
            len(report.near_duplicates),
            first["path"],
            first["train_path"],
            NEAR_DUPLICATES_NAME,
        )
    elif report.near_duplicates is None:
        logger.info(
            "there are too many images to look for pictures that are nearly the same in train and in val or test"
        )
    if report.label_conflicts:
        logger.warning(
            "%d pictures are in more than one class, such as %s",
            len(report.label_conflicts),
            _shorten(report.label_conflicts[0]),
        )


def _shorten(group: Sequence[str]) -> str:
    """Write a group of files that are the same; of many, some."""
    shown = " = ".join(group[:_MAX_NAMED])
    return f"{shown} and {len(group) - _MAX_NAMED} more" if len(group) > _MAX_NAMED else shown


def _name(path: Path, folder: Path | None) -> str:
    if folder is not None and path.is_relative_to(folder):
        path = path.relative_to(folder)
    return to_encodable(path.as_posix())
