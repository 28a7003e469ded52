"""Importing large libraries: ahead of time, without Python's search for garbage, and without what reports on users."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from resnetkit.machine.forks import add_survivor

_TELEMETRY, _CONVERTER = "openvino_telemetry", "openvino.tools.ovc"
_importing: list[threading.Thread] = []


class NotInstalledError(ImportError):
    """What is to be done needs packages that are not installed."""


def require_installed(modules: Sequence[str], extra: str) -> None:
    """Check that modules can be imported before work begins that needs them in the end; imports none of them.

    Args:
        modules: Top-level ones.
        extra: Of our package, which installs them.

    Raises:
        NotInstalledError: Some cannot be found.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise NotInstalledError(
            f"it needs {' and '.join(missing)}, not installed here; pip install 'resnet-for-ikomia[{extra}]'"
        )


class _ImportLock:
    """Lets one thread at a time change what can be imported."""

    def __init__(self) -> None:
        self.survive_fork()
        add_survivor(self)

    def survive_fork(self) -> None:
        """Be free: the parent's thread that may have held it is not here."""
        self.lock = threading.RLock()


_import_lock = _ImportLock()


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


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import OpenVINO, or what imports it, as where its package for telemetry is not installed.

    With that package, importing OpenVINO or NNCF forks the process, asks for the name of an analytics host, posts to
    it and writes an identity into `~/intel`. Both go on without it, by a stub of their own.
    """
    with _hide(_TELEMETRY):
        yield


@contextmanager
def lean_openvino() -> Iterator[None]:
    """Import OpenVINO without its telemetry, and without what converts the networks of other frameworks.

    The latter takes a third of the import, and answers need none of it. `openvino.convert_model` imports it when it is
    called.
    """
    with _hide(_TELEMETRY, _CONVERTER):
        yield
    openvino = sys.modules["openvino"]
    if not hasattr(openvino, "convert_model"):
        openvino.convert_model = _convert_model  # type: ignore[attr-defined]


@contextmanager
def _hide(*names: str) -> Iterator[None]:
    """Let modules look as if they were not installed."""
    with _import_lock.lock:
        loaded = {name: sys.modules[name] for name in names if name in sys.modules}
        sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type] # None: Python's sign for it
        try:
            yield
        finally:
            for name in names:
                del sys.modules[name]
            sys.modules.update(loaded)


def _convert_model(*arguments: Any, **settings: Any) -> Any:
    """Stand for `openvino.convert_model` until it is called."""
    with without_telemetry():
        from openvino.tools.ovc import convert_model
    sys.modules["openvino"].convert_model = convert_model  # type: ignore[attr-defined]
    return convert_model(*arguments, **settings)


def start_importing(modules: Sequence[str]) -> None:
    """Import in a thread of its own; what cannot be imported is left to the code that needs it, with its error.

    Importing holds Python's lock and one core; a network holds neither the lock nor, while images are read, all cores.
    """
    thread = threading.Thread(target=_import_all, args=(modules,), name="importing")
    _importing.append(thread)
    thread.start()


def finish_importing() -> None:
    """Wait for what is being imported; do so before it is used.

    `from package import module` does not wait for a module that another thread has begun to import, but takes it as it
    is: torchvision.models without its functions was seen.
    """
    while _importing:
        _importing.pop().join()


def _import_all(modules: Sequence[str]) -> None:
    with pause_garbage_collection():
        for name in modules:
            with suppress(Exception):
                importlib.import_module(name)
