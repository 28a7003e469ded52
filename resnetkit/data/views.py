"""Views: what the network sees of an image file, plain as at inference or augmented for one epoch.

Augmented views are made from a reduced form of the image, a small image being its own, whether that form is kept in
memory or made anew, so keeping has no influence on the result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnetkit.data.augmentation import Changes, augment, make_view_generator, resize
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.reading import hold_image

#: Short side of the reduced form, in multiples of the plain view's: a part of 0.35 of the area is then 0.74 of the
#: view's side, and a photograph of 640x480 pixels is reduced to 387x290 for an input of 224.
_REDUCED_SCALE = 1.25
#: Share of the pixels up to which an image is reduced; where more are left, resampling takes longer than it saves.
_MAX_SHARE_LEFT = 0.5
#: Megabytes of decoded and reduced images that are kept: with a frozen backbone until their features are computed.
IMAGE_BOUND_MB = 1024


@dataclass(frozen=True)
class LoaderSettings:
    """How images are read and augmented.

    Attributes:
        changes: How augmented views differ from the image.
        seed: Start of every random draw.
        num_workers: Processes that read; 0 reads in threads of this process. No influence on the images.
        memory_bound_mb: Megabytes of decoded and reduced images that are kept. No influence on the images.
        max_megapixels: Larger images are refused.
        is_checked: Whether all files could be read before: many that cannot are then an error.
    """

    changes: Changes = field(default_factory=Changes)
    seed: int = 0
    num_workers: int = 0
    memory_bound_mb: int = IMAGE_BOUND_MB
    max_megapixels: float = 500
    is_checked: bool = False


class ImageMemory:
    """Forms of image files, kept while there is room; the first come stay, since every epoch asks for each once.

    Attributes:
        is_full: Whether there was no room for an image.
    """

    def __init__(self, bound_mb: float) -> None:
        self._images: dict[tuple[str, Path], np.ndarray] = {}
        self._free_bytes = bound_mb * 1_000_000
        self._lock = threading.Lock()
        self.is_full = False

    def get(self, form: str, path: Path) -> np.ndarray | None:
        """Return a form of a file, or None."""
        return self._images.get((form, path))

    def keep(self, form: str, path: Path, image: np.ndarray) -> None:
        """Keep a form of a file if there is room."""
        with self._lock:
            if (form, path) in self._images:
                return
            self.is_full = self.is_full or image.nbytes > self._free_bytes
            if image.nbytes <= self._free_bytes:
                self._images[form, path] = image
                self._free_bytes -= image.nbytes

    def close(self) -> None:
        """Forget everything, and keep nothing any more."""
        with self._lock:
            self._free_bytes, self.is_full = 0, True
            self._images.clear()


class ViewMaker:
    """Makes views of a list of image files, from several threads if need be.

    Args:
        paths: The files.
        preprocessing: What plain views go through, and of what size views are.
        settings: How files are read and augmented.
        memory: What is kept of the files, shared with others; None for a memory of its own.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        settings: LoaderSettings,
        memory: ImageMemory | None = None,
    ) -> None:
        self._paths = paths
        self._preprocessing = preprocessing
        self._settings = settings
        self._memory = memory or ImageMemory(settings.memory_bound_mb)

    def make(self, index: int, epochs: Sequence[int | None]) -> np.ndarray:
        """Return views of one image, which is read once at most.

        Args:
            index: Position of the file in the list.
            epochs: For each view, whose augmentation; None for the plain view.

        Returns:
            (views, 3, input_size, input_size) uint8.

        Raises:
            ImageError: The file cannot be read.
        """
        path = self._paths[index]
        settings, value_range = self._settings, self._preprocessing.value_range
        with ExitStack() as held:
            read = cache(lambda: held.enter_context(hold_image(path, settings.max_megapixels, value_range)))
            return np.stack([self._make_view(index, epoch, read) for epoch in epochs])

    def keep(self, path: Path, image: np.ndarray, epochs: Sequence[int | None]) -> None:
        """Take a file's image, (H, W, 3) uint8, that was read for another purpose: `make` then need not read it."""
        for is_plain in {self._is_plain(epoch) for epoch in epochs}:
            (self._make_plain if is_plain else self._reduce)(path, lambda: image)

    def _is_plain(self, epoch: int | None) -> bool:
        return epoch is None or self._settings.changes.kind == "none"

    def _make_view(self, index: int, epoch: int | None, read: Callable[[], np.ndarray]) -> np.ndarray:
        if self._is_plain(epoch):
            return self._make_plain(self._paths[index], read)
        assert epoch is not None
        size = self._preprocessing.input_size
        reduced = torch.from_numpy(self._reduce(self._paths[index], read)).permute(2, 0, 1)  # (3, H, W)
        draws = make_view_generator(self._settings.seed, epoch, index)
        red, green, blue = (round(255 * value) for value in self._preprocessing.mean)
        return augment(reduced, size, self._settings.changes, draws, (red, green, blue)).numpy()

    def _make_plain(self, path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
        view = self._memory.get("plain", path)
        if view is None:
            view = self._preprocessing.prepare(read())
            self._memory.keep("plain", path, view)
        return view

    def _reduce(self, path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the form of an image from which augmented views are made, (H, W, 3) uint8.

        It shows what the resize mode shows at inference, but uncut: the whole image, squashed or padded if so asked.
        """
        reduced = self._memory.get("reduced", path)
        if reduced is None:
            if self._preprocessing.resize_mode == "crop":
                reduced = _reduce_short_side(read(), round(self._preprocessing.resize_size * _REDUCED_SCALE))
            else:
                larger = self._preprocessing.at_size(round(self._preprocessing.input_size * _REDUCED_SCALE))
                reduced = np.ascontiguousarray(larger.prepare(read()).transpose(1, 2, 0))
            self._memory.keep("reduced", path, reduced)
        return reduced


def _reduce_short_side(image: np.ndarray, length: int) -> np.ndarray:
    """Return a copy of an (H, W, 3) uint8 image, reduced to a short side of `length` unless it is hardly larger.

    Images of more than four times that length are first averaged over squares of pixels, which bounds time and memory.
    """
    short = min(image.shape[:2])
    if short**2 * _MAX_SHARE_LEFT < length**2:
        return np.array(image, order="C")
    height, width = (round(side * length / short) for side in image.shape[:2])
    factor = short // (2 * length)
    if factor > 1:
        image = np.asarray(Image.fromarray(image).reduce(factor))
    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)
    return np.ascontiguousarray(resize(pixels, height, width).permute(1, 2, 0).numpy())
