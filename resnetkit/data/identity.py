"""Whether two data sets are the same one: a hash of the names, labels, sizes and splits of all images."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from resnetkit.data.dataset import Dataset, Sample, check_splits
from resnetkit.data.scanning import MAX_WARNINGS
from resnetkit.decoding.storage import get_version
from resnetkit.machine.speaking import get_logger

logger = get_logger()


def measure_files(dataset: Dataset) -> tuple[Dataset, dict[Path, int]]:
    """Return the data set without the images that vanished since they were checked, and the others' sizes in bytes.

    Raises:
        DatasetError: With what is left nothing can be trained.
    """
    sizes: dict[Path, int] = {}
    vanished = 0
    for sample in (*dataset.train, *dataset.val, *dataset.test):
        try:
            sizes[sample.path] = get_version(sample.path)[0]
        except OSError as error:
            vanished += 1
            if vanished <= MAX_WARNINGS:
                logger.warning("left out '%s': it vanished since it was checked (%s)", sample.path, error.strerror)
    if vanished:
        train, val, test = (
            tuple(sample for sample in split if sample.path in sizes)
            for split in (dataset.train, dataset.val, dataset.test)
        )
        logger.warning("%d images vanished since they were checked", vanished)
        dataset = replace(dataset, train=train, val=val, test=test)
        check_splits(dataset)
    return dataset, sizes


def hash_listing(dataset: Dataset) -> str:
    """Hash names, labels and splits of all images, without looking at a file; as `hash_dataset` else."""
    return hash_dataset(dataset, defaultdict(int))


def hash_dataset(dataset: Dataset, sizes: Mapping[Path, int]) -> str:
    """Hash names, labels, sizes and splits of all images; where the folder lies has no influence."""
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent

    def identify(sample: Sample) -> tuple[str, int, int]:
        path = sample.path.relative_to(folder) if sample.path.is_relative_to(folder) else sample.path
        return path.as_posix(), sample.label, sizes[sample.path]

    splits = [[identify(sample) for sample in split] for split in (dataset.train, dataset.val, dataset.test)]
    return hashlib.sha256(json.dumps([dataset.classes, splits], ensure_ascii=True).encode()).hexdigest()
