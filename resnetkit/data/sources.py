"""Sources of data sets: the files of each class of each split, from folders or from a table.

Names are compared and ordered by their UTF-8 bytes in Unicode's composed form, so that classes, order and split
come out the same on every file system.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from resnetkit.images.reading import IMAGE_SUFFIXES

TABLE_SUFFIXES = (".csv", ".tsv")

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

#: Files of each class of each split: {"train": {"cat": [...]}, "val": {}, "test": {}}; always these three splits.
ClassFiles = dict[str, dict[str, list[Path]]]


class DatasetError(ValueError):
    """A data set that cannot be trained on."""


def read_folder(source: Path, ignored: list[Path]) -> ClassFiles:
    """Read `train/<class>/` with `val/` and `test/` beside `train/`, or `<class>/`.

    Args:
        source: The folder.
        ignored: Takes the files that are no images by their names.

    Raises:
        DatasetError: There is no class folder, or the splits contradict each other.
    """
    folders = {path.name: path for path in _list_folder(source) if path.is_dir()}
    files: ClassFiles = {"train": {}, "val": {}, "test": {}}
    for split, folder in _find_split_folders(source, folders).items():
        for path in _list_folder(folder):
            if path.is_dir():
                images = files[split].setdefault(_compose(path.name), [])
                images.extend(_find_images(path, ignored))
            elif folder != source or path.suffix.lower() in IMAGE_SUFFIXES:
                ignored.append(path)
    if not files["train"]:
        name = source.name or str(source)
        raise DatasetError(
            f"'{source}/' has no class folders; expected {name}/train/<class>/*.jpg or {name}/<class>/*.jpg."
        )
    return files


def _find_split_folders(source: Path, folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the folder of each split; the source itself as "train" where its folders are the classes.

    A folder `train` beside other folders than those of splits is a class of that name, as in trains and cars.
    """
    by_split: dict[str, Path] = {}
    for name, folder in folders.items():
        split = _SPLITS.get(name.lower())
        if split in by_split:
            raise DatasetError(f"'{source}' has both '{by_split[split].name}' and '{name}'; expected one {split} split")
        if split is not None:
            by_split[split] = folder
    if "train" in by_split and (len(by_split) > 1 or len(folders) == 1):
        return by_split
    if by_split and len(by_split) == len(folders) and "train" not in by_split:
        names = enumerate_names([folder.name for folder in by_split.values()])
        raise DatasetError(f"'{source}' has {names} but no folder 'train'; expected one")
    return {"train": source}


def _find_images(folder: Path, ignored: list[Path]) -> Iterator[Path]:
    """Yield the image files in a folder and those below it, each folder once, however it is linked."""
    visited = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        real_path = os.path.realpath(current)
        if real_path in visited:
            continue
        visited.add(real_path)
        below = []
        for path in _list_folder(current):
            if path.is_dir():
                below.append(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield path
            else:
                ignored.append(path)
        waiting.extend(reversed(below))


def _list_folder(folder: Path) -> list[Path]:
    """List a folder without what is hidden, in an order that does not depend on the file system."""
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DatasetError(f"the folder '{folder}' cannot be read ({error.strerror})") from error
    return sorted(visible, key=lambda path: get_order(path.name))


def read_table(source: Path) -> ClassFiles:
    """Read a CSV or TSV file: path, label and perhaps split, by its first row's names or in this order.

    Raises:
        DatasetError: A row is wrong or names a file that is not there; the message has its number.
    """
    rows = _read_rows(source)
    first = [cell.lower() for cell in rows[0][1]] if rows else []
    columns = ["path", "label", "split"]
    if "path" in first and "label" in first:
        columns = first
        rows = rows[1:]
    files: ClassFiles = {split: defaultdict(list) for split in ("train", "val", "test")}
    has_split = None
    for number, cells in rows:
        place = f"row {number} of '{source}'"
        row = dict(zip(columns, cells, strict=False))
        path, label, split = (row.get(column, "") for column in ("path", "label", "split"))
        if not path or not label or len(cells) > len(columns):
            raise DatasetError(f"{place} must be {','.join(columns)}, got {','.join(cells)!r}")
        if split and split.lower() not in _SPLITS:
            raise DatasetError(f"{place} must have the split train, val or test, got {split!r}")
        if has_split not in (None, bool(split)):
            raise DatasetError(f"{place} must name a split in all rows or in none, got {split!r}")
        has_split = bool(split)
        image = source.parent / path
        if not image.is_file():
            raise DatasetError(
                f"{place} names '{path}', but there is no file '{image}'; paths are relative to the table"
            )
        files[_SPLITS.get(split.lower(), "train")][_compose(label)].append(image)
    if not files["train"]:
        raise DatasetError(f"'{source}' has no rows of training images; expected path,label[,split]")
    return files


def _read_rows(source: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not blank, each with the number of its line, cells stripped."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"'{source}' must be UTF-8 text; save it as CSV UTF-8 ({error.reason})") from error
    except OSError as error:
        raise DatasetError(f"the table '{source}' cannot be read ({error.strerror})") from error
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    lines.seek(0)
    delimiter = "\t" if source.suffix.lower() == ".tsv" else ","
    if delimiter == "," and ";" in first and "," not in first:
        delimiter = ";"  # What spreadsheets write where the comma separates decimals.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise DatasetError(f"row {reader.line_num} of '{source}' cannot be read ({error})") from error
    return rows


def _compose(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def get_order(name: str) -> bytes:
    """Return the bytes by which names are ordered; file names that are no UTF-8 have some, too."""
    return _compose(name).encode("utf-8", "surrogateescape")


def enumerate_names(names: Sequence[str]) -> str:
    """Quote up to five names and count the others."""
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
