"""Labelled images to evaluate on, and their classes matched with the model's by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetkit.data.dataset import Samples, gather_samples, read_source
from resnetkit.sources.names import ClassFiles, DatasetError, compose, enumerate_names
from resnetkit.sources.paths import PathList

#: What may be evaluated; auto is test where there is one, else val, else everything.
SPLITS = ("auto", "train", "val", "test", "all")


@dataclass(frozen=True)
class LabelledImages:
    """Images of a data set with the model's labels.

    Attributes:
        source: The folder or table.
        split: Which part of it: train, val, test or all.
        samples: Images of classes that the model knows; labels are indices of its outputs.
        unknown: Images of each class that the model does not know, by its name.
        missing: Classes of the model that have no image here.
    """

    source: Path
    split: str
    samples: Samples
    unknown: Mapping[str, PathList]
    missing: tuple[str, ...]


def find_labelled_images(source: Path, classes: Sequence[str], split: str = "auto") -> LabelledImages:
    """Find the images of a data set and match its classes with a model's, by name and never by position.

    Args:
        source: What training takes: a folder `<class>/`, or one with splits, or a CSV or TSV file. One class is enough.
        classes: The model's, in the order of its outputs.
        split: See `SPLITS`.

    Raises:
        DatasetError: There is nothing, no such split, or no class in common; or the model has a name twice.
    """
    found = read_source(source)
    files = found.splits
    split = _choose_split(source, files, split)
    by_name: dict[str, PathList] = {}
    for part in ("train", "val", "test") if split == "all" else (split,):
        for name, paths in files[part].items():
            by_name.setdefault(name, PathList(found.folder)).extend(paths)
    by_name = {name: paths for name, paths in by_name.items() if paths}
    indices = {compose(name): index for index, name in enumerate(classes)}
    _check_names(source, by_name, classes)
    known = {indices[name]: by_name[name] for name in by_name.keys() & indices.keys()}
    samples = gather_samples(found.folder, known)
    unknown = {name: paths for name, paths in by_name.items() if name not in indices}
    missing = tuple(name for name in classes if compose(name) not in by_name)
    return LabelledImages(source, split, samples, unknown, missing)


def describe_mismatch(images: LabelledImages) -> list[str]:
    """Say which classes only one side knows; nothing where both know the same."""
    sentences = []
    if images.unknown:
        count = sum(len(paths) for paths in images.unknown.values())
        names = enumerate_names(list(images.unknown))
        sentences.append(
            f"The model does not know {names}: {count:,} {'image is' if count == 1 else 'images are'} in none of the "
            f"figures. Counted as wrong, they would lower the accuracy by the factor "
            f"{len(images.samples) / (len(images.samples) + count):.3f}."
        )
    if images.missing:
        names = enumerate_names(images.missing)
        sentences.append(f"The data set has no image of {names}, which the model knows.")
    return sentences


def _choose_split(source: Path, files: ClassFiles, split: str) -> str:
    if split == "auto":
        return next((name for name in ("test", "val") if any(files[name].values())), "all")
    if split not in SPLITS:
        raise DatasetError(f"'split' must be one of {', '.join(SPLITS)}, got {split!r}")
    if split != "all" and not any(files[split].values()):
        own = [name for name, classes in files.items() if any(classes.values())]
        raise DatasetError(f"'{source}' has no {split} split; expected one of {', '.join(own)}, auto or all")
    return split


def _check_names(source: Path, by_name: Mapping[str, Sequence[Path]], classes: Sequence[str]) -> None:
    counts = Counter(compose(name) for name in classes)
    twice = [name for name, count in counts.items() if count > 1 and name in by_name]
    if twice:
        raise DatasetError(f"the model names more than one class {enumerate_names(twice)}; give each a name of its own")
    if not by_name:
        raise DatasetError(f"'{source}' has no images; expected class folders with images")
    if not by_name.keys() & counts.keys():
        raise DatasetError(
            f"'{source}' and the model have no class in common: the data set has {enumerate_names(list(by_name))}, "
            f"the model knows {enumerate_names(classes)}"
        )
