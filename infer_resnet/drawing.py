"""What is drawn on pictures: where texts go and how large they are. No engine and no pixels here."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from infer_resnet.predictor import ClassScore, Prediction

#: Width of a character and height of a line of the engine's font, as shares of the font size (measured).
_CHARACTER_WIDTH = 0.62
_LINE_HEIGHT = 1.45
_MIN_FONT_SIZE = 8
#: Text is as high as this share of the image's short side.
_TEXT_SHARE = 1 / 18
_MAX_BOX_TEXT_SHARE = 1 / 28

#: The engine puts a light, half transparent ground under texts: only dark text is readable on it.
TEXT_COLOR = (16, 16, 16)


@dataclass(frozen=True)
class TextLine:
    """A line of text: its upper left corner and font size in pixels of the image."""

    text: str
    left: float
    top: float
    font_size: int


def format_score(score: ClassScore | Prediction) -> str:
    """Format a class and its probability: `tabby 12.3 %`."""
    return f"{score.label} {100 * score.confidence:.1f} %"


def lay_out_top_k(prediction: Prediction, height: int, width: int) -> list[TextLine]:
    """Place the answer for a whole image in its upper left corner, best class first, as large as fits."""
    texts = [format_score(score) for score in prediction.top_k]
    if prediction.index < 0:
        texts.insert(0, format_score(prediction))
    room = int(0.9 * height / _LINE_HEIGHT / _MIN_FONT_SIZE)
    texts = texts[: max(1, room)]
    font_size = min(
        _fit_font_size(texts, 0.94 * width, round(min(height, width) * _TEXT_SHARE)),
        max(_MIN_FONT_SIZE, int(0.9 * height / len(texts) / _LINE_HEIGHT)),
    )
    margin = 0.02 * min(height, width)
    return [
        TextLine(_shorten(text, font_size, width - 2 * margin), margin, margin + i * font_size * _LINE_HEIGHT, font_size)
        for i, text in enumerate(texts)
    ]


def lay_out_box_label(prediction: Prediction, height: int, width: int) -> TextLine:
    """Place the answer for a box above it, or inside where there is no room above; never outside the image."""
    assert prediction.box is not None
    left, top, box_width, _ = prediction.box
    text = format_score(prediction)
    font_size = _fit_font_size([text], max(box_width, 0.2 * width), round(min(height, width) * _MAX_BOX_TEXT_SHARE))
    text = _shorten(text, font_size, width)
    line_height = font_size * _LINE_HEIGHT
    text_left = min(max(left, 0.0), max(0.0, width - len(text) * font_size * _CHARACTER_WIDTH))
    text_top = top - line_height if top >= line_height else max(top, 0.0)
    return TextLine(text, text_left, min(text_top, max(0.0, height - line_height)), font_size)


def get_line_width(height: int, width: int) -> int:
    """Return the thickness in pixels of outlines on an image of that size."""
    return max(1, round(min(height, width) / 240))


def make_colors(count: int) -> list[list[int]]:
    """Return distinct colours, one a class, as the engine wants them: lists of red, green, blue."""
    colors = []
    for index in range(count):
        # Steps of the golden ratio spread any number of hues evenly.
        red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1, 0.85, 0.9)
        colors.append([round(255 * red), round(255 * green), round(255 * blue)])
    return colors


def _fit_font_size(texts: Sequence[str], room: float, wanted: int) -> int:
    longest = max(len(text) for text in texts)
    return max(_MIN_FONT_SIZE, min(wanted, int(room / longest / _CHARACTER_WIDTH)))


def _shorten(text: str, font_size: int, room: float) -> str:
    """Cut a name, never its probability, so that the line fits."""
    count = max(12, int(room / font_size / _CHARACTER_WIDTH))
    if len(text) <= count:
        return text
    name, number, percent = text.rsplit(" ", 2)
    return f"{name[: max(1, count - len(number) - 6)]}... {number} {percent}"
