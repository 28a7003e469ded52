"""Predictions out: the engine's graphics, tables and numbers are filled, and the heat map picture is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from ikomia import core

from resnetkit.answers.drawing import TEXT_COLOR, Color, TextLine, get_line_width, lay_out_box_label, lay_out_top_k
from resnetkit.answers.heatmaps import overlay_heatmap
from resnetkit.answers.model import Prediction
from resnetkit.images.boxes import crop_box
from resnetkit.images.preprocessing import Preprocessing


def fill_graphics(
    outputs: Sequence[Any],
    predictions: Sequence[Prediction],
    get_color: Callable[[Prediction], Color],
    size: tuple[int, int],
) -> None:
    """Replace what graphics outputs hold by outlines and texts that fit the image.

    Args:
        outputs: The engine's CGraphicsOutput, one or more, which are filled alike.
        predictions: One for the whole image, or one a box.
        get_color: Colour of an outline.
        size: Height and width of the image in pixels.
    """
    lines = []
    for prediction in predictions:
        if prediction.box is None:
            lines += lay_out_top_k(prediction, *size)
        else:
            lines.append(lay_out_box_label(prediction, *size))
    for graphics in outputs:
        graphics.clear_data()
        for prediction in predictions:
            if prediction.box is not None:
                _add_box(graphics, prediction, get_color(prediction), get_line_width(*size))
        for line in lines:
            _add_text(graphics, line)


def fill_table(table: Any, predictions: Sequence[Prediction]) -> None:
    """Replace what a table output holds: a row a class of the top-k list for a whole image, else a row a box."""
    table.clear_data()
    is_whole = len(predictions) == 1 and predictions[0].box is None
    rows = predictions[0].top_k if is_whole else predictions
    if rows:
        labels = [row.label for row in rows]
        table.add_value_list([str(row.index) for row in rows], "Index", labels)
        table.add_value_list([f"{row.confidence:.4f}" for row in rows], "Confidence", labels)


def fill_embeddings(numbers: Any, predictions: Sequence[Prediction]) -> None:
    """Append a list of 512 or 2048 floats a prediction to a numeric output."""
    for index, prediction in enumerate(predictions):
        assert prediction.embedding is not None
        numbers.add_value_list([float(value) for value in prediction.embedding], f"{index}: {prediction.label}")


def draw_heatmaps(
    image: np.ndarray, predictions: Sequence[Prediction], preprocessing: Preprocessing, box_margin: float
) -> np.ndarray:
    """Lay the activation maps over the image, or over the boxes; where boxes overlap, the last one covers the others.

    Args:
        image: RGB, (height, width, 3) uint8; not changed.
        predictions: With activation maps.
        preprocessing: How an image or crop became the network's input.
        box_margin: By how much the boxes were widened.

    Returns:
        RGB, (height, width, 3) uint8.
    """
    picture = image
    for prediction in predictions:
        assert prediction.activation is not None
        if prediction.box is None:
            return overlay_heatmap(image, prediction.activation, preprocessing)
        if picture is image:
            picture = image.copy()
        source, region = (crop_box(pixels, prediction.box, box_margin) for pixels in (image, picture))
        assert source is not None and region is not None
        region[:] = overlay_heatmap(source, prediction.activation, preprocessing)
    return picture


def _add_box(graphics: Any, prediction: Prediction, color: Color, line_width: int) -> None:
    assert prediction.box is not None
    style = core.GraphicsRectProperty()
    style.pen_color = [*color, 255]
    style.line_size = line_width
    item = graphics.add_rectangle(*(float(value) for value in prediction.box), style)
    item.set_category(prediction.label)  # What tasks further down the workflow select by.


def _add_text(graphics: Any, line: TextLine) -> None:
    graphics.add_text(line.text, line.left, line.baseline, _make_text_style(line.font_size, line.is_bold))


@lru_cache(maxsize=64)
def _make_text_style(font_size: int, is_bold: bool) -> core.GraphicsTextProperty:
    style = core.GraphicsTextProperty()
    style.font_size = font_size
    style.color = list(TEXT_COLOR)
    style.bold = is_bold
    return style
