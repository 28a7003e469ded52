"""Data sets in tar shards and Parquet files: the class of each image, and the split that a shard is for.

Shards follow the convention of WebDataset: all files of a sample have one name and different endings, `17.jpg` with its
class in `17.cls`. Where there is no such file, a folder in the shard is the class, as it is outside of shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from resnetkit.decoding.storage import Archive, ParquetArchive, StorageError, is_archive, open_archive
from resnetkit.images.reading import IMAGE_SUFFIXES
from resnetkit.sources.folders import Folder
from resnetkit.sources.names import DatasetError, SourceFiles, find_split
from resnetkit.sources.tables import find_label_column

#: What WebDataset calls the class of a sample.
_CLASS_SUFFIX = ".cls"


def find_shards(source: Path) -> list[Path]:
    """Return the shards that a data set consists of, ordered by their paths; none where it is one of another kind.

    Args:
        source: A `.tar` or `.parquet` file, or a folder that has such files in it or below it and no image.
    """
    if is_archive(source):
        return [source]
    if not source.is_dir():
        return []
    found: list[Path] = []
    for part in Folder(source).walk():
        if part.images:
            return []
        found += [path for path in part.files if is_archive(path)]
    return sorted(found)


def read_shards(source: Path, shards: Sequence[Path]) -> SourceFiles:
    """Find the images of each class of each split; no image is opened.

    The split is what the shard is called, or a folder of it, or the first folder in it: `train-0001.tar`,
    `val/0001.tar`, `train/cat/17.jpg`; where none says anything, images are for training.

    Raises:
        DatasetError: A shard cannot be read, or an image in it has no class.
    """
    found = SourceFiles(source if source.is_dir() else source.parent)
    for shard in shards:
        try:
            archive = open_archive(shard)
            shard_split = _find_shard_split(shard, source)
            if isinstance(archive, ParquetArchive):
                entries = _read_rows(shard, archive)
            else:
                entries = _read_members(shard, archive)
            for key, name, split in entries:
                found.open_class(shard_split or split, name).append(shard / key)
        except (StorageError, OSError) as error:
            raise DatasetError(str(error)) from error
    if not any(found.splits.values()):
        raise DatasetError(f"'{source}' has no images in its shards")
    return found


def _find_shard_split(shard: Path, source: Path) -> str:
    """Return the split that the name of a shard or of a folder around it means; empty where none means any."""
    parts = shard.relative_to(source).with_suffix("").parts if shard != source else (shard.stem,)
    for part in reversed(parts):
        if split := _read_split(part):
            return split
    return ""


def _read_split(name: str) -> str:
    """Return the split that a name means; empty where it means none."""
    meaning = find_split(name)
    if meaning is None:
        return ""
    return "val" if meaning[0] == "eval" else meaning[0]


def _read_members(shard: Path, archive: Archive) -> Iterator[tuple[str, str, str]]:
    """Yield key, class and split of each image of a tar shard."""
    keys = list(archive.list())
    classes = {_strip(key): key for key in keys if key.endswith(_CLASS_SUFFIX)}
    for key in keys:
        if not key.lower().endswith(IMAGE_SUFFIXES):
            continue
        folders = PurePosixPath(key).parts[:-1]
        named = _read_split(folders[0]) if folders else ""
        split = named or "train"
        if _strip(key) in classes:
            yield key, archive.read(classes[_strip(key)]).decode("utf-8", "replace").strip(), split
            continue
        names = folders[1:] if named and len(folders) > 1 else folders
        if not names:
            raise DatasetError(
                f"'{shard}' has '{key}' without a class; expected <class>/{key}, or its class in '{_strip(key)}.cls'"
            )
        yield key, names[0], split


def _strip(key: str) -> str:
    """Return the name of a sample: up to the first dot of the file's name."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _read_rows(shard: Path, archive: ParquetArchive) -> Iterator[tuple[str, str, str]]:
    """Yield key, class and split of each row of a Parquet file."""
    names = [str(name) for name in archive.schema.names]
    column = find_label_column(names)
    if column is None:
        raise DatasetError(f"'{shard}' has the columns {', '.join(names)}; expected one of the classes, called label")
    classes = _read_class_names(archive.schema.metadata or {}, column)
    labels: Sequence[Any] = archive.read_column(column)
    for key, label in zip(archive.list(), labels, strict=True):
        if label is None:
            raise DatasetError(f"row {key} of '{shard}' has no class")
        is_index = isinstance(label, int) and 0 <= label < len(classes)
        yield key, classes[label] if is_index else str(label), "train"


def _read_class_names(metadata: Mapping[bytes, bytes], column: str) -> list[str]:
    """Return what Hugging Face's `datasets` notes of the classes: their names, by their numbers."""
    try:
        noted: Any = json.loads(metadata[b"huggingface"])
        return [str(name) for name in noted["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
