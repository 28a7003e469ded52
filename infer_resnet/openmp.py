"""One setting of OpenMP, the library that spreads torch's CPU kernels over threads."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache


def fix_thread_count() -> None:
    """Have OpenMP start as many threads as it announces; call it in each thread before torch computes there.

    The OpenCV inside ikomia calls `omp_set_dynamic(1)` when it is imported: from then on, OpenMP starts fewer threads
    while the machine is busy. oneDNN, which computes torch's convolutions, shares the work out by the number that was
    announced, and what the missing threads should have done stays undone: on a busy machine gradients were wrong,
    infinite or NaN, and bfloat16 convolutions waited for ever. The setting belongs to the calling thread.
    """
    set_dynamic = _find_set_dynamic()
    if set_dynamic is not None:
        set_dynamic(0)


@cache
def _find_set_dynamic() -> Callable[[int], None] | None:
    """Return `omp_set_dynamic` of the OpenMP library that OpenCV and torch share; None if they share none."""
    if sys.platform != "linux":
        return None
    try:
        # Under its own name, and only if it is loaded already: a second copy would have settings of its own.
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None
    set_dynamic = library.omp_set_dynamic
    set_dynamic.argtypes, set_dynamic.restype = [ctypes.c_int], None
    return set_dynamic
