"""Figures of a classifier on labelled images: scikit-learn's metrics, and how far its probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Above this many classes the dense confusion matrix is left out (a million cells are enough for one JSON file).
MAX_DENSE_CLASSES = 1000

#: Bins of the reliability diagram and of the calibration error, as in Guo et al. 2017, section 4.
CALIBRATION_BINS = 15

_MAX_CONFUSIONS = 50
_Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution
#: Lower probabilities of the true class count as this one: the spacing of float32 around 1, as scikit-learn does.
_MIN_PROBABILITY = float(np.finfo(np.float32).eps)
#: Draws of the bootstrap: its 2.5 % quantile is the 12th lowest, good to about a tenth of the interval's width.
_NUM_DRAWS = 500


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

        * num_images, accuracy, accuracy_interval (95 %, see `compute_wilson_intervals`);
        * top5_accuracy and top5_interval, None where there are 5 classes or fewer;
        * balanced_accuracy: the mean recall of the classes that have images; log_loss;
        * balanced_accuracy_interval and macro_f1_interval (95 %): the percentiles of a bootstrap over the images
          (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3);
        * macro_auc: the mean of the classes' auc, None where there is none;
        * per_class: in order of the classes, each with name, precision, recall (sensitivity), specificity, f1, support,
          an interval of the first three, and auc, see `compute_areas`; a share of nothing is 0, its interval 0 to 1;
        * macro_avg and weighted_avg: precision, recall, f1;
        * confusion_matrix: rows are true classes, columns predictions; None above `MAX_DENSE_CLASSES` classes;
        * top_confusions: the most frequent mistakes, each with true, predicted (names) and count;
        * expected_calibration_error, and calibration: its bins, see `compute_calibration`.

    Raises:
        ValueError: No images, wrong shapes, a label out of range, or a probability that is not finite.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    _check_arrays(labels, probabilities, len(classes))
    predictions = probabilities.argmax(axis=1)
    is_right = predictions == labels
    calibration = compute_calibration(probabilities.max(axis=1), is_right)
    areas = compute_areas(labels, probabilities)
    known_areas = [area for area in areas if area is not None]
    return {
        "num_images": len(labels),
        "accuracy": float(is_right.mean()),
        "accuracy_interval": compute_wilson_intervals(is_right.sum(), len(labels)).tolist(),
        **_compute_top5(labels, probabilities),
        **_compute_balanced(labels, predictions),
        "log_loss": float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _MIN_PROBABILITY)).mean()),
        "macro_auc": float(np.mean(known_areas)) if known_areas else None,
        "per_class": _compute_per_class(labels, predictions, classes, areas),
        "macro_avg": _compute_average(labels, predictions, "macro"),
        "weighted_avg": _compute_average(labels, predictions, "weighted"),
        "confusion_matrix": _compute_confusion_matrix(labels, predictions, len(classes)),
        "top_confusions": _find_top_confusions(labels, predictions, classes),
        "expected_calibration_error": sum_calibration_gaps(calibration),
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


def sum_calibration_gaps(calibration: Sequence[dict[str, Any]]) -> float:
    """Return the expected calibration error of the bins of `compute_calibration`."""
    filled = [row for row in calibration if row["count"]]
    total = sum(row["count"] for row in filled)
    return sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in filled) / total


def compute_wilson_intervals(num_right: Any, num_images: Any) -> np.ndarray:
    """Return the 95 % score intervals of shares (Wilson, JASA 1927), which hold for few images and near 0 and 1.

    The same as `scipy.stats.binomtest(...).proportion_ci(method="wilson")`, which takes a millisecond a share, for
    thousands of shares at once.

    Args:
        num_right: (...) counts.
        num_images: (...) of how many each; 0 gives the interval 0 to 1.

    Returns:
        (..., 2): lower and upper ends.
    """
    num_right, num_images = np.asarray(num_right, float), np.asarray(num_images, float)
    spread = _Z_95**2
    total = num_images + spread
    centre = (num_right + spread / 2) / total
    share = np.divide(num_right, num_images, out=np.zeros_like(centre), where=num_images > 0)
    half = np.sqrt(spread * (num_images * share * (1 - share) + spread / 4)) / total
    # The ends 0 and 1 are exact; rounding would leave a share of 1 outside, shown as "100 % (98 % to 99 %)".
    lowest = np.where(num_right <= 0, 0.0, centre - half)
    highest = np.where(num_right >= num_images, 1.0, centre + half)
    return np.stack([lowest, highest], axis=-1)


def compute_areas(labels: np.ndarray, probabilities: np.ndarray) -> list[float | None]:
    """Return the area under the ROC curve of each class against all others; None where one of the two has no image.

    It is the chance that an image of the class gets a higher probability of it than another image (Hanley and McNeil,
    1982), computed from ranks, since scikit-learn's curves take seconds for a thousand classes.
    """
    from scipy.stats import rankdata

    num_images = len(labels)
    areas: list[float | None] = []
    for label, count in enumerate(np.bincount(labels, minlength=probabilities.shape[1]).tolist()):
        if not 0 < count < num_images:
            areas.append(None)
            continue
        ranks = rankdata(probabilities[:, label])
        above = ranks[labels == label].sum() - count * (count + 1) / 2
        areas.append(float(above / (count * (num_images - count))))
    return areas


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


def _compute_per_class(
    labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str], areas: Sequence[float | None]
) -> list[dict[str, Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    num_classes, num_images = len(classes), len(labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predictions, labels=np.arange(num_classes), zero_division=0
    )
    num_called = np.bincount(predictions, minlength=num_classes)
    num_found = np.bincount(labels[labels == predictions], minlength=num_classes)
    num_others = num_images - support
    num_rejected = num_others - (num_called - num_found)
    columns = {
        "name": classes,
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "specificity": np.divide(num_rejected, num_others, out=np.zeros(num_classes), where=num_others > 0).tolist(),
        "f1": f1.tolist(),
        "support": support.tolist(),
        "auc": areas,
        "precision_interval": compute_wilson_intervals(num_found, num_called).tolist(),
        "recall_interval": compute_wilson_intervals(num_found, support).tolist(),
        "specificity_interval": compute_wilson_intervals(num_rejected, num_others).tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def compute_mean_recall(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the balanced accuracy: the mean over the classes with images of the share of theirs that is right.

    Rounded so that what is equal stays equal, whatever the order of the sum.
    """
    counts = np.bincount(labels)
    right = np.bincount(labels[labels == predictions], minlength=len(counts))
    present = counts > 0
    return round(float(np.mean(right[present] / counts[present])), 12)


def _compute_top5(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import top_k_accuracy_score

    num_classes = probabilities.shape[1]
    if num_classes <= 5:
        return {"top5_accuracy": None, "top5_interval": None}
    num_right = top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(num_classes), normalize=False)
    return {
        "top5_accuracy": float(num_right / len(labels)),
        "top5_interval": compute_wilson_intervals(num_right, len(labels)).tolist(),
    }


def _compute_balanced(labels: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """Return the balanced accuracy, and the intervals of it and of the macro F1, which are no shares of images.

    A sample of images is a sample of the cells of the confusion matrix, so that no image is touched again.
    """
    _, codes = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    num_classes = int(codes.max()) + 1
    cells, counts = np.unique(codes[: len(labels)] * num_classes + codes[len(labels) :], return_counts=True)
    generator = np.random.default_rng(0)  # the same figures give the same interval
    drawn = generator.multinomial(len(labels), counts / len(labels), size=_NUM_DRAWS)
    recall, f1 = _compute_means(np.concatenate([counts[None], drawn]), cells, num_classes)
    return {
        "balanced_accuracy": float(recall[0]),
        "balanced_accuracy_interval": np.quantile(recall[1:], (0.025, 0.975)).tolist(),
        "macro_f1_interval": np.quantile(f1[1:], (0.025, 0.975)).tolist(),
    }


def _compute_means(counts: np.ndarray, cells: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean recall of the classes with images, and mean F1 of those with images or predictions.

    Args:
        counts: (draws, cells) images in each of the cells that hold any.
        cells: (cells,) true class * num_classes + predicted class.
        num_classes: Classes that have images or predictions.
    """
    true, predicted = np.divmod(cells, num_classes)
    support, called, found = (np.zeros((len(counts), num_classes)) for _ in range(3))
    for column, (row_class, column_class) in enumerate(zip(true, predicted, strict=True)):
        support[:, row_class] += counts[:, column]
        called[:, column_class] += counts[:, column]
        if row_class == column_class:
            found[:, row_class] += counts[:, column]
    recall = np.divide(found, support, out=np.full_like(found, np.nan), where=support > 0)
    f1 = np.divide(2 * found, support + called, out=np.full_like(found, np.nan), where=support + called > 0)
    return np.nanmean(recall, axis=1), np.nanmean(f1, axis=1)


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
