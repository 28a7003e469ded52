"""A look at every image before training: what cannot be read, what is there twice, what leaks into validation."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.data.dataset import Dataset, DatasetError, check_splits, join_samples
from resnetkit.folders.cells import write_path, write_text
from resnetkit.folders.tables import write_csv
from resnetkit.images.inspection import Finding, Inspections, hash_content, hash_pixels
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


class _Pictures:
    """What is known of the images of all splits, which are known by their positions, one split after the other."""

    def __init__(self, dataset: Dataset, has_thumbnails: bool) -> None:
        splits = [getattr(dataset, split) for split in SPLITS]
        self.samples = join_samples(splits)
        self.split_numbers = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(samples) for samples in splits])
        count = len(self.samples)
        self.facts = np.zeros(count, [("width", np.int32), ("height", np.int32), ("checksum", np.uint32)])
        self.thumbnails = np.zeros((count, THUMBNAIL_BYTES if has_thumbnails else 0), np.uint8)
        self.reasons: dict[int, str] = {}

    def note(self, index: int, found: Finding | str) -> None:
        """Take in what was found in an image, or why it cannot be read."""
        if isinstance(found, str):
            self.reasons[index] = found
            return
        self.facts[index] = found.width, found.height, found.checksum
        if self.thumbnails.shape[1]:
            self.thumbnails[index] = np.frombuffer(found.thumbnail, np.uint8)

    def gather(self) -> None:
        """Take over what the other processes that train together know of their shares."""
        size, rank = ranks.get_size(), ranks.get_rank()
        if size == 1:
            return
        everyone = ranks.gather((self.facts[rank::size], self.thumbnails[rank::size], self.reasons))
        for other, (facts, thumbnails, reasons) in enumerate(everyone):
            self.facts[other::size], self.thumbnails[other::size] = facts, thumbnails
            self.reasons |= reasons
        self.reasons = dict(sorted(self.reasons.items()))

    def find_readable(self, split: str | None = None) -> np.ndarray:
        """Return the positions of what could be read, of one split or of all."""
        is_readable = np.ones(len(self.samples), bool)
        is_readable[list(self.reasons)] = False
        if split is not None:
            is_readable &= self.split_numbers == SPLITS.index(split)
        return np.flatnonzero(is_readable)

    def get_split(self, index: int) -> str:
        return SPLITS[self.split_numbers[index]]

    def is_leak(self, group: Sequence[int]) -> bool:
        splits = {self.get_split(index) for index in group}
        return "train" in splits and len(splits) > 1


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
    has_thumbnails = is_comparable(len(dataset.train), len(dataset.val) + len(dataset.test))
    pictures = _Pictures(dataset, has_thumbnails)
    share = range(len(pictures.samples))[ranks.get_rank() :: ranks.get_size()]
    with closing(Inspections(dataset.source, value_range)) as inspections:
        with progress.show("checking images", len(share), unit="image") as bar:
            looks = _look_at_all(pictures, share, _Look(read, max_megapixels, has_thumbnails, on_image), inspections)
            for index, found in zip(share, progress.watch(looks, bar), strict=True):
                pictures.note(index, found)
        pictures.gather()
        groups = _find_same(pictures, inspections, read, progress)
    _check_is_there(dataset, pictures)
    train, val, test = (pictures.samples.select(pictures.find_readable(split)) for split in SPLITS)
    cleaned = replace(dataset, train=train, val=val, test=test)
    near = _find_near(pictures, groups, progress) if has_thumbnails else None
    report = _make_report(cleaned, pictures, groups, near)
    _warn(report)
    check_splits(cleaned)
    return cleaned, report


def _look_at_all(
    pictures: _Pictures, share: Sequence[int], how: _Look, inspections: Inspections
) -> Iterator[Finding | str]:
    def look_at(index: int) -> Finding | str:
        path = pictures.samples.paths[index]
        try:
            with how.read(path) as image:
                how.on_image(pictures.get_split(index), path, image)
                checksum = zlib.crc32(np.ascontiguousarray(image).data)
                thumbnail = make_thumbnail(image) if how.has_thumbnails else b""
                height, width = image.shape[:2]
        except ImageError as error:
            return str(error)
        inspections.keep(path, found := Finding(width, height, checksum, thumbnail=thumbnail))
        return found

    def recall(index: int) -> Finding | None:
        known = inspections.find(pictures.samples.paths[index])
        if known is None or known.width * known.height / 1e6 > how.max_megapixels:
            return None
        if how.has_thumbnails and len(known.thumbnail) != THUMBNAIL_BYTES:
            return None
        return known

    return map_in_threads(look_at, share, recall)


def _check_is_there(dataset: Dataset, pictures: _Pictures) -> None:
    """Refuse a data set whose folder went away while it was checked.

    Raises:
        DatasetError: It is so.
    """
    if pictures.reasons and not dataset.source.exists():
        raise DatasetError(f"'{dataset.source}' is no longer there; it vanished while its images were checked")


def _find_same(
    pictures: _Pictures,
    inspections: Inspections,
    read: Callable[[Path], AbstractContextManager[np.ndarray]],
    progress: Progress,
) -> list[list[int]]:
    """Group files with equal pixels.

    Only what agrees in size and checksum is read again, and of that only files of different bytes are decoded again;
    neither where it is known from an earlier start.
    """

    def find_content(path: Path) -> bytes:
        if (known := inspections.find(path)) and known.content:
            return known.content
        if content := hash_content(path):
            inspections.add_hashes(path, content=content)
        return content or bytes(path)  # It vanished meanwhile: equal to nothing.

    def find_pixels(path: Path) -> bytes:
        if (known := inspections.find(path)) and known.pixels:
            return known.pixels
        if found := hash_pixels(path, read):
            inspections.add_hashes(path, pixels=found)
        return found or bytes(path)  # It became unreadable meanwhile: equal to nothing.

    alike = _find_alike(pictures)
    indices = [index for group in alike for index in group]
    paths = pictures.samples.paths.select(indices)
    contents = dict(zip(indices, _hash_all(find_content, paths, progress), strict=True))
    by_content = [{contents[index]: index for index in group} for group in alike]
    differing = {content: index for group in by_content if len(group) > 1 for content, index in group.items()}
    hashes = _hash_all(find_pixels, pictures.samples.paths.select(differing.values()), progress)
    pixels = dict(zip(differing, hashes, strict=True))
    groups = []
    for group in alike:
        same = defaultdict(list)
        for index in group:
            same[pixels.get(contents[index], contents[index])].append(index)
        groups += [group for group in same.values() if len(group) > 1]
    return groups


def _find_alike(pictures: _Pictures) -> list[list[int]]:
    """Group the images that agree in size and checksum."""
    readable = pictures.find_readable()
    facts = pictures.facts[readable]
    order = np.lexsort((facts["checksum"], facts["height"], facts["width"]))  # stable: by position within a group
    is_first = np.ones(len(order), bool)
    is_first[1:] = facts[order[1:]] != facts[order[:-1]]
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(order))
    runs = zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True)
    return sorted(readable[order[start : start + count]].tolist() for start, count in runs)


def _find_near(
    pictures: _Pictures, groups: Sequence[Sequence[int]], progress: Progress
) -> list[tuple[int, int, float]]:
    """Find pictures of val and test that are nearly the same as one of train; those that are the same are known."""
    known = [index for group in groups if pictures.is_leak(group) for index in group]
    train = pictures.find_readable("train")
    others = np.setdiff1d(pictures.find_readable(), [*train, *known])
    if not len(train) or not len(others):
        return []
    pairs = find_near_duplicates(pictures.thumbnails[train], pictures.thumbnails[others], progress)
    return [(int(train[first]), int(others[second]), similarity) for first, second, similarity in pairs]


def _hash_all(function: Callable[[Path], bytes], paths: Sequence[Path], progress: Progress) -> list[bytes]:
    if not paths:
        return []  # a bar of nothing says nothing
    with progress.show("comparing images", len(paths), unit="image") as bar:
        return list(progress.watch(map_in_threads(function, paths), bar))


def _make_report(
    dataset: Dataset,
    pictures: _Pictures,
    groups: Sequence[Sequence[int]],
    near: Sequence[tuple[int, int, float]] | None,
) -> DataReport:
    folder = dataset.train.paths.folder
    counts = {
        split: np.bincount(getattr(dataset, split).labels, minlength=len(dataset.classes)).tolist() for split in SPLITS
    }

    def name(index: int) -> str:
        return _name(pictures.samples.paths[index], folder)

    def name_all(group: Iterable[int]) -> list[str]:
        return [name(index) for index in group]

    def describe(index: int, other: int, similarity: float) -> dict[str, Any]:
        label, train_label = (dataset.classes[pictures.samples.labels[each]] for each in (other, index))
        labels = {"label": label, "train_label": train_label}
        paths = {"path": name(other), "train_path": name(index)}
        return {**paths, "split": pictures.get_split(other), **labels, "similarity": round(similarity, 4)}

    return DataReport(
        source=_name(dataset.source, None),
        has_own_split=dataset.has_own_split,
        class_counts={
            each: {split: counts[split][label] for split in SPLITS} for label, each in enumerate(dataset.classes)
        },
        image_sizes=_summarize_sizes(pictures),
        unreadable=[
            {"path": name(index), "reason": to_encodable(reason)} for index, reason in pictures.reasons.items()
        ],
        leaks=[name_all(group) for group in groups if pictures.is_leak(group)],
        label_conflicts=[name_all(group) for group in groups if len(set(pictures.samples.labels[group])) > 1],
        duplicates=[name_all(group) for group in groups],
        near_duplicates=None if near is None else [describe(*pair) for pair in near],
        ignored=[_name(path, folder) for path in dataset.ignored],
    )


def _summarize_sizes(pictures: _Pictures) -> dict[str, dict[str, int]]:
    facts = pictures.facts[pictures.find_readable()]
    if not len(facts):
        return {}
    sides = {side: np.sort(facts[side]) for side in ("width", "height")}
    return {
        side: {"smallest": int(values[0]), "median": int(values[(len(values) - 1) // 2]), "largest": int(values[-1])}
        for side, values in sides.items()
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
