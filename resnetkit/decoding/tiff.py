"""TIFF: 8 bits by Pillow, all that is deeper by tifffile, which reads every layout of channels and type of values."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from resnetkit.decoding.formats import TIFF
from resnetkit.decoding.memory import Allowance
from resnetkit.decoding.plain import decode_by_opencv, get_orientation, load, turn_upright
from resnetkit.decoding.values import Decoded, Depth, ImageError, get_bits_range
from resnetkit.machine.speaking import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import ImageFile

logger = get_logger()

_SUBFILE, _WIDTH, _HEIGHT, _BITS_PER_SAMPLE = 254, 256, 257, 258
_DESCRIPTION, _ORIENTATION, _SAMPLES = 270, 274, 277
_MAX_SAMPLE_VALUE, _PLANAR, _SAMPLE_FORMAT = 281, 284, 339
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2
#: Sample formats of unsigned integers, and of those who do not say it.
_UNSIGNED = (1, 4)
#: Reduced, or a mask: no page of a stack.
_IS_NO_PAGE = 0b101

_is_stack_said = False


def decode_tiff(file: IO[bytes], allowance: Allowance) -> Decoded:
    """Decode the first page of a TIFF file.

    Raises:
        ImageError: It is too large, or of a kind that needs another package.
        Exception: Anything, where it is damaged.
    """
    picture = _open(file)
    if picture is None:
        return _decode_deep(file, allowance, None)
    with picture:
        if not _is_stack_said and _is_stack(file, picture):
            _say_stack(file)
        if _is_deep(picture.tag_v2):
            return _decode_deep(file, allowance, picture)
        allowance.admit(picture.width, picture.height, 4 if picture.mode in ("1", "L") else 16)
        if _is_beyond_pillow(picture):
            return Decoded(decode_by_opencv(file, picture.width * picture.height * 4))  # It turns TIFF by itself.
        return Decoded(turn_upright(load(picture), get_orientation(picture)))


def inspect_tiff(file: IO[bytes]) -> Depth:
    """Read from a file's header whether it holds more than 8 bits, and how many it says are used."""
    tags = _read_tags(file)
    return Depth(_is_deep(tags), _find_bits(tags))


def needs_turning(file: IO[bytes]) -> bool:
    """Tell whether the first page lies on a side, or is mirrored."""
    return int(_read_tags(file).get(_ORIENTATION, 1)) != 1


def is_deep_planar(file: IO[bytes]) -> bool:
    """Tell whether the first page has more than 8 bits, channel after channel: other programs misread that."""
    tags = _read_tags(file)
    return tags.get(_PLANAR, 1) == 2 and _is_deep(tags)


def _read_tags(file: IO[bytes]) -> Mapping[int, Any]:
    """Return the tags of the first page, by their numbers."""
    picture = _open(file)
    if picture is not None:
        with picture:
            return dict(picture.tag_v2)
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        return {tag.code: tag.value for tag in tiff.pages.first.tags}


def _open(file: IO[bytes]) -> Any:
    """Open with Pillow; None where it knows no mode for what the file holds."""
    file.seek(0)
    try:
        return TIFF.load_opener()(file)
    except SyntaxError as error:
        if "unknown pixel mode" not in str(error):
            raise
        return None


def _decode_deep(file: IO[bytes], allowance: Allowance, picture: ImageFile.ImageFile | None) -> Decoded:
    """Decode with tifffile; what it needs a further package for, with Pillow or OpenCV where they read it right."""
    import tifffile

    logging.getLogger("tifffile").addHandler(
        logging.NullHandler()
    )  # What is wrong is told by us, with the file's name.
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        if picture is None and not _is_stack_said and len(tiff.pages) > 1:
            _say_stack(file)
        tags = {tag.code: tag.value for tag in page.tags}
        sample_bytes = page.dtype.itemsize if page.dtype is not None else 8
        allowance.admit(page.imagewidth, page.imagelength, (3 * sample_bytes + 3) * page.samplesperpixel)
        header_range = get_bits_range(_find_bits(tags))
        is_inverted = page.photometric == _MIN_IS_WHITE
        if page.photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB):
            try:
                values = _order_axes(page.asarray(maxworkers=1), str(page.axes))
                return Decoded(turn_upright(values, int(tags.get(_ORIENTATION, 1))), header_range, is_inverted)
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                reason = str(error)
        else:
            reason = f"photometric interpretation {page.photometric!s} of more than 8 bits"
    decoded = _decode_otherwise(file, picture, tags)
    if decoded is None:
        raise ImageError(f"cannot be decoded as an image ({reason}); perhaps after: pip install imagecodecs")
    return Decoded(decoded, header_range, is_inverted)


def _decode_otherwise(
    file: IO[bytes], picture: ImageFile.ImageFile | None, tags: Mapping[int, Any]
) -> np.ndarray | None:
    """Decode what tifffile cannot, upright; None where the others would get it wrong."""
    if tags.get(_PLANAR, 1) == 2:
        return None
    if picture is not None and (picture.mode in ("I", "F") or picture.mode.startswith("I;16")):
        return turn_upright(load(picture), get_orientation(picture))
    bits = {int(bits) for bits in np.atleast_1d(tags.get(_BITS_PER_SAMPLE, 1))}
    is_known = (_get_formats(tags), max(bits)) in (({1}, 16), ({3}, 32), ({3}, 64))
    if is_known and len(bits) == 1 and tags.get(_SAMPLES, 1) in (1, 3, 4):
        return decode_by_opencv(file, tags[_WIDTH] * tags[_HEIGHT] * 32)  # It turns TIFF by itself.
    return None


def _order_axes(values: np.ndarray, axes: str) -> np.ndarray:
    """Bring values to (height, width, channels), whatever the order in the file.

    Raises:
        ImageError: There is an axis that is neither.
    """
    if axes == "SYX":
        return np.ascontiguousarray(np.moveaxis(values, 0, 2))
    if axes not in ("YX", "YXS"):
        raise ImageError(f"expected a TIFF page of rows, columns and channels, got axes {axes} of {values.shape}")
    return values


def _is_deep(tags: Mapping[int, Any]) -> bool:
    """Tell whether Pillow would lose something: more than 8 bits, or a sign."""
    return int(np.max(tags.get(_BITS_PER_SAMPLE, 1))) > 8 or not _get_formats(tags) <= set(_UNSIGNED)


def _is_beyond_pillow(picture: ImageFile.ImageFile) -> bool:
    """Tell whether Pillow would refuse a TIFF by its own limit, and OpenCV would not."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and picture.width * picture.height > limit and picture.mode in ("L", "RGB", "RGBA")


def _get_formats(tags: Mapping[int, Any]) -> set[int]:
    return {int(each) for each in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))}


def _find_bits(tags: Mapping[int, Any]) -> int | None:
    """Return the bits of a sample that are neither 8 nor 16, or those that the largest value takes if it is 2^b - 1."""
    bits = int(np.max(tags.get(_BITS_PER_SAMPLE, 1)))
    top = int(np.max(tags.get(_MAX_SAMPLE_VALUE, 0)))
    if bits == 16 and top > 255 and top & (top + 1) == 0:
        return top.bit_length()
    return bits if bits in (10, 12, 14) else None


def _is_stack(file: IO[bytes], picture: Any) -> bool:
    """Tell whether there is a second page; reduced copies and masks are none."""
    # ImageJ writes large stacks as one page, and says how many there are.
    description = str(picture.tag_v2.get(_DESCRIPTION, ""))
    if description.startswith("ImageJ=") and "\nimages=" in description:
        return True
    if picture.is_animated:
        with suppress(Exception), _open(file) as second:  # A damaged second page is no matter of the first.
            second.seek(1)
            return not int(second.tag_v2.get(_SUBFILE, 0)) & _IS_NO_PAGE
    return False


def _say_stack(file: IO[bytes]) -> None:
    """Log once that of files with several pages the first is read."""
    global _is_stack_said  # noqa: PLW0603 - once a process
    _is_stack_said = True
    logger.warning(
        "'%s' has several pages; of it and of all such TIFF files the first is read; save those that you mean as files "
        "of their own",
        file.name,
    )
