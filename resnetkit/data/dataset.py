"""Data sets: which image belongs to which class and to which split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetkit.data.sources import (
    TABLE_SUFFIXES,
    ClassFiles,
    DatasetError,
    enumerate_names,
    get_order,
    read_folder,
    read_table,
)
from resnetkit.images.reading import IMAGE_SUFFIXES

MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Sample:
    """One image file and the index of its class."""

    path: Path
    label: int


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
        ignored: Files that lie in the folders but are no images by their names.
    """

    source: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    has_own_split: bool
    ignored: tuple[Path, ...] = ()


def read_dataset(source: Path, val_split: float, seed: int) -> Dataset:
    """Find the images of a data set, their classes and splits; no image is opened.

    Args:
        source: A folder `train/<class>/` with `val/`, `valid/` or `validation/` and perhaps `test/` beside `train/`;
            or a folder `<class>/`; or a CSV or TSV file with the columns path, label and perhaps split, whose paths
            are relative to the file. Class folders may hold further folders. Hidden files are left out.
        val_split: Share of the training images that becomes the validation split where there is none.
        seed: Start of the draw of that split.

    Raises:
        DatasetError: Nothing there, fewer than two classes or too many, a class without training images, no image
            for validation, or a wrong row of a table.
    """
    ignored: list[Path] = []
    if source.is_dir():
        files = read_folder(source, ignored)
    elif source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        files = read_table(source)
    else:
        found = "a file of another kind" if source.exists() else "nothing"
        raise DatasetError(f"'{source}' must be a folder or a CSV/TSV file; found {found}")
    _check_classes(source, files)
    has_own_split = bool(files["val"])
    if not has_own_split:
        files["train"], files["val"] = _draw_split(files["train"], val_split, seed)
    dataset = _build_dataset(source, files, has_own_split, ignored)
    check_splits(dataset)
    return dataset


def check_splits(dataset: Dataset) -> None:
    """Refuse a data set with a class that has no training image, or without validation images.

    Raises:
        DatasetError: It cannot be trained on; the message names the classes.
    """
    with_images = {sample.label for sample in dataset.train}
    missing = [name for label, name in enumerate(dataset.classes) if label not in with_images]
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
        if not name.isprintable():
            raise DatasetError(f"class name {name!r} of '{source}' has characters that cannot be printed; rename it")


def _build_dataset(source: Path, files: ClassFiles, has_own_split: bool, ignored: Iterable[Path]) -> Dataset:
    classes = tuple(sorted(files["train"], key=get_order))
    splits = {
        split: tuple(Sample(path, label) for label, name in enumerate(classes) for path in files[split].get(name, ()))
        for split in ("train", "val", "test")
    }
    return Dataset(source, classes, **splits, has_own_split=has_own_split, ignored=tuple(ignored))


def _draw_split(
    classes: Mapping[str, Sequence[Path]], val_split: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Draw the validation images, class by class; a class's draw does not depend on the other classes."""
    counts = _count_validation({name: len(paths) for name, paths in classes.items()}, val_split)
    train, val = {}, {}
    for name, paths in classes.items():
        entropy = np.random.SeedSequence((seed, *get_order(name)))
        order = np.random.Generator(np.random.Philox(entropy)).permutation(len(paths))
        chosen = set(order[: counts[name]].tolist())
        train[name] = [path for index, path in enumerate(paths) if index not in chosen]
        val[name] = [path for index, path in enumerate(paths) if index in chosen]
    return train, val


def _count_validation(sizes: Mapping[str, int], val_split: float) -> dict[str, int]:
    """Share out the validation images by the method of largest remainders.

    Every class of two images and more gives at least one and keeps at least one.
    """
    names = sorted(sizes, key=get_order)
    quotas = {name: sizes[name] * val_split for name in names}
    counts = {name: int(quotas[name]) for name in names}
    missing = round(sum(quotas.values())) - sum(counts.values())
    for name in sorted(names, key=lambda name: counts[name] - quotas[name])[: max(0, missing)]:
        counts[name] += 1
    return {name: min(max(counts[name], 1), sizes[name] - 1) for name in names}
