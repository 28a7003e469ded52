"""Python's search for garbage, kept out of the way while large libraries are imported."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Do not search what is being made for garbage, which takes a fifth of the time of importing torch.

    Of any number of threads that are in here at once, the one that found the collector on turns it on again.
    """
    was_enabled, num_modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_modules:
            # Together they count all objects as old, which are searched seldom; else all would be searched at once now.
            # Only after imports, which come to an end: done again and again, it would keep all garbage from the search.
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()
