"""The trained model in other formats, each compared with PyTorch on validation images before it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ExportError(RuntimeError):
    """A model could not be exported, or answered differently from PyTorch; no file was left."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and has passed its check.

    Attributes:
        path: The file; an OpenVINO model has a .bin file beside its .xml.
        format: What it is, for readers.
        size_bytes: Of all its files.
        num_checked: Validation images on which it was compared with PyTorch.
        max_difference: Largest difference of any probability.
        same_top1: Share of images with the same most probable class, 0..1.
        accuracy: Accuracy on the validation images, where it was measured (int8).
        accuracy_change: That accuracy minus PyTorch's, where it was measured (int8).
    """

    path: Path
    format: str
    size_bytes: int
    num_checked: int
    max_difference: float
    same_top1: float = 1.0
    accuracy: float | None = None
    accuracy_change: float | None = None
