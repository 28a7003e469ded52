"""Image files in: each becomes (height, width, 3) uint8 RGB, or an error that says why not.

Training and inference read through here, so both see the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from resnetkit.images.pixels import ImageError, ValueRange, to_rgb
from resnetkit.machine.storage import open_key

Result = TypeVar("Result")

#: Endings, in lower case, of the files that `read_image` is meant for.
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)

# Pillow's classes are called directly: `Image.open` warns from 89 megapixels and refuses from 179, by one limit
# for the whole process, and tries formats that start other programs (EPS). Pillow tells MPO, the two-picture JPEG
# of phones and stereo cameras, apart from JPEG; its first picture is a plain JPEG.
_FORMATS: tuple[tuple[tuple[bytes, ...], type[ImageFile.ImageFile]], ...] = (
    ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    ((b"BM",), BmpImagePlugin.BmpImageFile),
    ((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    ((b"RIFF",), WebPImagePlugin.WebPImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
    ((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), PpmImagePlugin.PpmImageFile),
)
_ORIENTATION_TAG = 0x0112
_MAX_SAMPLE_VALUE_TAG = 281
#: Axes to flip, after rows and columns were swapped for 5 to 8 (EXIF 2.3, tag Orientation).
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}


class Depth(NamedTuple):
    """What a file's header says about its values.

    Attributes:
        is_deep: Whether they have more than 8 bits.
        used_bits: How many bits are used, where the header tells; None where not.
    """

    is_deep: bool
    used_bits: int | None


def read_image(path: Path, max_megapixels: float = 500, value_range: ValueRange | None = None) -> np.ndarray:
    """Read an image file, turned upright as its EXIF data say.

    Args:
        path: A file in one of the formats of `IMAGE_SUFFIXES`, or a key, see `machine/storage.py`; the content decides
            which format it is, not the name.
        max_megapixels: Larger images are refused before they are decoded.
        value_range: What is black and white in images of more than 8 bits, see `to_rgb`.

    Returns:
        (height, width, 3) uint8 RGB; of an animation or a TIFF of several pages the first.

    Raises:
        ImageError: The file is missing, empty, truncated, too large or no image; the message names it.
    """
    return _read(path, lambda file: to_rgb(_decode(file, max_megapixels), value_range))


def read_values(path: Path, max_megapixels: float = 500) -> np.ndarray:
    """Read an image file upright, with the values that it holds: any array that `to_rgb` takes.

    Raises:
        ImageError: As `read_image` does.
    """
    return _read(path, lambda file: _decode(file, max_megapixels))


def read_depth(path: Path) -> Depth:
    """Read from an image file's header whether it holds more than 8 bits, and how many it says are used.

    Raises:
        ImageError: The file is missing or no image.
    """
    return _read(path, _inspect)


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


def read_pillow(picture: Image.Image, value_range: ValueRange | None = None) -> np.ndarray:
    """Return Pillow's image, turned upright as its EXIF data say, (height, width, 3) uint8 RGB.

    Raises:
        ImageError: Its file is damaged, or it has no pixel.
    """
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{picture!r} cannot be decoded ({error})") from error
    upright = _turn_upright(_to_array(picture), picture.getexif().get(_ORIENTATION_TAG, 1))
    return to_rgb(upright, value_range)


def _decode(file: IO[bytes], max_megapixels: float) -> np.ndarray:
    """Decode an image file to the array that is nearest to what it holds: any of `to_rgb`'s."""
    with _find_opener(file)(file) as picture:
        width, height = picture.size
        if width * height / 1e6 > max_megapixels:
            raise ImageError(
                f"{width}x{height} pixels are more than the limit of {max_megapixels:g} megapixels; "
                "raise the limit or make the image smaller"
            )
        if isinstance(picture, JpegImagePlugin.JpegImageFile) and picture.mode == "RGB":
            pixels = _decode_plain_jpeg(file)
            if pixels is not None:
                return _turn_upright(pixels, picture.getexif().get(_ORIENTATION_TAG, 1))
        elif _needs_opencv(picture):
            return _turn_upright(_decode_unchanged(file), _get_remaining_orientation(picture))
        picture.load()
        return _turn_upright(_to_array(picture), picture.getexif().get(_ORIENTATION_TAG, 1))


def _find_opener(file: IO[bytes]) -> type[ImageFile.ImageFile]:
    prefix = file.read(16)
    file.seek(0)
    opener = next((opener for magics, opener in _FORMATS if prefix.startswith(magics)), None)
    if opener is None:
        raise ImageError("empty file" if not prefix else "no image of a known format (JPEG, PNG, WebP, TIFF, ...)")
    return opener


def _inspect(file: IO[bytes]) -> Depth:
    with _find_opener(file)(file) as picture:
        is_deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16") or _needs_opencv(picture)
        used: int | None = None
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            used = _find_tiff_bits(picture)
        elif isinstance(picture, PngImagePlugin.PngImageFile):
            used = _find_significant_bits(file)
        return Depth(is_deep, used)


def _find_tiff_bits(picture: TiffImagePlugin.TiffImageFile) -> int | None:
    """Return the bits of a sample that are neither 8 nor 16, or those that the largest value takes if it is 2^b - 1."""
    bits = max(picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    largest = picture.tag_v2.get(_MAX_SAMPLE_VALUE_TAG, 0)
    top = int(max(largest) if isinstance(largest, tuple) else largest)
    if bits == 16 and top > 255 and top & (top + 1) == 0:
        return top.bit_length()
    return int(bits) if bits in (10, 12, 14) else None


def _find_significant_bits(file: IO[bytes]) -> int | None:
    """Return what PNG's chunk sBIT says, the largest of its channels; it stands before the pixels."""
    file.seek(8)
    while len(header := file.read(8)) == 8 and header[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(header[:4], "big")
        if header[4:] == b"sBIT" and 1 <= length <= 4:
            return max(file.read(length))
        file.seek(length + 4, 1)
    return None


def _decode_plain_jpeg(file: IO[bytes]) -> np.ndarray | None:
    """Decode with OpenCV, in 0.6 of Pillow's time and to the same values (both use libjpeg-turbo).

    Returns:
        None where the file does not end as a JPEG ends: OpenCV fills what is missing with gray and says nothing,
        Pillow tells a truncated file from one that has bytes behind its end.
    """
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    if data[-2:].tobytes() != b"\xff\xd9":
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _needs_opencv(picture: ImageFile.ImageFile) -> bool:
    """Tell whether Pillow would lose something or refuse.

    It cuts several channels of more than 8 bits to the upper 8, and has a limit of its own for TIFF.
    """
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits = picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        is_plain = picture.mode in ("L", "RGB", "RGBA", "I;16")
        is_huge = picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or math.inf)
        return (len(bits) > 1 and max(bits) > 8) or (is_huge and is_plain)
    # The fourth part of a tile, `args` since Pillow 11, names the mode as it is in the file.
    is_png = isinstance(picture, PngImagePlugin.PngImageFile)
    return is_png and any("16" in str(tile[3]) for tile in picture.tile) and not picture.mode.startswith("I")


def _decode_unchanged(file: IO[bytes]) -> np.ndarray:
    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageError("cannot be decoded as an image (damaged, or of a kind that OpenCV does not know)")
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels


def _get_remaining_orientation(picture: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation that OpenCV leaves to us: it turns TIFF by itself, PNG not."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return 1
    return picture.getexif().get(_ORIENTATION_TAG, 1)


def _to_array(picture: Image.Image) -> np.ndarray:
    """View Pillow's image as an array, by way of the nearest mode that `to_rgb` knows."""
    if picture.mode in ("P", "PA", "La", "RGBa") or "transparency" in picture.info:
        has_transparency = picture.mode != "P" or "transparency" in picture.info
        return np.asarray(picture.convert("RGBA" if has_transparency else "RGB"))
    if picture.mode in ("L", "LA", "RGB", "RGBA", "I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)
    return np.asarray(picture.convert("L" if picture.mode == "1" else "RGB"))


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the rotation or reflection of EXIF orientations 2 to 8; any other value leaves the image as it is."""
    if orientation not in _FLIPS:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.flip(pixels, _FLIPS[orientation]))
