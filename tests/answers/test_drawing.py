"""What is drawn on pictures: in the image, legible, and with the probability always there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from resnetkit.answers.drawing import (
    annotate,
    format_score,
    get_line_width,
    lay_out_box_label,
    lay_out_top_k,
    make_colors,
)
from resnetkit.answers.model import ClassScore, Prediction
from resnetkit.weights.architectures import get_imagenet_classes

LONG = max(get_imagenet_classes(), key=len)
SIZES = [(240, 320), (480, 640), (4000, 6000), (6000, 400), (100, 100), (2, 2), (1, 5000)]


def make_prediction(labels=("tabby", "tiger cat", LONG, "lynx", "Bär 猫"), box=None, index=0) -> Prediction:
    scores = tuple(ClassScore(label, position, 0.5 / (position + 1)) for position, label in enumerate(labels))
    return Prediction(labels[0] if index >= 0 else "unknown", index, scores[0].confidence, scores, box)


def test_percentages_have_one_decimal():
    assert format_score(ClassScore("shower curtain", 0, 0.13501253724098206)) == "shower curtain 13.5 %"
    assert format_score(ClassScore("cat", 0, 1.0)) == "cat 100.0 %"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_top_k_are_in_order_and_do_not_overlap(size):
    lines = lay_out_top_k(make_prediction(), *size)
    assert lines[0].text.endswith(" 50.0 %")
    for line, following in itertools.pairwise(lines):
        assert following.top >= line.top + line.font_size
    assert len(lines) == 5 or min(size) < 100
    height, width = size
    if min(size) >= 100:
        assert lines[-1].baseline <= height
        assert 8 <= lines[0].font_size <= max(8, min(size) / 18)
        assert max(len(line.text) * line.font_size * 0.5 for line in lines) <= width


def test_text_grows_with_the_image():
    small, large = (lay_out_top_k(make_prediction(("cat", "dog")), *size)[0] for size in ((240, 320), (4000, 6000)))
    assert small.font_size >= 12
    assert large.font_size >= 200
    assert large.is_bold
    assert not small.is_bold


def test_unknown_stands_above_the_real_classes():
    lines = lay_out_top_k(make_prediction(index=-1), 480, 640)
    assert lines[0].text == "unknown 50.0 %"
    assert lines[1].text == "tabby 50.0 %"


def test_a_long_name_is_cut_and_its_probability_is_not():
    (line,) = lay_out_top_k(make_prediction((LONG + " and more" * 10,)), 240, 320)
    assert line.text.endswith("... 50.0 %")


def test_a_long_name_stays_readable_on_a_large_image():
    prediction = make_prediction((LONG + " and more" * 10,), (2400, 1200, 300, 300))
    line = lay_out_box_label(prediction, 4000, 6000)
    assert line.font_size >= 60
    assert line.text.endswith(" 50.0 %")
    assert 0 <= line.left < 6000
    assert all(line.font_size >= 60 for line in lay_out_top_k(make_prediction((LONG + " and more" * 90,)), 4000, 6000))


@pytest.mark.parametrize(
    "box",
    [
        (100, 100, 200, 200),
        (0, 0, 50, 50),
        (-50, -50, 100, 100),
        (600, 450, 100, 100),
        (300, 2, 5, 5),
        (0, 0, 640, 480),
    ],
    ids=str,
)
def test_the_label_of_a_box_is_in_the_image_and_near_the_box(box):
    line = lay_out_box_label(make_prediction(("tabby",), box), 480, 640)
    assert line.text == "tabby 50.0 %"
    assert 0 <= line.left <= 640
    assert 0 <= line.top <= 480 - line.font_size
    assert abs(line.top - box[1]) <= 60


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("box", [None, (-5.5, 3.25, 300.0, 200.0)], ids=["whole", "box"])
def test_a_picture_keeps_its_size_and_the_image_is_not_changed(size, box):
    image = np.full((*size, 3), 128, np.uint8)
    image.flags.writeable = False
    picture = annotate(image, [make_prediction(box=box)], [(255, 0, 0)])
    assert (picture.shape, picture.dtype) == (image.shape, np.uint8)
    if min(size) >= 100:
        assert (picture != image).any()


def test_no_predictions_leave_the_picture_as_it_is(photographs):
    np.testing.assert_array_equal(annotate(photographs["china"], [], []), photographs["china"])


def test_lines_are_visible_at_every_size():
    assert get_line_width(1, 1) == 1
    assert get_line_width(480, 640) == 2
    assert get_line_width(4000, 6000) >= 15


def test_colors_are_as_many_as_classes_and_differ():
    colors = make_colors(100)
    assert len(set(colors)) == 100
    assert all(0 <= value <= 255 for color in colors for value in color)
    assert make_colors(0) == []
