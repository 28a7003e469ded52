"""Figures of a classifier on labelled images: scikit-learn's metrics, and how far its probabilities can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Above this many classes the dense confusion matrix is left out (a million cells are enough for one JSON file).
MAX_DENSE_CLASSES = 1000

#: Bins of the reliability diagram and of the calibration error, as in Guo et al. 2017, section 4.
CALIBRATION_BINS = 15

_MAX_CONFUSIONS = 50
_Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compare predicted probabilities with the true classes.

    The prediction is the most probable class; precision, recall and F1 that would divide by zero are 0. Averages run
    over the classes that occur among the labels or the predictions, which is scikit-learn's own rule: a class that
    has no image and is never predicted does not lower them.

    Args:
        labels: (num_images,) integer indices into `classes`.
        probabilities: (num_images, num_classes), each row sums to 1.
        classes: Names, in the order of the columns.

    Returns:
        Only dicts, lists, str, int, float and None, ready for JSON:

        * num_images, accuracy, accuracy_interval (95 %, see `compute_wilson_interval`);
        * top5_accuracy, None where there are 5 classes or fewer;
        * per_class: in order of the classes, each with name, precision, recall, f1, support;
        * macro_avg and weighted_avg: precision, recall, f1;
        * confusion_matrix: rows are true classes, columns predictions; None above `MAX_DENSE_CLASSES` classes;
        * top_confusions: the most frequent mistakes, each with true, predicted (names) and count;
        * expected_calibration_error, and calibration: its bins, see `compute_calibration`.

    Raises:
        ValueError: No images, wrong shapes, a label out of range, or a probability that is not finite.
    """
    from sklearn.metrics import accuracy_score, top_k_accuracy_score

    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    _check_arrays(labels, probabilities, len(classes))
    predictions = probabilities.argmax(axis=1)
    is_right = predictions == labels
    calibration = compute_calibration(probabilities.max(axis=1), is_right)
    top5 = None
    if len(classes) > 5:
        top5 = float(top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(len(classes))))
    return {
        "num_images": len(labels),
        "accuracy": float(accuracy_score(labels, predictions)),
        "accuracy_interval": list(compute_wilson_interval(int(is_right.sum()), len(labels))),
        "top5_accuracy": top5,
        "per_class": _compute_per_class(labels, predictions, classes),
        "macro_avg": _compute_average(labels, predictions, "macro"),
        "weighted_avg": _compute_average(labels, predictions, "weighted"),
        "confusion_matrix": _compute_confusion_matrix(labels, predictions, len(classes)),
        "top_confusions": _find_top_confusions(labels, predictions, classes),
        "expected_calibration_error": _sum_calibration_gaps(calibration),
        "calibration": calibration,
    }


def compute_calibration(
    confidences: np.ndarray, is_right: np.ndarray, num_bins: int = CALIBRATION_BINS
) -> list[dict[str, Any]]:
    """Sort predictions into bins of equal width by their confidence and measure how often each bin is right.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), equations 1 and 2: the bins are open
    below and closed above. Their expected calibration error (equation 3, after Naeini et al., AAAI 2015) is the mean
    of |accuracy - confidence| over the bins, weighed by count.

    Args:
        confidences: (num_images,) probability of the predicted class.
        is_right: (num_images,) bool.
        num_bins: Bins between 0 and 1.

    Returns:
        One dict a bin: low, high, count, confidence and accuracy (means; None where the bin is empty).
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], confidences, side="left")
    counts = np.bincount(bins, minlength=num_bins)
    confidence_sums = np.bincount(bins, weights=confidences, minlength=num_bins)
    right_counts = np.bincount(bins, weights=is_right, minlength=num_bins)
    return [
        {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "count": int(count),
            "confidence": float(confidence_sums[index] / count) if count else None,
            "accuracy": float(right_counts[index] / count) if count else None,
        }
        for index, count in enumerate(counts)
    ]


def compute_wilson_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson, JASA 1927), which holds for few images and near 0 and 1."""
    share = num_right / num_images
    spread = _Z_95**2 / num_images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def find_worst_mistakes(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of up to `count` wrong predictions, the most confident first."""
    probabilities = np.asarray(probabilities)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != np.asarray(labels))
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order[:count]]


def _check_arrays(labels: np.ndarray, probabilities: np.ndarray, num_classes: int) -> None:
    expected = f"metrics need labels (N,) and probabilities (N, {num_classes}) with N of 1 or more"
    if labels.ndim != 1 or len(labels) == 0 or probabilities.shape != (len(labels), num_classes):
        raise ValueError(f"{expected}, got {labels.shape} and {probabilities.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{expected}; labels must be integers from 0 to {num_classes - 1}")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"{expected}; some probabilities are NaN or infinite: the model's weights have diverged")


def _compute_per_class(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(labels, predictions, labels=np.arange(len(classes)), zero_division=0)
    return [
        {"name": name, "precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(classes, *columns, strict=True)
    ]


def _compute_average(labels: np.ndarray, predictions: np.ndarray, average: str) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def _compute_confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> list[list[int]] | None:
    from sklearn.metrics import confusion_matrix

    if num_classes > MAX_DENSE_CLASSES:
        return None
    return confusion_matrix(labels, predictions, labels=np.arange(num_classes)).tolist()


def _find_top_confusions(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    is_wrong = labels != predictions
    pairs, counts = np.unique(np.stack([labels[is_wrong], predictions[is_wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_CONFUSIONS]
    return [
        {"true": classes[pairs[0, index]], "predicted": classes[pairs[1, index]], "count": int(counts[index])}
        for index in order
    ]


def _sum_calibration_gaps(calibration: Sequence[dict[str, Any]]) -> float:
    filled = [row for row in calibration if row["count"]]
    total = sum(row["count"] for row in filled)
    return sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in filled) / total
