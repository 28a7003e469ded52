"""The figures: against scikit-learn, and against cases small enough to compute by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from resnetkit.results.metrics import (
    MAX_DENSE_CLASSES,
    compute_areas,
    compute_calibration,
    compute_metrics,
    compute_wilson_intervals,
    find_worst_mistakes,
)


def _name(num_classes: int) -> list[str]:
    return [f"class {index}" for index in range(num_classes)]


def _draw(num_classes: int, num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities of a classifier that is right most of the time."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_images)
    logits = generator.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += 1.5
    powers = np.exp(logits)
    return labels, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("num_classes", "num_images"), [(2, 50), (5, 200), (6, 40), (120, 300)])
def test_figures_are_scikit_learns(num_classes: int, num_images: int) -> None:
    labels, probabilities = _draw(num_classes, num_images)
    predictions = probabilities.argmax(axis=1)
    result = compute_metrics(labels, probabilities, _name(num_classes))

    assert result["num_images"] == num_images
    assert result["accuracy"] == oracle.accuracy_score(labels, predictions)
    report = oracle.classification_report(
        labels,
        predictions,
        labels=range(num_classes),
        target_names=_name(num_classes),
        output_dict=True,
        zero_division=0,
    )
    for row in result["per_class"]:
        expected = report[row["name"]]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"])
        )
        assert row["support"] == expected["support"]
    for key, average in (("macro_avg", "macro"), ("weighted_avg", "weighted")):
        precision, recall, f1, _ = oracle.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        assert result[key] == pytest.approx({"precision": precision, "recall": recall, "f1": f1})
    assert (
        result["confusion_matrix"] == oracle.confusion_matrix(labels, predictions, labels=range(num_classes)).tolist()
    )


def test_top5_counts_the_true_class_among_the_first_five() -> None:
    labels, probabilities = _draw(7, 100)
    is_among_five = (np.argsort(-probabilities, axis=1)[:, :5] == labels[:, None]).any(axis=1)
    assert compute_metrics(labels, probabilities, _name(7))["top5_accuracy"] == pytest.approx(is_among_five.mean())


def test_top5_is_left_out_where_it_would_always_be_one() -> None:
    labels, probabilities = _draw(5, 20)
    assert compute_metrics(labels, probabilities, _name(5))["top5_accuracy"] is None


def test_precision_and_recall_are_not_swapped() -> None:
    # Three cats, one dog; everything is called a cat: all cats are found, a quarter of the answers is wrong.
    labels = np.array([0, 0, 0, 1])
    probabilities = np.tile([0.9, 0.1], (4, 1))
    cat, dog = compute_metrics(labels, probabilities, ["cat", "dog"])["per_class"]
    assert (cat["precision"], cat["recall"], cat["support"]) == (0.75, 1.0, 3)
    assert (dog["precision"], dog["recall"], dog["f1"], dog["support"]) == (0.0, 0.0, 0.0, 1)


def test_class_without_images_is_zero_and_does_not_lower_the_averages() -> None:
    labels = np.array([0, 1, 0, 1])
    probabilities = np.eye(3)[labels]
    result = compute_metrics(labels, probabilities, ["a", "b", "absent"])
    assert result["per_class"][2] == {
        "name": "absent",
        "precision": 0.0,
        "recall": 0.0,
        "specificity": 1.0,
        "f1": 0.0,
        "support": 0,
        "auc": None,
        "precision_interval": [0.0, 1.0],
        "recall_interval": [0.0, 1.0],
        "specificity_interval": pytest.approx([0.5101, 1.0], abs=1e-4),
    }
    assert result["macro_avg"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert len(result["confusion_matrix"]) == 3


def test_one_image_is_enough() -> None:
    result = compute_metrics(np.array([1]), np.array([[0.3, 0.7]]), ["a", "b"])
    assert result["accuracy"] == 1.0
    assert result["expected_calibration_error"] == pytest.approx(0.3)


@pytest.mark.parametrize("num_classes", [2, 6, 12])
def test_result_is_plain_json(num_classes: int) -> None:
    result = compute_metrics(*_draw(num_classes, 30), _name(num_classes))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_many_classes_have_no_dense_matrix() -> None:
    num_classes = MAX_DENSE_CLASSES + 1
    labels = np.array([0, num_classes - 1, 5])
    probabilities = np.zeros((3, num_classes), dtype=np.float32)
    probabilities[[0, 1, 2], [0, num_classes - 1, 6]] = 1
    result = compute_metrics(labels, probabilities, _name(num_classes))
    assert result["confusion_matrix"] is None
    assert result["top_confusions"] == [{"true": "class 5", "predicted": "class 6", "count": 1}]


def test_most_frequent_confusion_comes_first() -> None:
    labels = np.array([0, 1, 1, 1, 2])
    predictions = np.array([1, 2, 2, 1, 2])
    result = compute_metrics(labels, np.eye(3)[predictions], ["a", "b", "c"])
    assert result["top_confusions"] == [
        {"true": "b", "predicted": "c", "count": 2},
        {"true": "a", "predicted": "b", "count": 1},
    ]


def test_calibration_error_by_hand() -> None:
    # Two answers at 0.9 of which one is right, two at 0.6 that are both right: (|0.5-0.9| + |1-0.6|) / 2.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    result = compute_metrics(np.array([0, 1, 0, 0]), probabilities, ["a", "b"])
    assert result["expected_calibration_error"] == pytest.approx(0.4)


def test_calibration_bins_are_scikit_learns() -> None:
    labels, probabilities = _draw(4, 500)
    confidences, is_right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    filled = [row for row in compute_calibration(confidences, is_right) if row["count"]]
    accuracies, means = calibration_curve(is_right, confidences, n_bins=15, strategy="uniform")
    assert [row["accuracy"] for row in filled] == pytest.approx(accuracies.tolist())
    assert [row["confidence"] for row in filled] == pytest.approx(means.tolist())


def test_certainty_falls_into_the_last_bin() -> None:
    rows = compute_calibration(np.array([1.0]), np.array([True]), num_bins=10)
    assert [row["count"] for row in rows] == [0] * 9 + [1]
    assert rows[0]["accuracy"] is None


@pytest.mark.parametrize(
    ("num_right", "num_images", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_wilsons(num_right: int, num_images: int, low: float, high: float) -> None:
    assert compute_wilson_intervals(num_right, num_images).tolist() == pytest.approx([low, high], abs=5e-5)


def test_intervals_are_scipys() -> None:
    num_right, num_images = np.array([0, 3, 50, 999]), np.array([1, 3, 71, 1000])
    expected = [binomtest(*pair).proportion_ci(method="wilson") for pair in zip(num_right, num_images, strict=True)]
    np.testing.assert_allclose(compute_wilson_intervals(num_right, num_images), expected, atol=1e-7)


def test_all_right_and_none_right_lie_in_their_intervals() -> None:
    counts = np.arange(1, 5000)
    assert (compute_wilson_intervals(counts, counts)[:, 1] == 1).all()
    assert (compute_wilson_intervals(0 * counts, counts)[:, 0] == 0).all()


@pytest.mark.parametrize("num_classes", [2, 7])
def test_further_figures_are_scikit_learns(num_classes: int) -> None:
    labels, probabilities = _draw(num_classes, 300)
    result = compute_metrics(labels, probabilities, _name(num_classes))
    predictions = probabilities.argmax(axis=1)
    assert result["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(labels, predictions))
    assert result["log_loss"] == pytest.approx(oracle.log_loss(labels, probabilities), rel=1e-4)
    for label, row in enumerate(result["per_class"]):
        is_class, is_named = labels == label, predictions == label
        assert row["auc"] == pytest.approx(oracle.roc_auc_score(is_class, probabilities[:, label]))
        # The specificity is the recall of everything else.
        assert row["specificity"] == pytest.approx(oracle.recall_score(~is_class, ~is_named))
        assert row["recall_interval"][0] < row["recall"] < row["recall_interval"][1]
    assert result["macro_auc"] == pytest.approx(np.mean([row["auc"] for row in result["per_class"]]))


def test_equal_scores_count_half_in_the_area() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.7, 0.3], [0.5, 0.5], [0.5, 0.5], [0.2, 0.8]])
    assert compute_areas(labels, probabilities) == pytest.approx([0.875, 0.875])
    assert compute_areas(labels[:2], probabilities[:2]) == [None, None]


def test_intervals_of_means_cover_the_truth() -> None:
    """What a bootstrap of 300 images says of balanced accuracy and macro F1, against many other samples of 300."""
    reference = compute_metrics(*_draw(4, 40_000, seed=99), _name(4))
    samples = [compute_metrics(*_draw(4, 300, seed=seed), _name(4)) for seed in range(40)]
    for interval, truth in (
        ("balanced_accuracy_interval", reference["balanced_accuracy"]),
        ("macro_f1_interval", reference["macro_avg"]["f1"]),
    ):
        num_covered = sum(low <= truth <= high for low, high in (sample[interval] for sample in samples))
        assert num_covered >= 34  # 38 are expected; fewer than 34 have a chance of 1 in 100


def test_worst_mistakes_are_the_surest_wrong_answers() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.99, 0.01]])
    labels = np.array([1, 1, 1, 0])
    assert find_worst_mistakes(labels, probabilities, 5).tolist() == [0, 2]
    assert find_worst_mistakes(labels, probabilities, 1).tolist() == [0]


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        pytest.param(np.array([], dtype=int), np.zeros((0, 2)), id="no images"),
        pytest.param(np.array([0, 1]), np.eye(3)[:2], id="another number of classes"),
        pytest.param(np.array([0]), np.eye(2), id="lengths differ"),
        pytest.param(np.array([0, 2]), np.eye(2), id="label too high"),
        pytest.param(np.array([-1, 1]), np.eye(2), id="label negative"),
        pytest.param(np.array([0.0, 1.0]), np.eye(2), id="labels are floats"),
        pytest.param(np.array([0, 1]), np.full((2, 2), math.nan), id="not finite"),
    ],
)
def test_wrong_arrays_are_refused(labels: np.ndarray, probabilities: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^metrics need labels \(N,\)"):
        compute_metrics(labels, probabilities, ["a", "b"])
