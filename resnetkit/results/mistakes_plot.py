"""The worst mistakes of a model as one figure: each image with its heat map, what was predicted and what is true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.answers.fonts import find_families, shorten_text
from resnetkit.results.page_text import format_percent, is_small
from resnetkit.results.plots import ACCENT, INK, MUTED, PRIMARY, SURFACE, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from resnetkit.results.pictures import Mistake

#: Mistakes in the picture of the worst ones, and how many of them stand side by side.
_MAX_MISTAKES = 8
_MAX_MISTAKE_COLUMNS = 4
#: In inches: the longest side of an image, the gap between it and its heat map, the lines above and below them, the
#: margin beside and below each mistake.
_PICTURE_SIDE = 1.4
_PICTURE_GAP = 0.06
_LINE_HEIGHT = 0.2
_MARGIN = 0.14
_MISTAKE_WIDTH = 2 * (_PICTURE_SIDE + _MARGIN) + _PICTURE_GAP
_TITLE_HEIGHT = 0.45


def draw_mistakes(mistakes: Sequence[Mistake], names: Mapping[str, str]) -> Figure:
    """Draw the first eight mistakes: what was predicted and what is true, the image, and what the network looked at.

    Where there is no heat map, the words stand in its place.

    Args:
        mistakes: At least one, the worst first, see `resnetkit.results.pictures.collect_mistakes`.
        names: What is drawn for each class, of about 18 letters.
    """
    num_rows = math.ceil(min(len(mistakes), _MAX_MISTAKES) / _MAX_MISTAKE_COLUMNS)
    columns = math.ceil(min(len(mistakes), _MAX_MISTAKES) / num_rows)
    rows = [mistakes[row * columns : min((row + 1) * columns, _MAX_MISTAKES)] for row in range(num_rows)]
    heights = [max(map(_measure_height, row)) + _MARGIN for row in rows]
    size = columns * _MISTAKE_WIDTH, _TITLE_HEIGHT + sum(heights)
    figure = make_figure(*size)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    _write_line(axes, (_MARGIN, _TITLE_HEIGHT / 2), "Worst mistakes", INK, fontsize=11, fontweight="bold")
    for number, row in enumerate(rows):
        top = _TITLE_HEIGHT + sum(heights[:number])
        for column, mistake in enumerate(row):
            draw = _draw_with_words_beside if mistake.heatmap is None else _draw_with_heatmap
            draw(axes, (column * _MISTAKE_WIDTH + _MARGIN, top), mistake, names)
    return figure


def _measure_height(mistake: Mistake) -> float:
    """Return the inches that a mistake takes, with a line for what stands below the picture."""
    height = _fit_picture(mistake.image)[1] + _LINE_HEIGHT
    return max(height, 7 * _LINE_HEIGHT) if mistake.heatmap is None else height + 2 * _LINE_HEIGHT


def _draw_with_words_beside(
    axes: Axes, corner: tuple[float, float], mistake: Mistake, names: Mapping[str, str]
) -> None:
    """Draw one mistake with its upper left corner at a point of axes whose unit is an inch, y downwards."""
    left, top = corner
    _draw_picture(axes, corner, mistake.image, shorten_text(mistake.file_name, 22))
    x = left + _PICTURE_SIDE + 2 * _PICTURE_GAP
    for line, label, name, probability, color in (
        (0, "predicted", names[mistake.predicted_class], mistake.predicted_probability, ACCENT),
        (3.5, "true", names[mistake.true_class], mistake.true_probability, PRIMARY),
    ):
        y = top + (line + 0.5) * _LINE_HEIGHT
        _write_line(axes, (x, y), label, MUTED, fontsize=7)
        _write_line(axes, (x, y + _LINE_HEIGHT), name, color, fontweight="bold")
        _write_line(axes, (x, y + 2 * _LINE_HEIGHT), format_percent(probability), color)


def _draw_with_heatmap(axes: Axes, corner: tuple[float, float], mistake: Mistake, names: Mapping[str, str]) -> None:
    """Draw one mistake as `_draw_with_words_beside` does, but the words above and the heat map beside the image."""
    left, top = corner
    middle, right = left + _PICTURE_SIDE + _PICTURE_GAP, left + 2 * _PICTURE_SIDE + _PICTURE_GAP
    predicted, true = names[mistake.predicted_class], names[mistake.true_class]
    cover = {"facecolor": SURFACE, "linewidth": 0, "pad": 2.5}  # over the end of a name of wide letters
    for line, label, name, probability, color in (
        (0, "predicted", predicted, mistake.predicted_probability, ACCENT),
        (1, "true", true, mistake.true_probability, PRIMARY),
    ):
        y = top + (line + 0.5) * _LINE_HEIGHT
        _write_line(axes, (left, y), label, MUTED, fontsize=7)
        _write_line(axes, (left + 0.55, y), name, color, fontweight="bold")
        _write_line(axes, (right, y), format_percent(probability), color, ha="right", bbox=cover)
    file_name = shorten_text(mistake.file_name, 22)
    for x, image, caption in ((left, mistake.image, file_name), (middle, mistake.heatmap, "heat map")):
        if image is not None:
            _draw_picture(axes, (x, top + 2.1 * _LINE_HEIGHT), image, caption)


def _draw_picture(axes: Axes, corner: tuple[float, float], image: np.ndarray, caption: str) -> None:
    """Draw an image with its upper left corner at a point, and a line below."""
    (left, top), (width, height) = corner, _fit_picture(image)
    limits = axes.axis()
    smoothing = "nearest" if is_small(image) else "antialiased"  # enlarged pixels stay pixels
    axes.imshow(image, extent=(left, left + width, top + height, top), aspect="auto", interpolation=smoothing)
    axes.axis(limits)
    _write_line(axes, (left, top + height + 0.5 * _LINE_HEIGHT), caption, MUTED, fontsize=7)


def _fit_picture(image: np.ndarray) -> tuple[float, float]:
    """Return width and height in inches."""
    height, width = (_PICTURE_SIDE * side / max(image.shape[:2]) for side in image.shape[:2])
    return width, height


def _write_line(axes: Axes, position: tuple[float, float], text: str, color: str, **style: Any) -> None:
    # A "$" in the name of a class or file is no formula.
    style = {"fontsize": 8.5, "va": "center", "color": color, "parse_math": False, **style}
    axes.text(*position, text, fontfamily=find_families([text]), **style)
