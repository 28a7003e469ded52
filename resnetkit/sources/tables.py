"""Tables of images: CSV and TSV files as people and spreadsheets write them."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from resnetkit.images.reading import IMAGE_SUFFIXES
from resnetkit.machine.speaking import get_logger
from resnetkit.sources.names import DatasetError, SourceFiles, enumerate_names, find_split

logger = get_logger()

TABLE_SUFFIXES = (".csv", ".tsv")

#: What a column may be called, in lower case with underscores; of two that a table has, the first here counts.
_COLUMN_NAMES = {
    "path": (
        "path", "image_path", "img_path", "file_path", "filepath", "imagepath", "image_file", "file_name", "filename",
        "image_name", "img_name", "image_filename", "fname", "image", "img", "images", "file", "files", "paths",
        "photo", "picture", "image_id", "img_id", "name", "id",
    ),
    "label": (
        "label", "class", "class_name", "classname", "label_name", "category", "category_name", "target", "species",
        "tag", "labels", "classes", "diagnosis", "ground_truth", "y", "class_label", "image_label", "label_id",
        "class_id", "category_id", "cls", "species_name", "breed", "label_text",
    ),
    "split": (
        "split", "subset", "set", "partition", "data_set", "dataset", "phase", "usage", "is_valid", "is_val",
        "is_validation", "is_test", "fold", "kfold",
    ),
    "group": (
        "group", "groups", "group_id", "patient", "patient_id", "patientid", "subject", "subject_id", "plate",
        "plate_id", "donor", "donor_id",
    ),
}  # fmt: skip
_POSITIONS = ("path", "label", "split")
_DELIMITERS = ",;\t|"
#: Columns whose yes means one split and whose no means training.
_FLAGS = {"is_valid": "val", "is_val": "val", "is_validation": "val", "is_test": "test"}
_YES, _NO = ("true", "1", "1.0", "yes", "y", "t"), ("false", "0", "0.0", "no", "n", "f")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class _Columns:
    """Where the columns are.

    Attributes:
        names: All names as they are in the header; those of the positions where there is none.
        places: Index of the columns that are used, by what they mean.
        first_fold: Number of the fold that validates, where the split column has numbers of folds.
    """

    names: Sequence[str]
    places: Mapping[str, int]
    first_fold: int | None = None

    def get(self, cells: Sequence[str], meaning: str) -> str:
        """Return a row's cell; empty where the table has no such column or the row no such cell."""
        place = self.places.get(meaning)
        return cells[place] if place is not None and place < len(cells) else ""

    def get_name(self, meaning: str) -> str:
        return _normalize(self.names[self.places[meaning]])


def read_table(source: Path) -> SourceFiles:
    """Read a CSV or TSV file with a column of paths, one of classes, and perhaps of splits and of groups.

    Columns are found by what people call them, see `_COLUMN_NAMES`; without a header they are path, label and split.

    Raises:
        DatasetError: A row is wrong or names a file that is not there; the message has its number.
    """
    columns, rows = _find_columns(source, _read_rows(source))
    found = SourceFiles(source.parent)
    names: dict[str, str] = {}
    for number, cells in rows:
        place = f"row {number} of '{source}'"
        path, label, group = (columns.get(cells, name) for name in ("path", "label", "group"))
        if not path or not label.strip() or any(cells[len(columns.names) :]):
            expected = ",".join(columns.names)
            raise DatasetError(f"{place} must be {expected}, got {','.join(cell.strip() for cell in cells)!r}")
        image = _find_image(source, path, place)
        found.open_class(_find_row_split(columns, cells, place), label).append(image)
        if "group" in columns.places:
            # No group: one of its own. The same names are kept once.
            found.groups[str(image)] = names.setdefault(group, group) if group else f"row {number}"
    if "split" in columns.places:
        _check_splits_are_complete(source, rows, columns)
    if not any(found.splits.values()):
        raise DatasetError(f"'{source}' has no rows of images; expected path,label[,split]")
    return found


def _read_rows(source: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not blank, each with the number of its line."""
    try:
        content = source.read_bytes()
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DatasetError(f"'{source}' must be UTF-8 text; save it as CSV UTF-8 ({error.reason})") from error
    except OSError as error:
        raise DatasetError(f"the table '{source}' cannot be read ({error.strerror})") from error
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    delimiter = _find_delimiter(source, first)
    separator = first.rstrip("\r\n").strip('"')
    if separator.lower().startswith("sep=") and len(separator) == len("sep=;"):  # for spreadsheets
        delimiter = separator[-1]
    else:
        lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    skipped = 0 if lines.tell() == 0 else 1
    try:
        rows = [(reader.line_num + skipped, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DatasetError(f"row {reader.line_num + skipped} of '{source}' cannot be read ({error})") from error
    return rows


def _find_delimiter(source: Path, first: str) -> str:
    """Return what separates the cells of the first line: what makes a header of it that names path and class."""
    candidates = "\t" + _DELIMITERS if source.suffix.lower() == ".tsv" else _DELIMITERS
    for delimiter in candidates:
        with suppress(csv.Error):
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
            if {"path", "label"} <= _find_places(cells).keys():
                return delimiter
    return next((delimiter for delimiter in candidates if delimiter in first), ",")


def _find_columns(
    source: Path, rows: Sequence[tuple[int, list[str]]]
) -> tuple[_Columns, Sequence[tuple[int, list[str]]]]:
    """Return the columns, and the rows without the header.

    Raises:
        DatasetError: There is a header that does not name a column of paths and one of classes.
    """
    width = max((len(cells) for _, cells in rows[:1]), default=0)
    if not rows or _is_image_row(source, rows[0][1]):
        return _Columns(_POSITIONS, {name: place for place, name in enumerate(_POSITIONS)}), rows
    names = [name.strip() for name in rows[0][1]]
    places = _find_places(names)
    missing = [meaning for meaning in ("path", "label") if meaning not in places]
    if missing and not places and width <= len(_POSITIONS):
        # Perhaps no header at all, but a first row that is wrong: what is said of it then helps in both cases.
        raise DatasetError(
            f"row 1 of '{source}' names '{names[0]}', but there is no file '{source.parent / names[0]}'; paths are "
            "relative to the table. If it is a header, it must name the columns path,label[,split]"
        )
    if missing:
        hints = " and ".join(
            f"one of the {'images' if meaning == 'path' else 'classes'}, called "
            f"{enumerate_names(_COLUMN_NAMES[meaning][:4])} or like"
            for meaning in missing
        )
        raise DatasetError(f"'{source}' has the columns {enumerate_names(names)}; expected {hints}")
    for meaning in ("split", "group"):
        if meaning in places:
            logger.info("the column '%s' of '%s' is taken for the %s", names[places[meaning]], source, meaning)
    columns = _Columns(names, places)
    return _Columns(names, places, _find_first_fold(columns, rows[1:])), rows[1:]


def find_label_column(names: Sequence[str]) -> str | None:
    """Return the column that has the classes, by what people call it; None where there is none."""
    place = _find_places(names).get("label")
    return None if place is None else names[place]


def _find_places(names: Sequence[str]) -> dict[str, int]:
    normalized = [_normalize(name) for name in names]
    return {
        meaning: normalized.index(name)
        for meaning, synonyms in _COLUMN_NAMES.items()
        for name in reversed(synonyms)
        if name in normalized
    }


def _normalize(name: str) -> str:
    return name.strip("# \t\r\n").lower().replace(" ", "_").replace("-", "_")


def _is_image_row(source: Path, cells: Sequence[str]) -> bool:
    """Tell whether a first row is about an image already; else it is a header."""
    if any(Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES for cell in cells):
        return True
    return not {"path", "label"} <= _find_places(cells).keys() and os.path.isfile(source.parent / cells[0].strip())  # noqa: PTH113


def _find_image(source: Path, path: str, place: str) -> Path:
    """Return the file that a row names, relative to the table, with separators of Windows or without its ending.

    Raises:
        DatasetError: There is no such file.
    """
    written = path.strip()
    for candidate in dict.fromkeys((path, written, PureWindowsPath(written).as_posix())):
        suffixes = () if Path(candidate).suffix else IMAGE_SUFFIXES
        for suffix in ("", *suffixes):
            image = source.parent / f"{candidate}{suffix}"
            if os.path.isfile(image):  # noqa: PTH113 - False also where a path is too long
                return image
    raise DatasetError(
        f"{place} names '{written}', but there is no file '{source.parent / written}'; paths are relative to the table"
    )


def _find_row_split(columns: _Columns, cells: Sequence[str], place: str) -> str:
    """Return the split of a row; training where it names none.

    Raises:
        DatasetError: It names something else.
    """
    value = columns.get(cells, "split").strip()
    if not value:
        return "train"
    flag = _FLAGS.get(columns.get_name("split"))
    if flag is not None and value.lower() in (*_YES, *_NO):
        return flag if value.lower() in _YES else "train"
    if columns.first_fold is not None:
        return "val" if _to_number(value) == columns.first_fold else "train"
    split, _ = find_split(value) or ("", "")
    split = "val" if split == "eval" else split
    if split not in ("train", "val", "test"):
        raise DatasetError(f"{place} must have the split train, val or test, got {value!r}")
    return split


def _find_first_fold(columns: _Columns, rows: Sequence[tuple[int, list[str]]]) -> int | None:
    """Return the lowest number of a column of folds, which then validates; None where they have no numbers."""
    if "split" not in columns.places or "fold" not in columns.get_name("split"):
        return None
    folds = {_to_number(columns.get(cells, "split")) for _, cells in rows}
    if not folds or None in folds or len(folds) < 2:
        return None
    first = min(fold for fold in folds if fold is not None)
    logger.info("fold %d of %d is for validation, the others for training", first, len(folds))
    return first


def _to_number(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _check_splits_are_complete(source: Path, rows: Sequence[tuple[int, list[str]]], columns: _Columns) -> None:
    """Refuse a table in which some rows name a split and others do not.

    Raises:
        DatasetError: It is so; the message has the first row that differs from the one before.
    """
    is_named = None
    for number, cells in rows:
        split = columns.get(cells, "split").strip()
        if is_named not in (None, bool(split)):
            raise DatasetError(f"row {number} of '{source}' must name a split in all rows or in none, got {split!r}")
        is_named = bool(split)
