"""What comes in from the engine: the image, and what a connected task found in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ikomia import core

from resnetkit.images.pixels import ImageError, to_rgb


def read_image_input(source: Any) -> np.ndarray:
    """Return the image of the engine's CImageIO, (height, width, 3) uint8 RGB; it may be the caller's own array.

    Raises:
        ImageError: There is none, or one of a shape or type that is no picture.
    """
    image = None if source is None else source.get_image()
    if image is None:
        path = getattr(source, "source_file_path", "")
        origin = f"'{path}' could not be decoded" if path else "nothing is connected to input 0"
        raise ImageError(f"no image: {origin}")
    return to_rgb(image)


def has_detector(graphics: Any, table: Any, unconnected_name: str) -> bool:
    """Tell whether boxes, perhaps none of them, are given to be classified instead of the whole image.

    A detector that found nothing leaves one trace: the engine gives the input the name of the graphics output that
    is connected to it, and takes it back when the connection is deleted. (When the detector itself is deleted,
    its last boxes stay in the input until another graphics output is connected.)

    A classifier has a graphics output, too, but also a table with the classes of the whole image, or texts alone.

    Args:
        graphics: The engine's graphics input.
        table: Its table input, to which a classifier's table is connected.
        unconnected_name: Name of the graphics input while nothing is connected to it.
    """
    items = graphics.get_items()
    if items:
        return not all(item.is_text_item() for item in items)
    if "Confidence" in table.get_all_header_labels():
        return False
    return graphics.name != unconnected_name or graphics.is_data_available()


def select_shapes(items: Iterable[Any]) -> Iterator[Any]:
    """Yield one shape an object, in order: rectangles, and polygons that stand for themselves.

    An instance segmentation sends a rectangle and then the polygons of its mask, all of the object's category (their
    ids differ). A rotated box is a polygon of the category "Default", as are shapes drawn by hand.
    """
    category = "Default"
    for item in items:
        if isinstance(item, core.CGraphicsRectangle):
            category = item.get_category()
            yield item
        elif isinstance(item, core.CGraphicsPolygon):
            is_part = item.get_category() == category != "Default"
            if not is_part:
                yield item
