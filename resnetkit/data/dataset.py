"""Data sets: which image belongs to which class and to which split."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from resnetkit.data.splitting import SPLIT_RULE, draw_by_name, draw_by_position, draw_groups
from resnetkit.images.reading import IMAGE_SUFFIXES
from resnetkit.machine.speaking import get_logger
from resnetkit.sources.folders import read_folder
from resnetkit.sources.names import ClassFiles, DatasetError, SourceFiles, enumerate_names, get_order
from resnetkit.sources.paths import PathList
from resnetkit.sources.shards import find_shards, read_shards
from resnetkit.sources.tables import TABLE_SUFFIXES, read_table

__all__ = [
    "Dataset",
    "DatasetError",
    "Sample",
    "Samples",
    "check_splits",
    "gather_samples",
    "join_samples",
    "read_dataset",
]

logger = get_logger()

MAX_CLASSES = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file and the index of its class."""

    path: Path
    label: int


class Samples(Sequence[Sample]):
    """Images of a split: their paths and labels; a `Sample` is made whenever one is asked for.

    Attributes:
        paths: The files.
        labels: (N,) int32.
    """

    def __init__(self, paths: PathList, labels: Sequence[int] | np.ndarray) -> None:
        self.paths = paths
        self.labels = np.asarray(labels, np.int32)

    def select(self, indices: Sequence[int] | np.ndarray) -> Samples:
        """Return the images at these positions, counted from 0."""
        return Samples(self.paths.select(indices), self.labels[np.asarray(indices, np.int64)])

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self.paths[index], self.labels[index])
        return Sample(self.paths[index], int(self.labels[index]))

    def __iter__(self) -> Iterator[Sample]:
        return map(Sample, self.paths, map(int, self.labels))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} images below '{self.paths.folder}'>"


def gather_samples(folder: Path, by_label: Mapping[int, PathList]) -> Samples:
    """Return images below a folder of several classes, ordered by their labels."""
    paths, labels = PathList(folder), sorted(by_label)
    for label in labels:
        paths.extend(by_label[label])
    counts = [len(by_label[label]) for label in labels]
    return Samples(paths, np.repeat(np.array(labels, np.int32), np.array(counts, np.int64)))


def join_samples(parts: Sequence[Samples]) -> Samples:
    """Return the images of several splits of a data set, one after the other."""
    paths = PathList(parts[0].paths.folder)
    for part in parts:
        paths.extend(part.paths)
    return Samples(paths, np.concatenate([part.labels for part in parts]))


@dataclass(frozen=True)
class Dataset:
    """Images of known classes, in their splits.

    Attributes:
        source: The folder or table they were read from.
        classes: Names of the classes that have training images, sorted; labels are indices into it.
        train: What is learned from, class by class in order.
        val: What the best epoch is chosen by.
        test: What is only looked at in the end; may be empty.
        has_own_split: Whether `val` came with the data set; else it was drawn from its training images.
        ignored: What was left out: files that are no images by their names, hidden files and folders, those of the
            system, and what training wrote.
        groups: What an image belongs to (a patient, a day) where a table says it, by its path as text; a drawn split
            separates none.
    """

    source: Path
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples
    has_own_split: bool
    ignored: tuple[Path, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


def read_dataset(
    source: Path, val_split: float, seed: int, split_rule: int = SPLIT_RULE, output_folder: Path | None = None
) -> Dataset:
    """Find the images of a data set, their classes and splits; no image is opened.

    Args:
        source: A folder `train/<class>/` with `val/` and perhaps `test/` beside `train/`, by any of their usual names;
            or a folder `<class>/`; or a CSV or TSV file with columns of paths, relative to the file, and of labels,
            perhaps also of splits and of groups; or tar shards or Parquet files, one or a folder of them. Class folders
            may hold further folders. What is hidden, of the system or written by training is left out.
        val_split: Share of the training images that becomes the validation split where there is none.
        seed: Start of the draw of that split.
        split_rule: How it is drawn, see `SPLIT_RULES`.
        output_folder: Where training writes; where that is in the data set, it is no class.

    Raises:
        DatasetError: Nothing there, fewer than two classes or too many, a class without training images, no image
            for validation, a wrong row of a table, or folders that could be classes or splits.
    """
    found = read_source(source, output_folder)
    files = found.splits
    _check_classes(source, files)
    _warn_of_names(found.spellings)
    has_own_split = bool(files["val"])
    if has_own_split:
        _warn_of_separated_groups(found)
    elif found.groups:
        files["train"], files["val"] = draw_groups(files["train"], found.groups, val_split, seed)
    elif split_rule == 1:
        files["train"], files["val"] = draw_by_position(files["train"], val_split, seed)
    else:
        files["train"], files["val"] = draw_by_name(files["train"], val_split, seed)
    dataset = _build_dataset(source, found, has_own_split)
    check_splits(dataset)
    return dataset


def read_source(source: Path, output_folder: Path | None = None) -> SourceFiles:
    """Find the files of each class of each split in a folder, table or shards; as `read_dataset` does."""
    if shards := find_shards(source):
        return read_shards(source, shards)
    if source.is_dir():
        return read_folder(source, output_folder)
    if source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        return read_table(source)
    there = "a file of another kind" if source.exists() else "nothing"
    raise DatasetError(f"'{source}' must be a folder, a CSV/TSV file or shards (.tar, .parquet); found {there}")


def check_splits(dataset: Dataset) -> None:
    """Refuse a data set with a class that has no training image, or without validation images.

    Raises:
        DatasetError: It cannot be trained on; the message names the classes.
    """
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    missing = [dataset.classes[label] for label in np.flatnonzero(counts == 0)]
    if missing:
        raise DatasetError(
            f"no readable training image of {enumerate_names(missing)} in '{dataset.source}'; "
            "add images or remove the class"
        )
    if not dataset.val:
        raise DatasetError(
            f"'{dataset.source}' has no image for validation; expected a class with at least two "
            "readable images, or images in its own validation split"
        )


def _check_classes(source: Path, files: ClassFiles) -> None:
    classes = files["train"]
    if not classes and any(files.values()):
        raise DatasetError(f"'{source}' has no training images; expected some beside those to validate and test")
    for split in ("val", "test"):
        unknown = [name for name in files[split] if name not in classes]
        if unknown:
            raise DatasetError(
                f"{enumerate_names(unknown)} of the {split} split of '{source}' has no training images; "
                f"expected the classes of train: {enumerate_names(list(classes))}"
            )
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise DatasetError(
            f"no training image of {enumerate_names(empty)} in '{source}'; "
            f"add images ({', '.join(IMAGE_SUFFIXES)}) or remove the class"
        )
    if len(classes) < 2:
        raise DatasetError(f"'{source}' has only the class {enumerate_names(list(classes))}; expected at least two")
    if len(classes) > MAX_CLASSES:
        raise DatasetError(
            f"'{source}' has {len(classes)} classes; expected at most {MAX_CLASSES}. Is each folder really a class?"
        )
    for name in classes:
        if not name.strip():
            raise DatasetError(f"'{source}' has a class whose name is blank; rename it")
        if not name.isprintable():
            raise DatasetError(f"class name {name!r} of '{source}' has characters that cannot be printed; rename it")


def _warn_of_names(spellings: Mapping[str, Iterable[str]]) -> None:
    """Warn of classes that are perhaps one, and of one that is written in several ways."""
    alike = defaultdict(list)
    for name, written in sorted(spellings.items()):
        if len(written := sorted(written)) > 1:
            logger.warning("%s are taken for one class, '%s'", enumerate_names(written), name)
        alike[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            logger.warning("%s are different classes; if they mean the same, rename them", enumerate_names(names))


def _warn_of_separated_groups(found: SourceFiles) -> None:
    splits = defaultdict(set)
    for split, classes in found.splits.items():
        for paths in classes.values():
            for path in paths.write():
                if path in found.groups:
                    splits[found.groups[path]].add(split)
    separated = sorted(group for group, places in splits.items() if "train" in places and len(places) > 1)
    if separated:
        logger.warning(
            "images of the groups %s are in train and also in val or test; figures come out too good",
            enumerate_names(separated),
        )


def _build_dataset(source: Path, found: SourceFiles, has_own_split: bool) -> Dataset:
    classes = tuple(sorted(found.splits["train"], key=get_order))
    labels = {name: label for label, name in enumerate(classes)}
    splits = {
        split: gather_samples(found.folder, {labels[name]: paths for name, paths in files.items()})
        for split, files in found.splits.items()
    }
    return Dataset(
        source, classes, **splits, has_own_split=has_own_split, ignored=tuple(found.ignored), groups=found.groups
    )
