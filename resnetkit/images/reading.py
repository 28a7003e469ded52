"""Image files in: each becomes (height, width, 3) uint8 RGB, or an error that says why not.

Training and inference read through here, so both see the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from resnetkit.decoding.formats import (
    DEEP_SUFFIXES,
    DICOM,
    IMAGE_SUFFIXES,
    MISSING_PACKAGES,
    PREFIX_BYTES,
    TIFF,
    Format,
    find_format,
)
from resnetkit.decoding.memory import Allowance
from resnetkit.decoding.storage import open_key
from resnetkit.decoding.values import Decoded, Depth
from resnetkit.images.pixels import EACH_IMAGE, ImageError, ValueRange, to_rgb

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "DEEP_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MISSING_PACKAGES",
    "Depth",
    "hold_image",
    "is_deep_planar_tiff",
    "is_read_alike",
    "needs_turning_tiff",
    "read_depth",
    "read_image",
    "read_pillow",
    "read_values",
]

Result = TypeVar("Result")

#: Larger images are refused where nobody says otherwise.
MAX_MEGAPIXELS = 500


def read_image(path: Path, max_megapixels: float = MAX_MEGAPIXELS, value_range: ValueRange | None = None) -> np.ndarray:
    """Read an image file, turned upright as its EXIF data say.

    Args:
        path: A file in one of the formats of `IMAGE_SUFFIXES`, or a key, see `decoding/storage.py`; the content decides
            which format it is, not the name.
        max_megapixels: Larger images are refused before they are decoded.
        value_range: What is black and white in images of more than 8 bits; None takes what the file's header says, a
            DICOM file's window, or else what `to_rgb` takes.

    Returns:
        (height, width, 3) uint8 RGB; of an animation, a stack or a TIFF of several pages the first.

    Raises:
        ImageError: The file is missing, empty, truncated, too large or no image; the message names it.
    """
    with hold_image(path, max_megapixels, value_range) as image:
        return image


@contextmanager
def hold_image(
    path: Path, max_megapixels: float = MAX_MEGAPIXELS, value_range: ValueRange | None = None
) -> Iterator[np.ndarray]:
    """Read an image file, as `read_image` does, for work in several threads.

    What all threads of the process hold together is bounded: who finds too little left waits, until the end of another
    thread's context. A thread holds one image at a time.
    """
    with Allowance(max_megapixels) as allowance:
        use_window = value_range is None or value_range == EACH_IMAGE
        image = _read(path, lambda file: _to_rgb(_decode(file, allowance, use_window), value_range))
        allowance.reduce(image.nbytes)
        yield image


def read_values(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Read an image file upright, with the values that it holds: any array that `to_rgb` takes.

    Raises:
        ImageError: As `read_image` does.
    """
    with Allowance(max_megapixels) as allowance:
        return _read(path, lambda file: _decode(file, allowance, use_window=True).values)


def read_depth(path: Path) -> Depth:
    """Read from an image file's header whether it holds more than 8 bits, and how many it says are used.

    Raises:
        ImageError: The file is missing or no image.
    """
    return _read(path, _inspect)


def is_read_alike(path: Path) -> bool:
    """Tell whether any program's decoder gives the pixels that `read_image` gives; False where it cannot be told.

    So it is with whole JPEG and PNG files of 8 bits, gray or RGB, without transparency.
    """
    from resnetkit.decoding import plain

    try:
        return _read(path, lambda file: plain.is_read_alike(file, _find_format(file)))
    except ImageError:
        return False


def needs_turning_tiff(path: Path) -> bool:
    """Tell whether a file is a TIFF that lies on a side, or is mirrored: the decoder of OpenCV 4 fails on these."""
    from resnetkit.decoding import tiff

    return _ask_tiff(path, tiff.needs_turning)


def is_deep_planar_tiff(path: Path) -> bool:
    """Tell whether a file is a TIFF of more than 8 bits, channel after channel: OpenCV makes another picture of it."""
    from resnetkit.decoding import tiff

    return _ask_tiff(path, tiff.is_deep_planar)


def _ask_tiff(path: Path, ask: Callable[[IO[bytes]], bool]) -> bool:
    """Return what a file's header says; False where it is no TIFF, or damaged."""
    if path.suffix.lower() not in TIFF.suffixes:
        return False
    try:
        return _read(path, lambda file: _find_format(file) is TIFF and ask(file))
    except ImageError:
        return False


def read_pillow(picture: Image.Image, value_range: ValueRange | None = None) -> np.ndarray:
    """Return Pillow's image, turned upright as its EXIF data say, (height, width, 3) uint8 RGB.

    Raises:
        ImageError: Its file is damaged, or it has no pixel.
    """
    from resnetkit.decoding.plain import get_orientation, load, turn_upright

    try:
        values = load(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{picture!r} cannot be decoded ({error})") from error
    return to_rgb(turn_upright(values, get_orientation(picture)), value_range)


def _read(path: Path, decode: Callable[[IO[bytes]], Result]) -> Result:
    """Return what is decoded of a file; whatever goes wrong is an ImageError that names it."""
    try:
        with open_key(path) as file:
            return decode(file)
    except FileNotFoundError as error:
        raise ImageError(f"'{path}': no such file") from error
    except ImageError as error:
        raise ImageError(f"'{path}': {error}") from error
    except MemoryError as error:
        raise ImageError(f"'{path}': not enough memory to decode it") from error
    except Exception as error:  # A damaged file makes the decoders raise nearly anything.
        raise ImageError(f"'{path}': cannot be decoded as an image ({error})") from error


def _find_format(file: IO[bytes]) -> Format:
    prefix = file.read(PREFIX_BYTES)
    file.seek(0)
    return find_format(prefix)


def _decode(file: IO[bytes], allowance: Allowance, use_window: bool) -> Decoded:
    """Decode an image file to the array that is nearest to what it holds; decoders are imported when one is needed."""
    kind = _find_format(file)
    if kind is TIFF:
        from resnetkit.decoding.tiff import decode_tiff

        return decode_tiff(file, allowance)
    if kind is DICOM:
        from resnetkit.decoding.dicom import decode_dicom

        return decode_dicom(file, allowance, use_window)
    from resnetkit.decoding.plain import decode_plain

    return decode_plain(file, kind, allowance)


def _inspect(file: IO[bytes]) -> Depth:
    kind = _find_format(file)
    if kind is TIFF:
        from resnetkit.decoding.tiff import inspect_tiff

        return inspect_tiff(file)
    if kind is DICOM:
        from resnetkit.decoding.dicom import inspect_dicom

        return inspect_dicom(file)
    from resnetkit.decoding.plain import inspect_plain

    return inspect_plain(file, kind)


def _to_rgb(decoded: Decoded, value_range: ValueRange | None) -> np.ndarray:
    image = to_rgb(decoded.values, decoded.header_range if value_range is None else value_range)
    if not decoded.is_inverted:
        return image
    if image.strides[2] == 0:  # gray, in one channel
        return np.broadcast_to(255 - image[..., :1], image.shape)
    return 255 - image
