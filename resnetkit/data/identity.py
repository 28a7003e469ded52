"""Whether two data sets are the same one: a hash of the names, labels, sizes and splits of all images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnetkit.data.dataset import Dataset, check_splits
from resnetkit.data.scanning import MAX_WARNINGS
from resnetkit.decoding.storage import get_version
from resnetkit.machine.speaking import get_logger
from resnetkit.sources.names import SPLITS

logger = get_logger()

#: Images whose part of the text that is hashed is in memory at a time.
_BLOCK_SIZE = 1000


def measure_files(dataset: Dataset) -> tuple[Dataset, np.ndarray]:
    """Return the data set without the images that vanished since they were checked, and the others' sizes in bytes.

    The sizes are those of training, validation and test images, one after the other, (N,) int64.

    Raises:
        DatasetError: With what is left nothing can be trained.
    """
    vanished = 0

    def measure(path: Path) -> int:
        nonlocal vanished
        try:
            return get_version(path)[0]
        except OSError as error:
            vanished += 1
            if vanished <= MAX_WARNINGS:
                logger.warning("left out '%s': it vanished since it was checked (%s)", path, error.strerror)
            return -1

    splits = {split: getattr(dataset, split) for split in SPLITS}
    sizes = {split: np.fromiter(map(measure, each.paths), np.int64, len(each)) for split, each in splits.items()}
    if vanished:
        left = {split: each.select(np.flatnonzero(sizes[split] >= 0)) for split, each in splits.items()}
        logger.warning("%d images vanished since they were checked", vanished)
        dataset = replace(dataset, **left)
        check_splits(dataset)
    together = np.concatenate(list(sizes.values()))
    return dataset, together[together >= 0]


def hash_listing(dataset: Dataset) -> str:
    """Hash names, labels and splits of all images, without looking at a file; as `hash_dataset` else."""
    return hash_dataset(dataset, np.zeros(sum(len(getattr(dataset, split)) for split in SPLITS), np.int64))


def hash_dataset(dataset: Dataset, sizes: np.ndarray) -> str:
    """Hash names, labels, sizes and splits of all images; where the folder lies has no influence.

    Args:
        dataset: The images.
        sizes: Of training, validation and test images in bytes, one after the other.
    """
    digest = hashlib.sha256()
    for text in _write_listing(dataset, sizes):
        digest.update(text.encode())
    return digest.hexdigest()


def _write_listing(dataset: Dataset, sizes: np.ndarray) -> Iterator[str]:
    """Yield, part by part, the JSON text `[classes, [train, val, test]]`, where an image is `[path, label, size]`."""
    yield f"[{json.dumps(dataset.classes)}, ["
    position = 0
    for split in SPLITS:
        samples = getattr(dataset, split)
        yield "[" if split == SPLITS[0] else ", ["
        for start in range(0, len(samples), _BLOCK_SIZE):
            block = samples[start : start + _BLOCK_SIZE]
            names = (text.replace(os.sep, "/") for text in block.paths.write_below())
            rows = zip(names, block.labels.tolist(), sizes[position : position + len(block)].tolist(), strict=True)
            position += len(block)
            yield (", " if start else "") + json.dumps(list(rows))[1:-1]
        yield "]"
    yield "]]"
