"""The temperature: found where it is known, 1 where nobody can tell, never out of bounds."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from resnetkit.results.calibration import TEMPERATURE_BOUNDS, compute_log_loss, find_temperature, fit_temperature


def _draw(num_images: int, temperature: float, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are `temperature` times those that the labels were drawn from."""
    random = np.random.default_rng(0)
    logits = random.normal(scale=2, size=(num_images, num_classes))
    labels = np.array([random.choice(num_classes, p=row) for row in softmax(logits, axis=1)])
    return logits * temperature, labels


def test_log_loss_is_that_of_scikit_learn():
    logits, labels = _draw(200, 1)
    weights = np.linspace(0.5, 2, 200)
    expected = log_loss(labels, softmax(logits / 1.7, axis=1), sample_weight=weights)
    assert compute_log_loss(logits, labels, 1.7, weights) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_known_temperature_is_found(temperature):
    logits, labels = _draw(5000, temperature)
    assert find_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_wrong_confidence_is_repaired(temperature):
    logits, labels = _draw(500, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.2)


def test_no_temperature_where_cross_validation_says_that_it_would_hurt():
    logits = np.array([[1.0, 0.0]] * 5)
    # Each fold of one image asks for the opposite of what the others have learned from.
    labels = np.array([0, 0, 0, 1, 0])
    assert fit_temperature(logits, labels) == 1.0
    assert find_temperature(logits, labels) != pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("num_images", [20, 90, 1000])
def test_answers_that_are_all_right_do_not_make_certain(num_images):
    """The confidence comes to what Laplace's rule of succession says of so many right answers."""
    random = np.random.default_rng(0)
    labels = np.arange(num_images) % 5
    logits = 4 * np.eye(5)[labels] + random.normal(scale=0.3, size=(num_images, 5))
    temperature = fit_temperature(logits, labels)
    confidence = softmax(logits / temperature, axis=1).max(axis=1).mean()
    assert 1 - confidence == pytest.approx(1 / (num_images + 2), rel=0.2)
    assert temperature > 2 * find_temperature(logits, labels)


def test_doubt_is_that_of_smoothed_labels():
    logits, labels = _draw(300, 0.5)
    targets = np.where(np.eye(5, dtype=bool)[labels], 0.8, 0.05)
    found = find_temperature(logits, labels, doubt=0.2)

    def loss(temperature):
        return -(targets * np.log(softmax(logits / temperature, axis=1))).sum()

    assert loss(found) < min(loss(found * 0.98), loss(found * 1.02))


@pytest.mark.parametrize("sign", [1, -1], ids=["all right", "all wrong"])
def test_extreme_logits_stay_in_bounds(sign):
    labels = np.arange(20) % 2
    temperature = find_temperature(sign * 1e4 * np.eye(2)[labels], labels)
    assert TEMPERATURE_BOUNDS[0] <= temperature <= TEMPERATURE_BOUNDS[1]


@pytest.mark.parametrize("num_images", [0, 1])
def test_too_few_images_keep_the_logits(num_images):
    assert fit_temperature(np.zeros((num_images, 3)), np.zeros(num_images, int)) == 1.0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4, int), "expected logits"),
        (np.zeros(3), np.zeros(3, int), "expected logits"),
        (np.full((2, 2), np.nan), np.zeros(2, int), "finite logits"),
        (np.zeros((2, 2)), np.array([0, 2]), "labels from 0 to 1"),
    ],
)
def test_bad_input_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
