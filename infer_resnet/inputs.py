"""What comes in from the engine: the image, and what a connected task found in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import numpy as np
from ikomia import core

from resnetkit.images.pixels import ImageError, ValueRange, to_rgb

#: How far up the engine's loop over a folder is looked for: a sub-class or a wrapper may stand between.
_MAX_FRAMES = 6


def read_image_input(source: Any, value_range: ValueRange | None = None) -> np.ndarray:
    """Return the image of the engine's CImageIO, (height, width, 3) uint8 RGB; it may be the caller's own array.

    Args:
        source: The input.
        value_range: What is black and white in images of more than 8 bits.

    Raises:
        ImageError: There is none, or one of a shape or type that is no picture.
    """
    image = None if source is None else source.get_image()
    if image is None:
        path = getattr(source, "source_file_path", "")
        origin = f"'{path}' could not be decoded" if path else "nothing is connected to input 0"
        raise ImageError(f"no image: {origin}")
    return to_rgb(image, value_range)


def check_folder_run(source: Any) -> None:
    """Notice that the engine runs over a folder, and hands us the image of an earlier run once a file instead.

    After any `run_on(path=)` or `array=`, `run_on(folder=)` adds its files as another input of the workflow, while the
    tasks stay connected to the first. Nothing that a task is given tells; the engine's own Python code, which called
    this run, knows file and input.

    Args:
        source: The engine's CImageIO of input 0.

    Raises:
        ImageError: It is so.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None or frame.f_code.co_name == "_run_directory":
            break
        frame = frame.f_back
    else:
        return
    known = {} if frame is None else frame.f_locals
    file_path, path = known.get("file_path", ""), getattr(source, "source_file_path", "")
    # An image that another task made has no path; that it is the right one can be told of the first input alone.
    if file_path and path != file_path and (path or known.get("i", 0) > 0):
        raise ImageError(
            f"'{file_path}' is not read: the workflow still has the input of an earlier run; call wf.clear_inputs() "
            "before wf.run_on(folder=...), or make a new workflow"
        )


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
