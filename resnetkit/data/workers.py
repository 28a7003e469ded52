"""Processes and threads that make views ahead of time.

The processes are started by command, not through `multiprocessing`: that would run the user's main script a second
time, training included, unless the script has a guard. They end with their standard input, so also when this process
is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.data.views import ImageMemory, ViewMaker
from resnetkit.images.pixels import ImageError
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.threads import MAX_THREADS, compute_alone, count_cores

logger = get_logger()

_CLOSE_TIMEOUT_S = 5
# The first line drops the current folder from the search path before anything is imported from it.
_COMMAND = """\
import sys; sys.path[:] = [folder for folder in sys.path if folder]
import pickle; sys.path[:] = pickle.load(sys.stdin.buffer)
from resnetkit.data.workers import serve; serve()
"""


class ThreadTeam:
    """Makes views in threads of this process; decoding and resizing run in parallel, outside of Python's lock."""

    def __init__(self, maker: ViewMaker) -> None:
        self.size = min(count_cores(), MAX_THREADS)
        self._maker = maker
        self._executor = ThreadPoolExecutor(self.size, "views", initializer=compute_alone)

    def submit(self, index: int, epochs: Sequence[int | None]) -> Future[np.ndarray]:
        """Ask for views of an image; the arguments and what the future holds are those of `ViewMaker.make`."""
        return self._executor.submit(self._maker.make, index, epochs)

    def close(self) -> None:
        """End the threads; views that were asked for and not begun are cancelled."""
        self._executor.shutdown(cancel_futures=True)


class ProcessTeam:
    """Makes views in processes, each of which has its share of the images and keeps them for later epochs.

    Args:
        size: Number of processes.
        arguments: What each process makes its `ViewMaker` from.
    """

    def __init__(self, size: int, arguments: tuple[Any, ...]) -> None:
        self.size = size
        self._workers = [_Worker(arguments) for _ in range(size)]
        self._executors = [ThreadPoolExecutor(1, thread_name_prefix="views") for _ in range(size)]

    def submit(self, index: int, epochs: Sequence[int | None]) -> Future[np.ndarray]:
        """Ask for views of an image; the arguments and what the future holds are those of `ViewMaker.make`."""
        number = index % self.size
        return self._executors[number].submit(self._workers[number].make, index, epochs)

    def close(self) -> None:
        """End threads and processes."""
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()


class _Worker:
    """The near end of one process: a request is an index and epochs, the answer views or an error."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._send([str(Path(folder).absolute()) for folder in sys.path])
        self._send(arguments)

    def make(self, index: int, epochs: Sequence[int | None]) -> np.ndarray:
        self._send((index, epochs))
        try:
            answer = pickle.load(self._answers)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._describe_death() from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process by closing what it reads, by force where it does not follow in time."""
        try:
            self._requests.close()
        except OSError:
            logger.debug("a reading process had ended before it was closed")
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _send(self, message: Any) -> None:
        try:
            pickle.dump(message, self._requests, protocol=pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
        except OSError as error:
            raise self._describe_death() from error

    def _describe_death(self) -> RuntimeError:
        try:
            code = self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        return RuntimeError(
            f"a process that reads images ended unexpectedly with exit code {code}, perhaps for lack of "
            "memory; set 'num_workers' to 0 or to a lower number"
        )


def open_team(
    num_workers: int, arguments: tuple[Any, Any, Any], memory: ImageMemory | None
) -> ThreadTeam | ProcessTeam:
    """Start what makes views: processes, or threads where their number is 0.

    Args:
        num_workers: Number of processes.
        arguments: Paths, preprocessing and settings, as `ViewMaker` takes them.
        memory: What threads keep; each process has a memory of its own.
    """
    if num_workers > 0 and not Path(sys.executable or "").stem.lower().startswith(("python", "pypy")):
        logger.warning(
            "'num_workers' is %d, but '%s' is no Python interpreter that could run reading processes; "
            "images are read in threads, with the same result",
            num_workers,
            sys.executable,
        )
        num_workers = 0
    if num_workers == 0:
        return ThreadTeam(ViewMaker(*arguments, memory=memory))
    return ProcessTeam(num_workers, arguments)


def serve() -> None:
    """Answer requests until standard input ends (runs in the process of a `_Worker`)."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us.
    torch.set_num_threads(1)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # What libraries print must not get between the answers.
    maker = ViewMaker(*pickle.load(requests))
    while True:
        try:
            index, epochs = pickle.load(requests)
        except EOFError:
            return
        answer: np.ndarray | Exception
        try:
            answer = maker.make(index, epochs)
        except (ImageError, MemoryError) as error:
            answer = type(error)(*error.args)
        except Exception as error:
            answer = RuntimeError(f"{type(error).__name__} in a process that reads images: {error}")
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
