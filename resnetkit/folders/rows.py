"""An answer about one file, and the columns of a table of such answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.answers.model import ClassScore, Prediction
from resnetkit.folders.cells import write_path, write_text


@dataclass(frozen=True)
class Answer:
    """What the model says about one image file.

    Attributes:
        path: The file, as it was named.
        prediction: The whole answer; None if the file could not be read.
        error: Why it could not be read, else empty.
    """

    path: Path
    prediction: Prediction | None
    error: str = ""

    @property
    def label(self) -> str:
        """Name of the class, or `unknown` below the confidence threshold; empty if there is no answer."""
        return "" if self.prediction is None else self.prediction.label

    @property
    def confidence(self) -> float:
        """Probability of the most probable class, 0..1; NaN if there is no answer."""
        return float("nan") if self.prediction is None else self.prediction.confidence

    @property
    def top_k(self) -> tuple[ClassScore, ...]:
        """The most probable classes, best first."""
        return () if self.prediction is None else self.prediction.top_k

    @property
    def probabilities(self) -> np.ndarray | None:
        """(num_classes,) float32, sums to 1."""
        return None if self.prediction is None else self.prediction.probabilities

    @property
    def embedding(self) -> np.ndarray | None:
        """The pooled feature vector, (512,) or (2048,) float32, if the parameter `embedding` asked for it."""
        return None if self.prediction is None else self.prediction.embedding


@dataclass(frozen=True)
class Columns:
    """The columns of a table, the same in every format.

    `path`, `label`, `confidence`; `label_1`, `confidence_1` and so on to k; `error`; `model`; if asked for, one
    `probability of <class>` a class, and `embedding`, a list of numbers.

    Attributes:
        classes: Names in the order of the network's outputs.
        top_k: How many of the most probable classes are listed.
        model: Identifies weights and settings: answers of two models do not come into one table.
        has_probabilities: Whether there is a column a class.
        embedding_size: Length of the feature vector; 0 for none.
    """

    classes: tuple[str, ...]
    top_k: int
    model: str
    has_probabilities: bool = False
    embedding_size: int = 0

    @cached_property
    def texts(self) -> frozenset[str]:
        """The columns that hold text; `embedding` holds a list, and the others numbers."""
        return frozenset(["path", "label", "error", "model", *(f"label_{rank}" for rank in self._ranks)])

    @cached_property
    def probabilities(self) -> tuple[str, ...]:
        """Names of the columns of probabilities, where there are any; see `name_probabilities`."""
        return name_probabilities(self.classes) if self.has_probabilities else ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All columns, in their order."""
        ranked = [f"{name}_{rank}" for rank in self._ranks for name in ("label", "confidence")]
        embedding = ["embedding"] if self.embedding_size else []
        return ("path", "label", "confidence", *ranked, "error", "model", *self.probabilities, *embedding)

    @property
    def _ranks(self) -> range:
        return range(1, min(self.top_k, len(self.classes)) + 1)

    def make_record(self, answer: Answer) -> dict[str, Any]:
        """Return a row: a value a column, None where there is none."""
        record: dict[str, Any] = dict.fromkeys(self.names)
        record.update(path=write_path(answer.path), model=self.model, label="", error=answer.error)
        prediction = answer.prediction
        if prediction is None:
            return record
        record.update(label=prediction.label, confidence=prediction.confidence)
        for rank, score in enumerate(prediction.top_k, start=1):
            record[f"label_{rank}"], record[f"confidence_{rank}"] = score.label, score.confidence
        record.update(zip(self.probabilities, prediction.probabilities.tolist(), strict=False))
        if self.embedding_size and prediction.embedding is not None:
            record["embedding"] = prediction.embedding.tolist()
        return record

    def to_cells(self, record: dict[str, Any]) -> list[str]:
        """Return a row of a CSV file: numbers of six digits (nine in an embedding), a cell a number."""
        cells = [_format_cell(name, record[name]) for name in self.names if name != "embedding"]
        if self.embedding_size:
            values = record["embedding"]
            cells += [""] * self.embedding_size if values is None else [f"{value:.9g}" for value in values]
        return cells

    def make_header(self) -> list[str]:
        """Return the headings of a CSV file: an embedding takes a column a number."""
        names = [write_text(name) for name in self.names if name != "embedding"]
        return names + [f"embedding_{index}" for index in range(self.embedding_size)]


def name_probabilities(classes: Sequence[str]) -> tuple[str, ...]:
    """Return names of the columns of probabilities, one a class in their order, different ones for equal classes."""
    counts = Counter(classes)
    return tuple(
        f"probability of {name}" + (f" #{index}" if counts[name] > 1 else "") for index, name in enumerate(classes)
    )


def _format_cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value if name == "path" else write_text(value)
    return f"{value:.6g}"
