"""Two settings of OpenMP, the library that spreads torch's CPU kernels over threads; each is a thread's own."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache


def fix_thread_count() -> None:
    """Have OpenMP start as many threads as it announces; call it in each thread before torch computes there.

    The OpenCV inside ikomia calls `omp_set_dynamic(1)` when it is imported: from then on, OpenMP starts fewer threads
    while the machine is busy. oneDNN, which computes torch's convolutions, shares the work out by the number that was
    announced, and what the missing threads should have done stays undone: on a busy machine gradients were wrong,
    infinite or NaN, and bfloat16 convolutions waited for ever.
    """
    library = _find_library()
    if library is not None:
        library.omp_set_dynamic(0)


def compute_alone() -> None:
    """Have torch compute in the calling thread alone, one of several that work side by side, where OpenMP is shared.

    Else OpenMP would start helpers for each of them, and these go on spinning for a while after their work, on cores
    that the network needs: they made training a tenth slower.
    """
    import torch

    library = _find_library()
    if library is not None:
        torch.get_num_threads()  # at its first call in a thread, torch chooses the number itself
        library.omp_set_num_threads(1)


@cache
def _find_library() -> ctypes.CDLL | None:
    """Return the OpenMP library that OpenCV and torch share; None if they share none."""
    if sys.platform != "linux":
        return None
    try:
        # Under its own name, and only if it is loaded already: a second copy would have settings of its own.
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None
    for function in (library.omp_set_dynamic, library.omp_set_num_threads):
        function.argtypes, function.restype = [ctypes.c_int], None
    return library
