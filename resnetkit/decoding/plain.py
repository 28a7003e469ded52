"""Most formats, by Pillow and by OpenCV where it is faster or loses less."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from resnetkit.decoding.formats import AVIF, HEIC, JPEG, PNG, PPM, WEBP, Format
from resnetkit.decoding.memory import Allowance
from resnetkit.decoding.values import Decoded, Depth, ImageError, get_bits_range

if TYPE_CHECKING:
    from PIL import Image, ImageFile

_ORIENTATION_TAG = 0x0112
#: Axes to flip, after rows and columns were swapped for 5 to 8 (EXIF 2.3, tag Orientation).
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
#: Formats whose decoders take the whole file into memory, or look through all of it, and the largest file of them.
_WHOLE_FORMATS = (JPEG, WEBP, AVIF, HEIC)
_MAX_FILE_BYTES = 512_000_000
#: What a file may have besides its pixels where it is read as a whole.
_MAX_EXTRA_BYTES = 16_000_000
#: What Pillow's image, its array, the upright and the RGB one take, by Pillow's mode.
_BYTES_PER_PIXEL = {"1": 4.0, "L": 4.0, "I;16": 10.0, "I;16B": 10.0, "RGB": 10.0}
_MOST_BYTES_PER_PIXEL = 16.0


def decode_plain(file: IO[bytes], kind: Format, allowance: Allowance) -> Decoded:
    """Decode a file of a format other than TIFF and DICOM.

    Raises:
        ImageError: It is too large.
        Exception: Anything, where it is damaged.
    """
    size = measure_file(file)
    if kind in _WHOLE_FORMATS and size > _MAX_FILE_BYTES:
        raise ImageError(
            f"{size / 1e6:.0f} MB are more than a {kind.name} file may have ({_MAX_FILE_BYTES // 10**6} MB)"
        )
    with kind.load_opener()(file) as picture:
        width, height = picture.size
        if kind is JPEG and picture.mode == "RGB" and size <= 3 * width * height + _MAX_EXTRA_BYTES:
            allowance.admit(width, height, 6, size)
            pixels = _decode_plain_jpeg(file)
            if pixels is not None:
                return Decoded(turn_upright(pixels, get_orientation(picture)))
        if kind is PNG and is_deep_color_png(picture):
            allowance.admit(width, height, 24, size)
            pixels = decode_by_opencv(file, width * height * 8)
            return Decoded(turn_upright(pixels, get_orientation(picture)), _find_png_range(file))
        allowance.admit(width, height, _BYTES_PER_PIXEL.get(picture.mode, _MOST_BYTES_PER_PIXEL))
        values = load(picture)
        # 32-bit integers in Pillow, 16 bits in these files.
        is_deep = kind in (PNG, PPM) and picture.mode.startswith("I")
        if is_deep and values.dtype.kind == "i":
            values = values.astype(np.uint16)
        header_range = _find_png_range(file) if is_deep and kind is PNG else None
        return Decoded(turn_upright(values, get_orientation(picture)), header_range)


def inspect_plain(file: IO[bytes], kind: Format) -> Depth:
    """Read from a file's header whether it holds more than 8 bits, and how many it says are used."""
    with kind.load_opener()(file) as picture:
        is_deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
        is_deep = is_deep or (kind is PNG and is_deep_color_png(picture))
        return Depth(is_deep, _find_significant_bits(file) if kind is PNG else None)


def is_read_alike(file: IO[bytes], kind: Format) -> bool:
    """Tell whether any decoder gives the same pixels: a whole JPEG or PNG file of 8 bits, gray or RGB, no transparency.

    EXIF orientations of these two are honoured everywhere, too.
    """
    ending = {JPEG: b"\xff\xd9", PNG: b"IEND\xae\x42\x60\x82"}.get(kind)
    if ending is None:
        return False
    with kind.load_opener()(file) as picture:
        if picture.mode not in ("L", "RGB") or "transparency" in picture.info or is_deep_color_png(picture):
            return False
        file.seek(-min(len(ending), measure_file(file)), os.SEEK_END)
        return file.read() == ending


def load(picture: Image.Image) -> np.ndarray:
    """Decode Pillow's image to an array, by way of the nearest mode that `to_rgb` knows."""
    picture.load()
    if picture.mode in ("P", "PA", "La", "RGBa") or "transparency" in picture.info:
        has_transparency = picture.mode != "P" or "transparency" in picture.info
        return np.asarray(picture.convert("RGBA" if has_transparency else "RGB"))
    if picture.mode in ("L", "LA", "RGB", "RGBA", "I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)
    return np.asarray(picture.convert("L" if picture.mode == "1" else "RGB"))


def get_orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation; 1 where there is none."""
    return int(picture.getexif().get(_ORIENTATION_TAG, 1))


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the rotation or reflection of EXIF orientations 2 to 8; any other value leaves the image as it is."""
    if orientation not in _FLIPS:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.flip(pixels, _FLIPS[orientation]))


def measure_file(file: IO[bytes]) -> int:
    """Return the size of an open file, in bytes, as it lies there; it may lie in memory, as that of a shard."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def decode_by_opencv(file: IO[bytes], raw_bytes: int) -> np.ndarray:
    """Decode with OpenCV, which keeps more than 8 bits in several channels.

    Args:
        file: The file.
        raw_bytes: What its pixels take when they are not compressed.

    Raises:
        ImageError: It cannot be decoded, or the file is much larger than its pixels.
    """
    import cv2

    if (size := measure_file(file)) > 2 * raw_bytes + _MAX_EXTRA_BYTES:
        raise ImageError(f"the file has {size / 1e6:.0f} MB, far more than its pixels need")
    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageError("cannot be decoded as an image (damaged, or of a kind that OpenCV does not know)")
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels


def is_deep_color_png(picture: ImageFile.ImageFile) -> bool:
    """Tell whether Pillow would cut several channels of more than 8 bits to the upper 8."""
    # The fourth part of a tile, `args` since Pillow 11, names the mode as it is in the file.
    is_deep: Any = any("16" in str(tile[3]) for tile in picture.tile)
    return bool(is_deep) and picture.format == "PNG" and not picture.mode.startswith("I")


def _decode_plain_jpeg(file: IO[bytes]) -> np.ndarray | None:
    """Decode with OpenCV, in 0.6 of Pillow's time and to the same values (both use libjpeg-turbo).

    Returns:
        None where the file does not end as a JPEG ends: OpenCV fills what is missing with gray and says nothing,
        Pillow tells a truncated file from one that has bytes behind its end.
    """
    import cv2

    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    if data[-2:].tobytes() != b"\xff\xd9":
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _find_png_range(file: IO[bytes]) -> tuple[float, float] | None:
    return get_bits_range(_find_significant_bits(file))


def _find_significant_bits(file: IO[bytes]) -> int | None:
    """Return what PNG's chunk sBIT says, the largest of its channels; it stands before the pixels."""
    if file.closed:  # Pillow closes it behind a single picture.
        return None
    file.seek(8)
    while len(header := file.read(8)) == 8 and header[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(header[:4], "big")
        if header[4:] == b"sBIT" and 1 <= length <= 4:
            return max(file.read(length))
        file.seek(length + 4, 1)
    return None
