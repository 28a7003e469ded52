"""What comes in from the engine: the image, and what a connected task found in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from ikomia import core, dataprocess

from resnetkit.images.pixels import ImageError, ValueRange, to_rgb
from resnetkit.images.reading import is_deep_planar_tiff, is_read_alike, read_image

#: How far up the engine's loop over a folder is looked for: a sub-class or a wrapper may stand between.
_MAX_FRAMES = 6


def read_image_input(source: Any, value_range: ValueRange | None = None, is_whole: bool = True) -> np.ndarray:
    """Return the image of the engine's CImageIO, (height, width, 3) uint8 RGB; it may be the caller's own array.

    The engine honours the orientation of JPEG and PNG files alone, and reads some kinds of others wrong or not at all.
    So an image that it decoded from a file, and that no task has changed since, is read from that file once more, as
    training reads it, unless any decoder gives the same.

    Args:
        source: The input.
        value_range: What is black and white in images of more than 8 bits.
        is_whole: Whether the whole image is meant; where boxes are, they lie on the engine's own pixels.

    Raises:
        ImageError: There is none, or one of a shape or type that is no picture.
    """
    image = None if source is None else source.get_image()
    path = _find_file(source)
    is_reread = is_whole and path is not None and not (image is not None and is_read_alike(path))
    if path is not None and is_reread and _is_unchanged(source, image, path):
        return read_image(path, value_range=value_range)
    if path is not None and source.source_file_path and is_deep_planar_tiff(path):
        raise ImageError(
            f"the engine misreads '{path}', which holds one channel after the other; give it by wf.run_on(path=...), "
            "or to classify_files(...)"
        )
    if image is None:
        text = getattr(source, "source_file_path", "")
        origin = f"'{text}' could not be decoded" if text else "nothing is connected to input 0"
        raise ImageError(f"no image: {origin}")
    return to_rgb(image, value_range)


def _find_file(source: Any) -> Path | None:
    """Return the file that an image, no frame of a video, came from; None where there is none.

    The image of a file that the engine does not read has the path as its name, see `engine_paths`.
    """
    if source is None or isinstance(source, dataprocess.CVideoIO):
        return None
    text = source.source_file_path or source.name
    try:
        path = Path(text)
        return path if text and path.is_file() else None
    except (OSError, ValueError):  # no name that a file can have
        return None


def _is_unchanged(source: Any, image: np.ndarray | None, path: Path) -> bool:
    """Tell whether an image is what is read from a file: what a task makes of it keeps the file's path."""
    try:
        if source.source_file_path:
            original = dataprocess.CImageIO(core.IODataType.IMAGE, "", str(path)).get_image()
        else:
            original = read_image(path)
    except (RuntimeError, ImageError):
        return False
    return original is None if image is None else np.array_equal(original, image)


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
