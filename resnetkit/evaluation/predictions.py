"""Predictions in a table that a spreadsheet may open: one row an image, with all probabilities."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetkit.machine.files import atomic_path

PREDICTIONS_NAME = "predictions.csv"

_COLUMNS = ("path", "true", "predicted", "confidence")
#: A spreadsheet runs a cell that begins with one of the first six as a formula; a quote in front makes it text.
_ESCAPED = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(frozen=True)
class LabelledPrediction:
    """A row of the table: an image, its class and the model's answer, by name."""

    path: str
    true: str
    predicted: str


def write_predictions(
    path: Path, classes: Sequence[str], files: Sequence[tuple[Path, str]], probabilities: np.ndarray
) -> None:
    """Write a CSV file with the columns path, true, predicted, confidence and one for each class.

    Names of files that are no UTF-8 keep their bytes. A cell of text that a spreadsheet would run is preceded by a
    quote, and so is one that begins with a quote: what is read back is what was written.

    Args:
        path: Where to.
        classes: Names of the columns of probabilities.
        files: Each image with the name of its class, which the model may not know.
        probabilities: (num_images, num_classes).
    """
    predicted = probabilities.argmax(axis=1)
    confidences = probabilities[np.arange(len(files)), predicted] if len(files) else np.zeros(0)
    names = [escape_cell(name) for name in classes]
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*_COLUMNS, *names])
        for (file, true), index, confidence, row in zip(files, predicted, confidences, probabilities, strict=True):
            numbers = [f"{value:.6g}" for value in row.tolist()]
            writer.writerow([escape_cell(str(file)), escape_cell(true), names[index], f"{confidence:.6g}", *numbers])


def read_predictions(path: Path) -> Iterator[LabelledPrediction]:
    """Yield the rows of a file that `write_predictions` wrote.

    Raises:
        ValueError: It is another kind of table.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream)
        if tuple(next(reader, ()))[: len(_COLUMNS)] != _COLUMNS:
            raise ValueError(f"'{path}' must begin with the columns {', '.join(_COLUMNS)}")
        for cells in reader:
            file, true, predicted = (_unescape(cell) for cell in cells[:3])
            yield LabelledPrediction(file, true, predicted)


def escape_cell(text: str) -> str:
    """Return the text for a cell that no spreadsheet runs."""
    return f"'{text}" if text.startswith(_ESCAPED) else text


def _unescape(cell: str) -> str:
    return cell.removeprefix("'")
