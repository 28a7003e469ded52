"""The formats of image files: told by their first bytes, and which package each needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from resnetkit.decoding.values import ImageError

if TYPE_CHECKING:
    from PIL import ImageFile

#: How many bytes of a file tell its format.
PREFIX_BYTES = 144


@dataclass(frozen=True)
class Format:
    """A format of image files.

    Attributes:
        name: As people call it.
        suffixes: Endings of its files, in lower case.
        openers: Module and class of each of Pillow's decoders that would do; none for DICOM, which is not Pillow's.
        is_deep: Whether what is decoded of it may have more than 8 bits.
        package: What has to be installed for it; empty where nothing has.
    """

    name: str
    suffixes: tuple[str, ...]
    openers: tuple[tuple[str, str], ...]
    is_deep: bool = False
    package: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether what it needs is installed; imports nothing."""
        if not self.package:
            return True
        modules = [module for module, _ in self.openers] or [self.package]
        return any(_is_installed(module) for module in modules)

    def load_opener(self) -> type[ImageFile.ImageFile]:
        """Import Pillow's class for it.

        Pillow's classes are called directly: `Image.open` warns from 89 megapixels and refuses from 179, by one limit
        for the whole process, and tries formats that start other programs (EPS).

        Raises:
            ImageError: Its package is not installed.
        """
        for module, name in self.openers:
            if not self.package or _is_installed(module):
                opener: type[ImageFile.ImageFile] = getattr(import_module(module), name)
                return opener
        raise self.make_missing_error()

    def make_missing_error(self) -> ImageError:
        """Return the error that names the package."""
        return ImageError(f"{self.name} images need the package {self.package}: pip install {self.package}")


# Pillow tells MPO, the two-picture JPEG of phones and stereo cameras, apart from JPEG; its first picture is a plain
# JPEG.
JPEG = Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), (("PIL.JpegImagePlugin", "JpegImageFile"),))
PNG = Format("PNG", (".png",), (("PIL.PngImagePlugin", "PngImageFile"),), is_deep=True)
BMP = Format("BMP", (".bmp",), (("PIL.BmpImagePlugin", "BmpImageFile"),))
GIF = Format("GIF", (".gif",), (("PIL.GifImagePlugin", "GifImageFile"),))
WEBP = Format("WebP", (".webp",), (("PIL.WebPImagePlugin", "WebPImageFile"),))
TIFF = Format("TIFF", (".tif", ".tiff"), (("PIL.TiffImagePlugin", "TiffImageFile"),), is_deep=True)
PPM = Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), (("PIL.PpmImagePlugin", "PpmImageFile"),), is_deep=True)
# Pillow reads AVIF itself from version 11.3.
AVIF = Format(
    "AVIF",
    (".avif",),
    (("PIL.AvifImagePlugin", "AvifImageFile"), ("pillow_avif.AvifImagePlugin", "AvifImageFile")),
    package="pillow-avif-plugin",
)
HEIC = Format("HEIC", (".heic", ".heif"), (("pillow_heif", "HeifImageFile"),), package="pillow-heif")
DICOM = Format("DICOM", (".dcm", ".dicom"), (), is_deep=True, package="pydicom")

FORMATS = (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM, AVIF, HEIC, DICOM)

_MAGICS: tuple[tuple[tuple[bytes, ...], Format], ...] = (
    ((b"\xff\xd8\xff",), JPEG),
    ((b"\x89PNG\r\n\x1a\n",), PNG),
    ((b"BM",), BMP),
    ((b"GIF87a", b"GIF89a"), GIF),
    ((b"RIFF",), WEBP),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TIFF),
    ((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), PPM),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"heif"}


def find_format(prefix: bytes) -> Format:
    """Tell a file's format by its first `PREFIX_BYTES` bytes.

    Raises:
        ImageError: It is empty, or of none of `FORMATS`.
    """
    if not prefix:
        raise ImageError("empty file")
    if prefix[128:132] == b"DICM":
        return DICOM
    for magics, kind in _MAGICS:
        if prefix.startswith(magics):
            return kind
    if prefix[4:8] == b"ftyp":
        # A major brand, four bytes of a version, and the brands that it is compatible with.
        end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
        brands = {prefix[8:12], *(prefix[start : start + 4] for start in range(16, end, 4))}
        if brands & _AVIF_BRANDS:
            return AVIF
        if brands & _HEIC_BRANDS:
            return HEIC
    raise ImageError("no image of a known format (JPEG, PNG, WebP, TIFF, ...)")


def _is_installed(module: str) -> bool:
    """Tell whether a module is there; of Pillow's AVIF, whether Pillow was built with it."""
    try:
        return find_spec("PIL._avif" if module == "PIL.AvifImagePlugin" else module) is not None
    except (ImportError, ValueError):
        return False


#: Endings, in lower case, of the files that can be read here: those of a format whose package is missing are left out.
IMAGE_SUFFIXES = tuple(suffix for kind in FORMATS if kind.is_readable for suffix in kind.suffixes)
#: The endings of formats that hold more than 8 bits.
DEEP_SUFFIXES = frozenset(suffix for kind in FORMATS if kind.is_deep for suffix in kind.suffixes)
#: What has to be installed for files of an ending; those that can be read are not in it.
MISSING_PACKAGES = {suffix: kind.package for kind in FORMATS if not kind.is_readable for suffix in kind.suffixes}
