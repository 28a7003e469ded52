"""Files of every kind that is read, each with what it shows: one table for training and inference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

#: Saves an upright picture under a path and returns the RGB pixels that it shows; None where the format is lossy.
Save = Callable[[Image.Image, Path], "np.ndarray | None"]

_ORIENTATION = 0x0112


def _turned(**options: object) -> Save:
    """Save lying on its side, with the EXIF orientation that turns it upright."""

    def save(picture: Image.Image, path: Path) -> np.ndarray | None:
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, **options)
        is_lossless = path.suffix.lower() in (".png", ".tif") or options.get("lossless")
        return np.asarray(picture) if is_lossless else None

    return save


def _turned_heic(picture: Image.Image, path: Path) -> None:
    import pillow_heif

    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    pillow_heif.from_pillow(lying).save(path, exif=exif.tobytes())


def _mode(mode: str) -> Save:
    def save(picture: Image.Image, path: Path) -> np.ndarray:
        picture.convert(mode).save(path)
        with Image.open(path) as saved:
            return np.asarray(saved.convert("RGB"))

    return save


def _deep_tiff(**options: object) -> Save:
    """Save 16 bits a channel, by another program's hands."""

    def save(picture: Image.Image, path: Path) -> np.ndarray:
        pixels = np.asarray(picture)
        deep = pixels.astype(np.uint16) * 257
        if options.get("planarconfig") == "separate":
            deep = np.moveaxis(deep, 2, 0)
        if options["photometric"] != "rgb":
            deep, pixels = deep[..., 0], np.repeat(pixels[..., :1], 3, axis=2)
        turn = options.pop("orientation", None)
        tags = [(274, 3, 1, turn, True)] if turn else []
        tifffile.imwrite(path, deep, extratags=tags, **options)
        if options["photometric"] == "miniswhite":
            pixels = 255 - pixels
        return np.rot90(pixels, -1) if turn == 6 else pixels

    return save


def _stack(picture: Image.Image, path: Path) -> np.ndarray:
    other = picture.transpose(Image.Transpose.ROTATE_180)
    picture.save(path, save_all=True, append_images=[other, other])
    return np.asarray(picture)


def _named(save: Save, suffix: str) -> Save:
    """Save in the format of an ending, under another name."""

    def save_named(picture: Image.Image, path: Path) -> np.ndarray | None:
        plain = path.with_name(f"{path.name}-plain{suffix}")
        shown = save(picture, plain)
        shutil.move(plain, path)
        return shown

    return save_named


KINDS: dict[str, Save] = {
    "turned.jpg": _turned(quality=95),
    "turned.png": _turned(),
    "turned.webp": _turned(lossless=True),
    "turned.tif": _turned(),
    "turned.avif": _turned(),
    "turned.heic": _turned_heic,
    "turned_16_bit.tif": _deep_tiff(photometric="rgb", orientation=6),
    "planar.tif": _deep_tiff(photometric="rgb", planarconfig="separate"),
    "planar_deflate.tif": _deep_tiff(photometric="rgb", planarconfig="separate", compression="zlib"),
    "white_is_zero.tif": _deep_tiff(photometric="miniswhite"),
    "stack.tif": _stack,
    "gray_16_bit.tif": _deep_tiff(photometric="minisblack"),
    "palette.gif": _mode("P"),
    "palette.png": _mode("P"),
    "cmyk.jpg": _mode("CMYK"),
    "cmyk.tif": _mode("CMYK"),
    "CAPITALS.JPG": _turned(quality=95),
    "CAPITALS.GIF": _mode("P"),
    "photo.jfif": _named(_mode("RGB"), ".jpg"),
    "without_ending": _named(_turned(), ".png"),
    "another_ending.jpg": _named(_turned(lossless=True), ".webp"),
}
