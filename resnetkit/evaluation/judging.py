"""What a model's probabilities for labelled images come to; a training's splits and new data are judged alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.data.dataset import Samples
from resnetkit.evaluation.decisions import compute_curves
from resnetkit.results.metrics import compute_metrics
from resnetkit.results.pictures import collect_mistakes
from resnetkit.results.report import SplitFigures

if TYPE_CHECKING:
    from resnetkit.answers.model import Model


@dataclass(frozen=True)
class Judgement:
    """Labelled images, what the model says about them, and its figures.

    Attributes:
        name: val, test, or evaluation.
        classes: Names in the order of the model's outputs.
        samples: The images; labels are indices into `classes`.
        probabilities: (num_images, num_classes).
        metrics: Result of `compute_metrics`.
        curves: Result of `compute_curves`.
    """

    name: str
    classes: tuple[str, ...]
    samples: Samples
    probabilities: np.ndarray
    metrics: Mapping[str, Any]
    curves: Mapping[str, Any]

    @property
    def labels(self) -> np.ndarray:
        """(num_images,) int64."""
        return self.samples.labels.astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return {**self.metrics, "decisions": dict(self.curves)}

    def show(self, model: Model) -> SplitFigures:
        """Return the figures as the report shows them, with pictures of the worst mistakes.

        Args:
            model: The one that made the predictions.
        """
        mistakes = collect_mistakes(model, self.samples, self.probabilities)
        return SplitFigures(self.name, self.metrics, self.curves, mistakes)


def judge(name: str, classes: Sequence[str], samples: Samples, probabilities: np.ndarray) -> Judgement:
    """Compare predictions with labels.

    Raises:
        ValueError: No images, or a probability that is not finite.
    """
    labels = samples.labels.astype(np.int64)
    metrics = compute_metrics(labels, probabilities, classes)
    return Judgement(
        name, tuple(classes), samples, probabilities, metrics, compute_curves(labels, probabilities, classes)
    )
