"""Predictions in a table that a spreadsheet may open: one row an image, with all probabilities."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetkit.folders.cells import read_path, read_text, write_path, write_text
from resnetkit.folders.rows import name_probabilities
from resnetkit.folders.tables import TableError, import_pyarrow, write_csv
from resnetkit.machine.files import atomic_path
from resnetkit.machine.text import to_encodable

#: Formats of the table, the first is the usual one.
PREDICTIONS_FORMATS = ("csv", "parquet")

_COLUMNS = ("path", "true", "predicted", "confidence")
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class LabelledPrediction:
    """A row of the table: an image, its class and the model's answer, by name."""

    path: str
    true: str
    predicted: str


def name_predictions(folder: Path, table_format: str = PREDICTIONS_FORMATS[0]) -> Path:
    """Return the path of an evaluation's table in its folder.

    Raises:
        TableError: There is no such format, or it needs what is not installed.
    """
    if table_format not in PREDICTIONS_FORMATS:
        raise TableError(f"'predictions' must be one of {', '.join(PREDICTIONS_FORMATS)}, got {table_format!r}")
    if table_format == "parquet":
        import_pyarrow()
    return folder / f"predictions.{table_format}"


def find_predictions(folder: Path) -> Path:
    """Return the path of the table that an evaluation's folder holds."""
    paths = [name_predictions(folder, table_format) for table_format in PREDICTIONS_FORMATS]
    return next((path for path in paths if path.exists()), paths[0])


def write_predictions(
    path: Path, classes: Sequence[str], files: Sequence[tuple[Path, str]], probabilities: np.ndarray
) -> None:
    """Write a table with the columns path, true, predicted, confidence and one for each class.

    Paths and names are written as in the tables of `resnetkit classify`, see `resnetkit.folders.cells`.

    Args:
        path: Where to: .csv or .parquet.
        classes: Names of the columns of probabilities.
        files: Each image with the name of its class, which the model may not know.
        probabilities: (num_images, num_classes).

    Raises:
        TableError: Parquet is asked for, and pyarrow is not installed.
    """
    predicted = probabilities.argmax(axis=1)
    confidences = probabilities[np.arange(len(files)), predicted] if len(files) else np.zeros(0)
    if path.suffix == ".parquet":
        _write_parquet(path, classes, files, predicted, probabilities)
        return
    names = [write_text(name) for name in classes]

    def make_rows() -> Iterator[list[str]]:
        yield [*_COLUMNS, *map(write_text, name_probabilities(classes))]
        for (file, true), index, confidence, row in zip(files, predicted, confidences, probabilities, strict=True):
            numbers = [f"{value:.6g}" for value in row.tolist()]
            yield [write_path(file), write_text(true), names[index], f"{confidence:.6g}", *numbers]

    write_csv(path, make_rows())


def read_predictions(path: Path) -> Iterator[LabelledPrediction]:
    """Yield the rows of a file that `write_predictions` wrote.

    Raises:
        ValueError: It is another kind of table.
    """
    return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)


def _read_csv(path: Path) -> Iterator[LabelledPrediction]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        _check_columns(path, next(reader, []))
        for file, true, predicted in (cells[:3] for cells in reader):
            yield LabelledPrediction(str(read_path(file)), read_text(true), read_text(predicted))


def _write_parquet(
    path: Path,
    classes: Sequence[str],
    files: Sequence[tuple[Path, str]],
    predicted: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    import_pyarrow()
    import pyarrow
    from pyarrow import parquet

    classes = [to_encodable(name) for name in classes]
    names = name_probabilities(classes)
    numbers = [("confidence", pyarrow.float32()), *((name, pyarrow.float32()) for name in names)]
    schema = pyarrow.schema([*((name, pyarrow.string()) for name in _COLUMNS[:3]), *numbers])
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(files), _BATCH_ROWS):
            part = slice(start, start + _BATCH_ROWS)
            texts = [
                [write_path(file) for file, _ in files[part]],
                [to_encodable(true) for _, true in files[part]],
                [classes[index] for index in predicted[part].tolist()],
            ]
            block = probabilities[part].astype(np.float32)
            arrays = [pyarrow.array(column) for column in texts]
            arrays += [pyarrow.array(column) for column in (block.max(axis=1), *block.T)]
            writer.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))


def _read_parquet(path: Path) -> Iterator[LabelledPrediction]:
    import_pyarrow()
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS[:3])):
                for row in batch.to_pylist():
                    yield LabelledPrediction(str(read_path(row["path"])), row["true"], row["predicted"])
    except pyarrow.ArrowException as error:
        raise ValueError(f"'{path}' is no Parquet file") from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if tuple(columns[: len(_COLUMNS)]) != _COLUMNS:
        raise ValueError(f"'{path}' must begin with the columns {', '.join(_COLUMNS)}")
