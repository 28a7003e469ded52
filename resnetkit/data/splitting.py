"""The draw of validation images from the training images of a data set that has no validation split of its own."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from resnetkit.sources.names import compose, get_order
from resnetkit.sources.paths import PathList

#: The rules of the draw: 1 went by the number of an image in its class, so that one image more drew others; 2 goes by
#: its name. A run that began under the first goes on under it.
SPLIT_RULES = (1, 2)
SPLIT_RULE = 2

ClassPaths = dict[str, PathList]


def draw_by_position(classes: ClassPaths, val_split: float, seed: int) -> tuple[ClassPaths, ClassPaths]:
    """Draw validation images class by class by their positions, as runs of rule 1 did.

    Returns:
        The images to train on and those to validate with, by class and in their order.
    """
    counts = count_validation({name: len(paths) for name, paths in classes.items()}, val_split)
    chosen = {}
    for name, paths in classes.items():
        entropy = np.random.SeedSequence((seed, *get_order(name)))
        order = np.random.Generator(np.random.Philox(entropy)).permutation(len(paths))
        chosen[name] = order[: counts[name]]
    return _divide(classes, chosen)


def draw_by_name(classes: ClassPaths, val_split: float, seed: int) -> tuple[ClassPaths, ClassPaths]:
    """Draw validation images class by class: those whose names have the lowest hashes.

    An image that is added or removed moves none of the others, but where the number of validation images changes or
    its own hash is among the lowest; then one changes its place.

    Args:
        classes: The images of each class.
        val_split: Share of the images to validate with.
        seed: Start of the draw.

    Returns:
        The images to train on and those to validate with, by class and in their order.
    """
    counts = count_validation({name: len(paths) for name, paths in classes.items()}, val_split)
    chosen = {}
    for name, paths in classes.items():
        hashes = b"".join(_hash(_get_own_name(text, name), seed) for text in paths.write_below())
        chosen[name] = np.frombuffer(hashes, ">u8").argsort(kind="stable")[: counts[name]]
    return _divide(classes, chosen)


def draw_groups(
    classes: ClassPaths, groups: Mapping[str, str], val_split: float, seed: int
) -> tuple[ClassPaths, ClassPaths]:
    """Draw whole groups of images, in the order of their hashes, as long as each brings the classes nearer their share.

    No group is taken that would leave a class without an image to train on. A class that then has no validation image
    gets the first group with which it has some, where there is one.

    Args:
        classes: The images of each class.
        groups: The group of each image, by its path as text.
        val_split: Share of the images to validate with.
        seed: Start of the draw.

    Returns:
        The images to train on and those to validate with, by class and in their order.
    """
    sizes = {name: len(paths) for name, paths in classes.items()}
    wanted = count_validation(sizes, val_split)
    by_group: dict[str, Counter[str]] = defaultdict(Counter)
    for name, paths in classes.items():
        for path in paths.write():
            by_group[groups[path]][name] += 1
    order = sorted(by_group, key=lambda group: _hash(group, seed))
    drawn: Counter[str] = Counter()
    chosen = set()

    def take(group: str) -> None:
        if group not in chosen and all(drawn[name] + by_group[group][name] < sizes[name] for name in by_group[group]):
            chosen.add(group)
            drawn.update(by_group[group])

    for group in order:
        counts = by_group[group].items()
        if sum(abs(wanted[name] - drawn[name] - count) - abs(wanted[name] - drawn[name]) for name, count in counts) < 0:
            take(group)
    for name in sorted(classes, key=get_order):
        for group in order:
            if not drawn[name] and by_group[group][name]:
                take(group)
    in_val = {
        name: [index for index, path in enumerate(paths.write()) if groups[path] in chosen]
        for name, paths in classes.items()
    }
    return _divide(classes, in_val)


def count_validation(sizes: Mapping[str, int], val_split: float) -> dict[str, int]:
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


def _divide(classes: ClassPaths, chosen: Mapping[str, Sequence[int] | np.ndarray]) -> tuple[ClassPaths, ClassPaths]:
    """Divide each class into the images that were not chosen and those that were, by their positions."""
    train: ClassPaths = {}
    val: ClassPaths = {}
    for name, paths in classes.items():
        is_chosen = np.zeros(len(paths), bool)
        is_chosen[chosen[name]] = True
        train[name], val[name] = paths.select(np.flatnonzero(~is_chosen)), paths.select(np.flatnonzero(is_chosen))
    return train, val


def _get_own_name(text: str, class_name: str) -> str:
    """Return an image's path below its class folder: the same whatever the class and the data set's folder are called.

    Where no folder has the name of the class, as in many tables, it is the path below the data set's folder.

    Args:
        text: The path below the data set's folder.
        class_name: Of the image.
    """
    parts = text.split(os.sep)  # noqa: PTH206 - of strings, for millions of files
    for position, part in enumerate(parts[:-1]):
        if compose(part).strip() == class_name:
            return "/".join(parts[position + 1 :])
    return "/".join(parts)


def _hash(name: str, seed: int) -> bytes:
    return hashlib.blake2b(get_order(name), digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
