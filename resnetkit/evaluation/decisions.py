"""Deciding by the model's probabilities: what is right above a threshold, and what a threshold costs and gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnetkit.results.metrics import compute_wilson_intervals

#: The accuracies for which `choose_thresholds` looks for a threshold: what users ask for.
WANTED_ACCURACIES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)
#: More points than a line of the charts has pixels are of no use.
_MAX_POINTS = 200
#: Curves of each class are drawn and stored up to this many classes with images.
MAX_CURVE_CLASSES = 10


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> list[list[float]]:
    """Find for each of `WANTED_ACCURACIES` the confidence from which on answers are as accurate as that.

    Of all thresholds, the one that keeps most images is taken, of those where the lower end of the 95 % interval of
    the accuracy of what is kept (Wilson) reaches what is wanted: so few images promise little. Geifman and El-Yaniv,
    "Selective Classification for Deep Neural Networks" (NeurIPS 2017), choose by a bound, too.

    Args:
        labels: (num_images,) true classes.
        probabilities: (num_images, num_classes).

    Returns:
        [wanted accuracy, threshold, share kept], in order of accuracy; none for an accuracy that is not reached. What
        has at least the threshold's confidence is kept; 0 keeps everything.
    """
    confidences, num_right = _rank(labels, probabilities)
    ends = _find_ends(confidences)  # answers of one confidence are kept together
    lowest = compute_wilson_intervals(num_right[ends], ends + 1)[:, 0]
    rows = []
    for wanted in WANTED_ACCURACIES:
        reached = ends[lowest >= wanted]
        if len(reached) == 0:
            break
        last = int(reached[-1])
        # Between two answers, so that a difference in the last bit decides nothing.
        threshold = (confidences[last] + confidences[last + 1]) / 2 if last + 1 < len(confidences) else 0.0
        rows.append([wanted, float(threshold), (last + 1) / len(confidences)])
    return rows


def compute_threshold_curve(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[float]]:
    """Compute for every threshold which share of the answers is kept, and how many of those are right.

    Args:
        labels: (num_images,) true classes.
        probabilities: (num_images, num_classes).

    Returns:
        threshold, kept, accuracy, lowest and highest (its 95 % interval): lists of one length, up to 200 points, from
        the highest threshold to the lowest, which keeps everything. All empty where there are no images.
    """
    if len(labels) == 0:
        return {name: [] for name in ("threshold", "kept", "accuracy", "lowest", "highest")}
    confidences, num_right = _rank(labels, probabilities)
    ends = _thin(_find_ends(confidences))
    intervals = compute_wilson_intervals(num_right[ends], ends + 1)
    return {
        "threshold": confidences[ends].tolist(),  # not rounded: a sure model has many within 1e-6 of 1
        "kept": _round((ends + 1) / len(confidences)),
        "accuracy": _round(num_right[ends] / (ends + 1)),
        "lowest": _round(intervals[:, 0]),
        "highest": _round(intervals[:, 1]),
    }


def compute_curves(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compute everything about decisions that a report shows.

    Returns:
        JSON values:

        * thresholds: see `choose_thresholds`;
        * threshold_curve: see `compute_threshold_curve`;
        * per_class: for each class with images, where these are 10 or fewer: name, threshold_curve of the answers that
          name it, roc and precision_recall of it against all others, see `compute_class_curves`.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    shown = np.unique(labels).tolist()
    predictions = probabilities.argmax(axis=1)
    per_class = []
    if len(shown) <= MAX_CURVE_CLASSES:
        for label in shown:
            is_named = predictions == label
            curve = compute_threshold_curve(labels[is_named], probabilities[is_named])
            others = compute_class_curves(labels == label, probabilities[:, label])
            per_class.append({"name": classes[label], "threshold_curve": curve, **others})
    return {
        "thresholds": choose_thresholds(labels, probabilities),
        "threshold_curve": compute_threshold_curve(labels, probabilities),
        "per_class": per_class,
    }


def compute_class_curves(is_class: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Compute ROC and precision-recall curve of one class against all others, by scikit-learn.

    Args:
        is_class: (num_images,) bool.
        scores: (num_images,) the class's probability.

    Returns:
        roc: false_positive_rate and sensitivity; precision_recall: recall, precision and average_precision; None each
        where either side has no image. Lists of up to 200 points.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

    if is_class.all() or not is_class.any():
        return {"roc": None, "precision_recall": None}
    rates = np.stack(roc_curve(is_class, scores)[:2])
    precision, recall, _ = precision_recall_curve(is_class, scores)
    rates = rates[:, _thin(np.arange(rates.shape[1]))]
    kept = _thin(np.arange(len(recall)))
    return {
        "roc": {"false_positive_rate": _round(rates[0]), "sensitivity": _round(rates[1])},
        "precision_recall": {
            "recall": _round(recall[kept]),
            "precision": _round(precision[kept]),
            "average_precision": float(average_precision_score(is_class, scores)),
        },
    }


def _rank(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidences, highest first, and how many answers up to each are right."""
    confidences = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(-confidences, kind="stable")
    return confidences[order], np.cumsum((probabilities.argmax(axis=1) == labels)[order])


def _find_ends(confidences: np.ndarray) -> np.ndarray:
    """Return where runs of equal values end."""
    return np.flatnonzero(np.append(np.diff(confidences) != 0, True))


def _round(shares: np.ndarray) -> list[float]:
    """Return shares as exactly as a curve can be read, in a fifth of the digits."""
    return [round(share, 5) for share in shares.tolist()]


def _thin(positions: np.ndarray) -> np.ndarray:
    """Return up to `_MAX_POINTS` of the positions, the first and the last among them."""
    if len(positions) <= _MAX_POINTS:
        return positions
    return positions[np.unique(np.linspace(0, len(positions) - 1, _MAX_POINTS).round().astype(int))]
