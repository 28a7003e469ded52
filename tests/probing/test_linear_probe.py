"""The solved head: scikit-learn's solution, the choice on held-out images, and input that other solvers trip over."""

import threading
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.probing import logistic_regression
from resnetkit.probing.blas import use_one_blas_thread
from resnetkit.probing.linear_probe import Labelled, ProbeOptions, ProbePath, solve_path

EXACT = {"tolerance": 1e-6, "max_iterations": 5000}


@pytest.fixture(scope="module")
def wine() -> Labelled:
    data = load_wine()
    return Labelled(data.data.astype(np.float32), data.target)


@pytest.fixture(scope="module")
def digits() -> Labelled:
    data = load_digits()
    return Labelled(data.data.astype(np.float32), data.target)


def _take(data: Labelled, rows: slice | np.ndarray) -> Labelled:
    return Labelled(data.features[rows], data.labels[rows])


def _nothing(data: Labelled) -> Labelled:
    return _take(data, slice(0, 0))


def _solve_one(train: Labelled, strength: float, scaling: str = "each", **options: object) -> tuple:
    num_classes = train.labels.max() + 1
    path = solve_path(
        train, train, num_classes, ProbeOptions(strengths=(strength,), scalings=(scaling,), **EXACT, **options)
    )
    return path.chosen.weight, path.chosen.bias


def _assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-3) -> None:
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_solution_is_that_of_scikit_learn(wine, strength, class_weight):
    features = wine.features.astype(np.float64)
    scaler = StandardScaler().fit(features)
    reference = LogisticRegression(C=strength, class_weight=class_weight, tol=1e-10, max_iter=10_000)
    reference.fit(scaler.transform(features), wine.labels)
    counts = np.bincount(wine.labels)
    weights = len(wine.labels) / (len(counts) * counts) if class_weight else None
    weight, bias = _solve_one(wine, strength, class_weights=weights)
    _assert_close(weight * scaler.scale_, reference.coef_)
    _assert_close(bias + weight @ scaler.mean_, reference.intercept_)


def test_one_scale_for_all_only_changes_the_unit_of_the_strength(digits):
    digits = _take(digits, slice(0, 400))
    features = digits.features.astype(np.float64)
    variance = features.var(axis=0).mean()
    reference = LogisticRegression(C=0.1 / variance, tol=1e-8, max_iter=10_000).fit(features, digits.labels)
    weight, _ = _solve_one(digits, 0.1, scaling="all")
    _assert_close(weight, reference.coef_)


def test_label_smoothing_is_a_mixture_of_all_labels(wine):
    weight, _ = _solve_one(wine, 1.0, label_smoothing=0.3)
    # The same problem, said with sample weights: each image once with its label, and a little with every label.
    scaled = StandardScaler().fit_transform(wine.features.astype(np.float64))
    factors = np.concatenate([np.full(len(wine.labels), 0.7), np.full(3 * len(wine.labels), 0.1)])
    labels = np.concatenate([wine.labels, np.repeat([0, 1, 2], len(wine.labels))])
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    reference.fit(np.tile(scaled, (4, 1)), labels, sample_weight=factors)
    _assert_close(weight * wine.features.std(axis=0), reference.coef_)


def test_blocks_of_a_memmap_give_the_same_solution(digits, tmp_path, monkeypatch):
    expected, _ = _solve_one(digits, 0.1)
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=digits.features.shape)
    mapped[:] = digits.features
    monkeypatch.setattr(logistic_regression, "_MAX_KEPT_VALUES", 0)
    monkeypatch.setattr(logistic_regression, "_MAX_BLOCK_VALUES", 1 << 14)
    weight, _ = _solve_one(Labelled(mapped, digits.labels), 0.1)
    # Pixels that are dark in all but a few images: there the optimum is flat, and float32 sums it up in another order.
    _assert_close(weight, expected, 5e-3)


def test_path_reports_and_chooses_the_lowest_held_out_loss(digits):
    path = solve_path(_take(digits, slice(0, 300)), _take(digits, slice(300, 500)), 10)
    assert path.chosen.held_out_loss <= 1.001 * min(solution.held_out_loss for solution in path.solutions)
    assert "200 validation images" in path.reason
    assert len(path.held_out_labels) == 200
    test = _take(digits, slice(500, None))
    accuracy = np.mean((test.features @ path.chosen.weight.T + path.chosen.bias).argmax(axis=1) == test.labels)
    assert accuracy > 0.84  # scikit-learn reaches 0.82 to 0.87, depending on C


def test_too_small_validation_is_joined_by_cross_validation(digits):
    path = solve_path(_take(digits, slice(0, 100)), _take(digits, slice(100, 110)), 10)
    assert "5 folds and 10 validation images" in path.reason
    assert len(path.held_out_labels) == 110


def test_equal_views_of_an_image_count_as_one(digits):
    train, options = _take(digits, slice(0, 60)), {"strengths": (0.01, 0.1), "scalings": ("all",), **EXACT}
    twice = Labelled(np.repeat(train.features, 2, axis=0), np.repeat(train.labels, 2))
    expected = solve_path(train, _nothing(digits), 10, ProbeOptions(**options))
    path = solve_path(twice, _nothing(digits), 10, ProbeOptions(**options, num_views=2))
    _assert_close(path.chosen.weight, expected.chosen.weight)
    assert path.chosen.held_out_loss == pytest.approx(expected.chosen.held_out_loss, rel=1e-3)


def test_same_arguments_same_path(digits):
    options = ProbeOptions(strengths=(0.1, 1.0))
    first, second = (solve_path(_take(digits, slice(0, 80)), _nothing(digits), 10, options) for _ in range(2))
    assert np.array_equal(first.chosen.weight, second.chosen.weight)


def test_a_stop_ends_the_solving(digits):
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == 50

    with pytest.raises(TrainingStopped):
        solve_path(digits, digits, 10, progress=Progress(is_stop_requested=stop))
    assert calls == 50


def _solve_finite(train: Labelled, val: Labelled, num_classes: int) -> ProbePath:
    path = solve_path(train, val, num_classes)
    assert all(np.isfinite(solution.weight).all() for solution in path.solutions)
    assert all(np.isfinite(solution.bias).all() for solution in path.solutions)
    return path


def test_a_class_with_one_image(digits):
    rows = np.append(np.flatnonzero(digits.labels != 7)[:60], np.flatnonzero(digits.labels == 7)[0])
    _solve_finite(_take(digits, rows), _nothing(digits), 10)


def test_as_many_classes_as_images(digits):
    first = _take(digits, np.array([np.flatnonzero(digits.labels == label)[0] for label in range(10)]))
    path = _solve_finite(first, _nothing(digits), 10)
    assert path.chosen.strength == 1.0
    assert "no image could be held out" in path.reason


def test_validation_lacks_a_class(digits):
    val = _take(digits, np.flatnonzero(digits.labels != 3)[:150])
    _solve_finite(_take(digits, slice(0, 200)), val, 10)


@pytest.mark.parametrize("size", [3, 100], ids=["few features", "more features than images"])
def test_constant_features_leave_the_frequencies(size):
    labels = np.array([0] * 30 + [1] * 10)
    train = Labelled(np.full((40, size), 0.1, np.float32), labels)
    path = _solve_finite(train, train, 2)
    assert np.abs(path.chosen.weight).max() < 1e-6
    assert path.chosen.bias[0] - path.chosen.bias[1] == pytest.approx(np.log(3), rel=1e-3)


def test_separable_classes_end_without_warning():
    labels = np.repeat([0, 1, 2], 40)
    features = np.eye(3, dtype=np.float32)[labels] * 1000
    path = _solve_finite(Labelled(features, labels), Labelled(features, labels), 3)
    assert path.chosen.val_accuracy == 1.0


def test_one_class(wine):
    train = Labelled(wine.features, np.zeros_like(wine.labels))
    assert _solve_finite(train, train, 1).chosen.val_accuracy == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(wine, value):
    features = wine.features.copy()
    features[3, 5] = value
    with pytest.raises(ValueError, match="expected finite training features"):
        solve_path(Labelled(features, wine.labels), wine, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1, 3], "labels from 0 to 2"), ([0, 1], "features"), ([0, 1, 1], "image of every class, got none of class 2")],
    ids=["out of range", "another number", "class without image"],
)
def test_labels_that_do_not_fit_are_refused(wine, labels, message):
    with pytest.raises(ValueError, match=message):
        solve_path(Labelled(wine.features[:3], np.array(labels)), wine, 3)


def test_large_data_take_larger_steps():
    options = ProbeOptions(label_smoothing=0.1)
    assert options.fit_size(600, 512, 10) is options
    large = options.fit_size(100_000, 2048, 1000)
    assert len(large.strengths) < len(options.strengths)
    assert large.label_smoothing == 0.1


@pytest.mark.parametrize("size", [256, 1024])  # fewer features than images, and more
def test_a_stop_is_seen_while_eigenvectors_are_found(size, monkeypatch):
    is_begun, may_end = threading.Event(), threading.Event()
    find = np.linalg.eigh

    def find_slowly(matrix):
        is_begun.set()
        assert may_end.wait(60)
        return find(matrix)

    monkeypatch.setattr(np.linalg, "eigh", find_slowly)
    data = Labelled(np.random.default_rng(0).normal(size=(512, size)).astype(np.float32), np.arange(512) % 2)
    start = time.monotonic()
    with pytest.raises(TrainingStopped):
        solve_path(data, data, 2, progress=Progress(is_stop_requested=is_begun.is_set))
    may_end.set()
    assert time.monotonic() - start < 30


def test_blas_computes_in_one_thread_until_the_last_one_leaves():
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own
    from threadpoolctl import threadpool_info, threadpool_limits

    def count():
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        first, second = use_one_blas_thread(), use_one_blas_thread()
        with first:
            assert count() == {1}
            second.__enter__()
        assert count() == {1}
        second.__exit__(None, None, None)
        assert count() == {2}


def test_many_classes_are_learned_with_the_tolerance_of_large_data():
    """All their gradients are small, at the start already."""
    random, num_classes = np.random.default_rng(0), 300
    directions = random.normal(size=(num_classes, 64)).astype(np.float32)

    def draw(count):
        labels = np.arange(count) % num_classes
        noise = random.normal(size=(count, 64)).astype(np.float32)
        return Labelled(directions[labels] + noise, labels)

    train, val = draw(3_000), draw(900)
    large = ProbeOptions().fit_size(1_000_000, 2048, num_classes)
    path = solve_path(train, val, num_classes, large)
    possible = np.mean((val.features @ directions.T - (directions**2).sum(axis=1) / 2).argmax(axis=1) == val.labels)
    assert path.chosen.val_accuracy > 0.9 * possible > 0.85
