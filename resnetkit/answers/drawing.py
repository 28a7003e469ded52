"""What is drawn on pictures: where answers go, how large they are, and a picture with them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from resnetkit.answers.fonts import draw_text, is_drawable, measure_columns, measure_text, take_columns
from resnetkit.answers.model import ClassScore, Prediction

if TYPE_CHECKING:
    from PIL import ImageDraw

Color = tuple[int, int, int]

#: Width of a character, height of a line and height above the baseline of the engine's font, as shares of the font
#: size (measured).
_CHARACTER_WIDTH = 0.62
_LINE_HEIGHT = 1.45
_ASCENT = 0.95
_MIN_FONT_SIZE = 8
_MIN_BOLD_FONT_SIZE = 24
#: Text is as high as this share of the image's short side.
_TEXT_SHARE = 1 / 18
_MAX_BOX_TEXT_SHARE = 1 / 28
#: Smaller text is unreadable when the whole image is seen on a screen: long names are cut instead.
_MIN_TEXT_SHARE = 1 / 64

#: The engine puts a light, half transparent ground under texts: only dark text is readable on it.
TEXT_COLOR = (16, 16, 16)
_GROUND_COLOR = (236, 236, 236, 215)


@dataclass(frozen=True)
class TextLine:
    """A line of text: its upper left corner and font size in pixels of the image."""

    text: str
    left: float
    top: float
    font_size: int

    @property
    def baseline(self) -> float:
        """Where the engine wants the text: it draws upwards from there."""
        return self.top + self.font_size * _ASCENT

    @property
    def is_bold(self) -> bool:
        """Whether the engine's one-pixel strokes would be too thin at this size."""
        return self.font_size >= _MIN_BOLD_FONT_SIZE


def format_score(score: ClassScore | Prediction) -> str:
    """Format a class and its probability: `tabby 12.3 %`."""
    return f"{score.label} {100 * score.confidence:.1f} %"


def lay_out_top_k(prediction: Prediction, height: int, width: int) -> list[TextLine]:
    """Place the answer for a whole image in its upper left corner, best class first, as large as fits."""
    texts = [format_score(score) for score in prediction.top_k]
    if prediction.index < 0:
        texts.insert(0, format_score(prediction))
    smallest = _get_min_font_size(height, width)
    room = int(0.9 * height / _LINE_HEIGHT / smallest)
    texts = texts[: max(1, room)]
    font_size = min(
        _fit_font_size(texts, 0.94 * width, smallest, round(min(height, width) * _TEXT_SHARE)),
        max(smallest, int(0.9 * height / len(texts) / _LINE_HEIGHT)),
    )
    margin = 0.02 * min(height, width)
    texts = [_shorten(text, font_size, width - 2 * margin) for text in texts]
    return [TextLine(text, margin, margin + i * font_size * _LINE_HEIGHT, font_size) for i, text in enumerate(texts)]


def lay_out_box_label(prediction: Prediction, height: int, width: int) -> TextLine:
    """Place the answer for a box above it, or inside where there is no room above; never outside the image."""
    assert prediction.box is not None
    left, top, box_width, _ = prediction.box
    text = format_score(prediction)
    smallest, largest = _get_min_font_size(height, width), round(min(height, width) * _MAX_BOX_TEXT_SHARE)
    font_size = _fit_font_size([text], max(box_width, 0.2 * width), smallest, largest)
    text = _shorten(text, font_size, width)
    line_height = font_size * _LINE_HEIGHT
    text_left = min(max(left, 0.0), max(0.0, width - measure_columns(text) * font_size * _CHARACTER_WIDTH))
    text_top = top - line_height if top >= line_height else max(top, 0.0)
    return TextLine(text, text_left, min(text_top, max(0.0, height - line_height)), font_size)


def annotate(image: np.ndarray, predictions: Sequence[Prediction], colors: Sequence[Color]) -> np.ndarray:
    """Draw answers on a copy of an image; a class whose letters no font of this machine has goes by its number.

    Args:
        image: RGB, (height, width, 3) uint8.
        predictions: One for the whole image, or one a box.
        colors: Of the outlines, one a prediction.

    Returns:
        RGB, (height, width, 3) uint8.
    """
    from PIL import Image, ImageDraw

    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture, "RGBA")
    lines = []
    for prediction, color in zip(map(_make_drawable, predictions), colors, strict=True):
        if prediction.box is None:
            lines += lay_out_top_k(prediction, height, width)
        else:
            left, top, box_width, box_height = prediction.box
            corners = (left, top, left + box_width, top + box_height)
            pen.rectangle(corners, outline=color, width=get_line_width(height, width))
            lines.append(lay_out_box_label(prediction, height, width))
    for line in lines:
        _draw_line(pen, line)
    return np.array(picture)


def _draw_line(pen: ImageDraw.ImageDraw, line: TextLine) -> None:
    padding = 0.3 * line.font_size
    right = line.left + measure_text(line.text, line.font_size) + 2 * padding
    corners = (line.left, line.top, right, line.top + line.font_size * _LINE_HEIGHT - 1)
    pen.rounded_rectangle(corners, radius=padding, fill=_GROUND_COLOR)
    middle = line.top + line.font_size * _LINE_HEIGHT / 2
    draw_text(pen, (line.left + padding, middle), line.text, line.font_size, fill=TEXT_COLOR)


def _make_drawable(prediction: Prediction) -> Prediction:
    top_k = tuple(replace(score, label=_name(score)) for score in prediction.top_k)
    return replace(prediction, label=_name(prediction), top_k=top_k)


def _name(score: ClassScore | Prediction) -> str:
    return score.label if is_drawable(score.label) else f"#{score.index}"


def get_line_width(height: int, width: int) -> int:
    """Return the thickness in pixels of outlines on an image of that size."""
    return max(1, round(min(height, width) / 240))


def make_colors(count: int) -> list[Color]:
    """Return distinct colours, one a class: red, green, blue, 0..255."""
    colors: list[Color] = []
    for index in range(count):
        # Steps of the golden ratio spread any number of hues evenly.
        red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1, 0.85, 0.9)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def _get_min_font_size(height: int, width: int) -> int:
    return max(_MIN_FONT_SIZE, round(min(height, width) * _MIN_TEXT_SHARE))


def _fit_font_size(texts: Sequence[str], room: float, smallest: int, largest: int) -> int:
    longest = max(map(measure_columns, texts))
    return max(smallest, min(largest, int(room / longest / _CHARACTER_WIDTH)))


def _shorten(text: str, font_size: int, room: float) -> str:
    """Cut a name, never its probability, so that the line fits."""
    count = max(12, int(room / font_size / _CHARACTER_WIDTH))
    if measure_columns(text) <= count:
        return text
    name, number, percent = text.rsplit(" ", 2)
    return f"{take_columns(name, max(2, count - len(number) - 6))}... {number} {percent}"
