"""Pictures of answers: one image with its answer, and a contact sheet of the images nearest to another one."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnetkit.answers.drawing import annotate
from resnetkit.answers.fonts import draw_text, measure_text, to_drawable
from resnetkit.answers.heatmaps import overlay_heatmap
from resnetkit.answers.model import Prediction
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.machine.files import atomic_path, open_regular
from resnetkit.machine.text import to_printable

if TYPE_CHECKING:
    from PIL import Image

#: Sides in pixels of an annotated picture: larger images are reduced, and small ones enlarged until text is readable.
_MAX_SIDE = 2048
_MIN_SIDE = 320
_MAX_ENLARGEMENT = 16
_JPEG_QUALITY = 90
#: The comment of the JPEG files that are written here, and where it is in them.
_MARK, _MARKED_BYTES = b"drawn by resnetkit", 1000

_TILE = 224
_GAP = 16
_CAPTION_HEIGHT = 44
_FONT_SIZE = 15
_COLUMNS = 5
_INK = (24, 24, 24)
_FAINT_INK = (110, 110, 110)
_FRAME = (0, 110, 200)


def draw_answer(image: np.ndarray, prediction: Prediction, preprocessing: Preprocessing) -> np.ndarray:
    """Draw an answer on an image, over its heat map where there is one.

    Args:
        image: RGB, (height, width, 3) uint8; not changed.
        prediction: The answer for the whole image.
        preprocessing: How the image became the network's input.

    Returns:
        RGB, (h, w, 3) uint8, at most 2048 pixels long, and 320 pixels high and wide where enlarging allows it.
    """
    picture = _fit(image)
    if prediction.activation is not None:
        picture = overlay_heatmap(picture, prediction.activation, preprocessing)
    return annotate(picture, [prediction], [(0, 0, 0)])


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write a picture, (height, width, 3) uint8 RGB, whole or not at all; its folder is made.

    It is marked, and replaces no file but a marked one: the folder may be that of the user's photographs.

    Raises:
        OSError: It cannot be written, or the file that is there is the user's.
    """
    from PIL import Image

    if path.exists() and not _is_marked(path):
        raise FileExistsError(
            errno.EEXIST, "a file of this name was not drawn here, and stays; give another", str(path)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "JPEG", quality=_JPEG_QUALITY, comment=_MARK)


def _is_marked(path: Path) -> bool:
    with open_regular(path) as stream:
        return _MARK in stream.read(_MARKED_BYTES)


def draw_contact_sheet(query: tuple[np.ndarray, str], neighbours: Sequence[tuple[np.ndarray, str, str]]) -> np.ndarray:
    """Draw a picture and the ones nearest to it.

    Args:
        query: Image, (height, width, 3) uint8 RGB, and its name.
        neighbours: Images, their names, and what is said of each; nearest first.

    Returns:
        RGB, (height, width, 3) uint8: the query in a frame, then the others, row after row.
    """
    from PIL import Image, ImageDraw

    tiles = [(query[0], query[1], "looked for"), *neighbours]
    num_columns = min(_COLUMNS, len(tiles))
    num_rows = -(-len(tiles) // num_columns)
    width = num_columns * (_TILE + _GAP) + _GAP
    height = num_rows * (_TILE + _CAPTION_HEIGHT + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index, (image, name, text) in enumerate(tiles):
        row, column = divmod(index, num_columns)
        left, top = _GAP + column * (_TILE + _GAP), _GAP + row * (_TILE + _CAPTION_HEIGHT + _GAP)
        thumbnail = _make_thumbnail(image)
        x, y = left, top + _TILE - thumbnail.height
        sheet.paste(thumbnail, (x, y))
        if index == 0:
            corners = (x - 4, y - 4, x + thumbnail.width + 3, y + thumbnail.height + 3)
            pen.rectangle(corners, outline=_FRAME, width=4)
        lines = ((text, _FRAME if index == 0 else _INK), (name, _FAINT_INK))
        for number, (line, ink) in enumerate(lines):
            place = (left, top + _TILE + 12 + 19 * number)
            draw_text(pen, place, _shorten(line, is_cut_in_front=line is name), _FONT_SIZE, fill=ink)
    return np.array(sheet)


def _shorten(text: str, is_cut_in_front: bool) -> str:
    """Cut a caption to the width of a tile: a class at its end, a path in front."""
    text = to_drawable(to_printable(text))
    cut, count = text, len(text)
    while measure_text(cut, _FONT_SIZE) > _TILE:
        count -= 1
        cut = f"…{text[-count:]}" if is_cut_in_front else f"{text[:count]}…"
    return cut


def _fit(image: np.ndarray) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, _MAX_SIDE / max(height, width))
    if scale == 1:
        scale = max(1.0, min(_MIN_SIDE / min(height, width), _MAX_SIDE / max(height, width), _MAX_ENLARGEMENT))
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _make_thumbnail(image: np.ndarray) -> Image.Image:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3)
