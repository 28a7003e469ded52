"""How much memory the images in flight may take, over all threads of the process."""

from __future__ import annotations

import os
import threading

from resnetkit.decoding.values import ImageError

#: Of all threads together. An image that needs more is decoded while no other is.
_BUDGET_BYTES = 1_500_000_000


class _Budget:
    """Memory that threads share; who finds too little left waits until others have given theirs back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    def take(self, amount: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount

    def give_back(self, amount: int) -> None:
        with self._changed:
            self._free += amount
            self._changed.notify_all()


_budget = _Budget(_BUDGET_BYTES)


def _start_anew() -> None:
    """Forget, in a forked child, what threads of its parent hold: they are not there."""
    global _budget  # noqa: PLW0603 - one a process, as memory is
    _budget = _Budget(_BUDGET_BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class Allowance:
    """What one image may take. A context: memory is given back at its end.

    A thread holds one at a time; with a second it might wait for itself.

    Args:
        max_megapixels: Larger images are refused.
    """

    def __init__(self, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
        self._budget = _budget
        self._held = 0

    def __enter__(self) -> Allowance:
        return self

    def __exit__(self, *_: object) -> None:
        self.reduce(0)

    def admit(self, width: int, height: int, bytes_per_pixel: float, file_bytes: int = 0) -> None:
        """Refuse an image that is too large, else wait until there is memory to decode it.

        Args:
            width: In pixels, as the header says.
            height: In pixels.
            bytes_per_pixel: What decoder, its result and RGB take at the same time.
            file_bytes: How much of the file is held in memory besides.

        Raises:
            ImageError: It has more than `max_megapixels`.
        """
        if width * height / 1e6 > self._max_megapixels:
            raise ImageError(
                f"{width}x{height} pixels are more than the limit of {self._max_megapixels:g} megapixels; "
                "raise the limit or make the image smaller"
            )
        self.reduce(0)
        amount = min(round(width * height * bytes_per_pixel) + file_bytes, self._budget.size)
        self._budget.take(amount)
        self._held = amount

    def reduce(self, amount: int) -> None:
        """Give back all but so much: an image takes less once it is decoded."""
        if amount < self._held:
            self._budget.give_back(self._held - amount)
            self._held = amount
