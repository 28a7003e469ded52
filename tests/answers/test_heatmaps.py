"""Activation maps over pictures: where the network looked is where the colour is."""

from __future__ import annotations

import numpy as np
import pytest

from resnetkit.answers.heatmaps import class_activation_map, overlay_heatmap
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD


def make_preprocessing(mode: str) -> Preprocessing:
    return Preprocessing(224, 256, mode, IMAGENET_MEAN, IMAGENET_STD)


def test_the_map_is_the_weighted_sum_without_its_negative_part():
    feature_map = np.array([[[1, 2], [3, 4]], [[4, 3], [2, 1]]], np.float32)
    activation = class_activation_map(feature_map, np.array([1, -1], np.float32))
    np.testing.assert_array_equal(activation, [[0, 0], [1, 3]])
    assert activation.dtype == np.float32


def measure_change(image: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    """Return how much each pixel changed, (height, width)."""
    return np.abs(overlay.astype(int) - image).sum(axis=2)


@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (1, 1), (1, 5000), (40_000, 2)], ids=str)
@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
def test_every_shape_keeps_its_size_and_its_pixels(shape, mode):
    image = np.full((*shape, 3), 100, np.uint8)
    image.flags.writeable = False
    overlay = overlay_heatmap(image, np.ones((7, 7), np.float32), make_preprocessing(mode))
    assert (overlay.shape, overlay.dtype) == (image.shape, np.uint8)
    assert measure_change(image, overlay)[shape[0] // 2, shape[1] // 2] > 0


def test_no_activation_leaves_the_picture_as_it_is(photographs):
    overlay = overlay_heatmap(photographs["china"], np.zeros((7, 7), np.float32), make_preprocessing("crop"))
    np.testing.assert_array_equal(overlay, photographs["china"])


@pytest.mark.parametrize("shape", [(448, 448), (448, 896), (896, 448)], ids=str)
@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
def test_the_colour_is_where_the_cell_is(shape, mode):
    preprocessing = make_preprocessing(mode)
    image = np.full((*shape, 3), 128, np.uint8)
    activation = np.zeros((7, 7), np.float32)
    activation[2, 4] = 3.0
    change = measure_change(image, overlay_heatmap(image, activation, preprocessing))
    left, top, width, height = preprocessing.get_visible_region(*shape)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert row == pytest.approx(top + 2.5 * height / 7, abs=height / 28)
    assert column == pytest.approx(left + 4.5 * width / 7, abs=width / 28)
    assert change[int(top + 4.9 * height / 7), int(left + 1.5 * width / 7)] == 0


def test_what_the_network_did_not_see_stays_as_it_is():
    image = np.full((256, 512, 3), 128, np.uint8)
    change = measure_change(image, overlay_heatmap(image, np.ones((7, 7), np.float32), make_preprocessing("crop")))
    seen = np.zeros((256, 512), bool)
    seen[16:240, 144:368] = True
    assert (change[seen] > 0).all()
    assert (change[~seen] == 0).all()


def test_strips_meet_without_a_seam(photographs, monkeypatch):
    activation = np.random.default_rng(0).random((7, 7), np.float32)
    whole = overlay_heatmap(photographs["china"], activation, make_preprocessing("crop"))
    monkeypatch.setattr("resnetkit.answers.heatmaps._STRIP_PIXELS", 6400)
    np.testing.assert_array_equal(overlay_heatmap(photographs["china"], activation, make_preprocessing("crop")), whole)
