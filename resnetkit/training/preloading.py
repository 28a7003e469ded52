"""Libraries that the end of a training needs, imported while the backbone computes features.

Importing holds Python's lock and one core; the network holds neither the lock nor, while images are read, all cores.
"""

from __future__ import annotations

import contextlib
import importlib
import threading

from resnetkit.machine.imports import pause_garbage_collection

#: In this order. torch._dynamo is what every optimizer of torch imports when it is made.
MODULES = (
    "torch._dynamo",
    "torchvision.models",
    "sklearn.metrics",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "jinja2",
)


def start_preloading() -> None:
    """Import in a thread of its own; what cannot be imported is left to the code that needs it, with its error."""
    threading.Thread(target=_import_all, name="preloading").start()


def _import_all() -> None:
    with pause_garbage_collection():
        for name in MODULES:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
