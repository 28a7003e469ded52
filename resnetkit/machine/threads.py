"""Threads: how many cores there are, and how torch and OpenMP, which spreads its CPU kernels, share them out."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from resnetkit.machine.forks import add_survivor
from resnetkit.machine.ranks import count_neighbours

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Threads that read images; more would only wait for the disk or for memory.
MAX_THREADS = 8


def count_cores() -> int:
    """Return how many cores this process may use; processes that train together share those of their machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, read_cpu_quota() or count) // count_neighbours())


@cache
def read_cpu_quota(system: Path = Path("/")) -> int | None:
    """Return how many cores' time a control group allows, as a container's limit does, rounded up; None for any.

    Args:
        system: What holds `proc` and `sys`.
    """
    quotas = []
    for line in _read_text(system / "proc/self/cgroup").splitlines():
        _, controllers, own = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / controllers  # of version 2, nothing is between the colons
        folder = root / own.lstrip("/")
        # A limit of a group holds for all below it. In a container of version 1 its own group is seen as the root.
        for each in (folder, *folder.parents):
            if not each.is_relative_to(root):
                break
            words = _read_text(each / "cpu.max").split()
            if controllers:
                words = [_read_text(each / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
                quotas.append(math.ceil(int(words[0]) / int(words[1])))
    return min(quotas, default=None)


def choose_thread_count() -> int:
    """Return to how many threads torch is to be bound, which knows of no quota; 0 where it has no more than that."""
    import torch

    quota = read_cpu_quota()
    return quota if quota is not None and quota < torch.get_num_threads() else 0


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Give torch's CPU kernels `count` threads for a while; 0 leaves the setting as it is.

    The setting is the process's: whoever runs torch in another thread meanwhile shares it. The last to leave
    restores what the first one found.
    """
    if count == 0:
        yield
        return
    with _thread_setting.hold(count):
        yield


class SharedSetting:
    """A setting of the process, where several threads may want another value for a while.

    The last to leave restores what the first one found.

    Args:
        read: Returns its value.
        write: Changes it.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._read, self._write = read, write
        self._original: Any = None
        self._users = 0
        self._lock = threading.Lock()
        add_survivor(self)

    def survive_fork(self) -> None:
        """Forget those who were using it in the parent's threads."""
        self._lock = threading.Lock()
        self._users = 0

    @contextmanager
    def hold(self, value: Any) -> Iterator[None]:
        """Keep the setting at a value for a while."""
        with self._lock:
            if self._users == 0:
                self._original = self._read()
            self._users += 1
            if self._read() != value:
                self._write(value)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._read() != self._original:
                    self._write(self._original)


class _ThreadSetting(SharedSetting):
    """How many threads torch's kernels have."""

    def __init__(self) -> None:
        super().__init__(self._count, self._change)

    @staticmethod
    def _count() -> int:
        import torch

        return torch.get_num_threads()

    @staticmethod
    def _change(count: int) -> None:
        import torch

        torch.set_num_threads(count)

    def survive_fork(self) -> None:
        """Forget the parent's users.

        In the thread that forked, OpenMP would wait for helpers that it had in the parent: it gets none there, which
        is for others, such as the OpenCV that decodes images in the engine. See `run_apart` for what computes.
        """
        super().survive_fork()
        if _find_library.cache_info().currsize and (library := _find_library()) is not None:
            library.omp_set_max_active_levels(0)


_thread_setting = _ThreadSetting()


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
    for function in (library.omp_set_dynamic, library.omp_set_num_threads, library.omp_set_max_active_levels):
        function.argtypes, function.restype = [ctypes.c_int], None
    return library


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], recall: Callable[[Item], Result | None] = lambda _: None
) -> Iterator[Result]:
    """Yield what a function makes of each item, in order; only a few are begun ahead, so that a stop is soon.

    What `recall` knows already takes no thread: to hand it over would take longer.
    """
    size = min(count_cores(), MAX_THREADS)
    executor = ThreadPoolExecutor(size, "images", initializer=compute_alone)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            known = recall(item)
            if known is not None and not waiting:
                yield known
                continue
            waiting.append(executor.submit(function, item) if known is None else _wrap(known))
            if len(waiting) > 4 * size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def share_work(function: Callable[[Item], Result], items: Sequence[Item], max_threads: int) -> list[Result]:
    """Return what a function makes of each item, in order: one part of them in this thread, the others in helpers.

    For short work that holds Python's lock little; the helpers stay, so that to wake one takes microseconds.
    """
    size = max(1, -(-len(items) // max(1, min(max_threads, count_cores(), MAX_THREADS))))
    parts = [items[start : start + size] for start in range(0, len(items), size)] or [()]

    def work(part: Sequence[Item]) -> list[Result]:
        return [function(item) for item in part]

    waiting = [_get_helpers().submit(work, part) for part in parts[1:]]
    try:
        results = work(parts[0])
    finally:
        wait(waiting)
    return [*results, *(result for future in waiting for result in future.result())]


@cache
def _get_helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, min(count_cores(), MAX_THREADS) - 1), "helper")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_get_helpers.cache_clear)  # a child has none of its parent's threads


def _wrap(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future
