"""The moving average over frames, and when it starts anew."""

from __future__ import annotations

import numpy as np

from resnetkit.answers.probabilities import ProbabilitySmoother

FIRST, SECOND = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


def test_it_is_an_exponential_moving_average():
    smoother = ProbabilitySmoother()
    np.testing.assert_allclose(smoother.update(FIRST, 0.9, "video"), [1, 0])
    np.testing.assert_allclose(smoother.update(SECOND, 0.9, "video"), [0.9, 0.1])
    np.testing.assert_allclose(smoother.update(SECOND, 0.5, "video"), [0.45, 0.55])
    assert smoother.update(SECOND, 0.5, "video").dtype == np.float32


def test_another_stream_or_a_reset_starts_anew():
    smoother = ProbabilitySmoother()
    smoother.update(FIRST, 0.9, "video")
    np.testing.assert_array_equal(smoother.update(SECOND, 0.9, "other"), SECOND)
    smoother.update(FIRST, 0.9, "other")
    smoother.reset()
    np.testing.assert_array_equal(smoother.update(SECOND, 0.9, "other"), SECOND)


def test_frames_are_not_changed():
    smoother = ProbabilitySmoother()
    frame = FIRST.copy()
    smoother.update(frame, 0.5, "video")
    smoother.update(SECOND, 0.5, "video")
    np.testing.assert_array_equal(frame, FIRST)
