"""After a fork: the child has the thread that forked alone, and libraries that wait for those of its parent.

OpenVINO's networks wait for ever for threads that are no more, also when they are deleted; and in the thread that
forked, TBB and OpenMP wait for the helpers that it had. What begins in the child, threads and networks, works, unless a
thread of the parent held one of the libraries' own locks at the moment of the fork: in the child nobody would open it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakSet

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


#: Where Linux tells what the threads of this process do.
_THREADS = Path("/proc/self/task")
#: Seconds that a fork waits for other threads at most: those of the libraries, which look for work for a moment before
#: they sleep, and do not for longer than that; programs may have threads that never rest.
_REST_S = 0.1


class Survivor(Protocol):
    """What holds threads or locks that a child does not have."""

    def survive_fork(self) -> None:
        """Let go of them; runs in the child before anything else, and must call no library."""


_survivors: WeakSet[Survivor] = WeakSet()


class _Child:
    """What a child knows of itself: the thread that forked, and a new one in its place; nothing where none did."""

    forked_thread = 0
    lock = threading.Lock()
    substitute: ThreadPoolExecutor | None = None


def add_survivor(survivor: Survivor) -> None:
    """Tell an object in every child that it is in one, for as long as it lives."""
    _survivors.add(survivor)


def keep_forever(*objects: Any) -> None:
    """Never delete objects, not even when Python ends: what would be waited for is not there."""
    for each in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def run_apart(function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
    """Call a function that computes: directly or, in the thread that a child was forked with, in a new one."""
    if threading.get_ident() != _Child.forked_thread:
        return function(*arguments, **named)
    with _Child.lock:
        if _Child.substitute is None:
            _Child.substitute = ThreadPoolExecutor(1, "after fork")
        substitute = _Child.substitute
    run = copy_context().run
    return substitute.submit(run, function, *arguments, **named).result()  # type: ignore[arg-type] # its own ParamSpec


def _wait_for_rest() -> None:
    """Let a process fork while none of its other threads runs, since a thread that sleeps holds no library's lock."""
    deadline = time.monotonic() + _REST_S
    while _is_another_thread_running() and time.monotonic() < deadline:
        time.sleep(0.001)


def _is_another_thread_running() -> bool:
    own = str(threading.get_native_id())
    try:
        return any(_is_running(thread) for thread in _THREADS.iterdir() if thread.name != own)
    except OSError:
        return False  # no Linux


def _is_running(thread: Path) -> bool:
    try:
        status = (thread / "stat").read_bytes()
    except OSError:
        return False  # it has ended
    return status.rpartition(b") ")[2][:1] in (b"R", b"D")


def _enter_child() -> None:
    if _Child.substitute is not None:
        keep_forever(_Child.substitute)
    _Child.forked_thread, _Child.lock, _Child.substitute = threading.get_ident(), threading.Lock(), None
    for survivor in list(_survivors):
        survivor.survive_fork()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(before=_wait_for_rest, after_in_child=_enter_child)
