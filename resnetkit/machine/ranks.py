"""One of several processes that train together, as torchrun or Ray Train starts them: its rank, and what they exchange.

A process alone is rank 0 of 1, and nothing here then imports torch or waits for anybody. Between the processes, small
values travel as float64 sums (`add`) and anything else pickled (`share`, `gather`): those who started the processes
have to trust the machines anyway.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from resnetkit.machine.speaking import get_logger

if TYPE_CHECKING:
    import torch

logger = get_logger()

Value = TypeVar("Value")

#: Seconds that a step waits for the slowest process; one that died is noticed at once, one that hangs after these.
STEP_TIMEOUT_S = 30
#: Seconds between two greetings, and those that a process has to notice a loss by itself where it waits for others.
_GREETING_S, _GRACE_S = 0.5, 5
#: Seconds that the others wait while one reads, checks, solves or writes.
_PATIENCE_S = 4 * 60 * 60
#: Seconds that the first to come waits for the others.
_MEETING_S = 300
#: Signs of a lost connection or of a time that is up in the errors of gloo, NCCL and torch's store.
_LOST = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "recv", "broken pipe")


class LostProcessError(RuntimeError):
    """Another process of the training has ended, or no longer answers."""


class JointError(ValueError):
    """The processes cannot train together; all of them raise it alike.

    Attributes:
        is_told: Whether another process, the first one, says it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.is_told = get_rank() > 0


class _Group:
    """What this process knows of the others.

    Attributes:
        steps: Process group for what happens in every step, with a short timeout; None for a process alone.
        watch: Notices processes that hang, wherever the others are.
        is_waiting: Whether the process waits for others, in torch's code, where nothing reaches it.
        has_parted: Whether it ever left the others in disorder.
    """

    has_parted = False

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self.steps: Any = None
        self.watch: _Watch | None = None
        self.is_waiting = False
        self.is_joined = self.is_own = False


class _Watch:
    """A thread that exchanges greetings with the other processes, whatever the work of this one is.

    Who reads, checks, solves or writes is waited for, for hours if need be. Who does not greet any more is stopped, or
    its machine is gone: then `check_others` raises, and a process that waits in torch's code is ended.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self.is_lost = self._is_alone = False
        self._leaving = threading.Event()
        self._greetings: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=STEP_TIMEOUT_S))
        # In this context: what it logs begins with the command's name.
        target = partial(copy_context().run, self._greet)
        self._thread = threading.Thread(target=target, name="greetings", daemon=True)
        self._thread.start()

    def close(self, is_orderly: bool) -> None:
        """End the thread, before its connections are closed: where all leave, together with those of the others."""
        self._is_alone = not is_orderly
        self._leaving.set()
        self._thread.join(STEP_TIMEOUT_S if is_orderly else _GRACE_S)

    def _greet(self) -> None:
        import torch
        import torch.distributed as dist

        while True:
            goodbyes = torch.tensor([float(self._leaving.wait(_GREETING_S))])
            try:
                dist.all_reduce(goodbyes, group=self._greetings)  # type: ignore[arg-type] # -100 is of non-members
            except RuntimeError:
                break
            if goodbyes.item() == _group.size or self._is_alone:
                return
        self.is_lost = not self._leaving.is_set()
        deadline = time.monotonic() + _GRACE_S
        while self.is_lost and not self._leaving.wait(0.1):
            if not _group.is_waiting:
                deadline = time.monotonic() + _GRACE_S
            elif time.monotonic() > deadline:
                logger.error("%s; start the same command again to go on with the run", _LOSS)
                os._exit(1)  # what waits in torch's code can be ended in no other way


_LOSS = "another process of this training has ended or no longer answers"
_group = _Group()


def get_rank() -> int:
    """Return the number of this process, from 0; it keeps it when it has left the others."""
    return _group.rank


def get_size() -> int:
    """Return the number of processes that exchange something: 1 once they have left each other."""
    return _group.size


def is_first() -> bool:
    """Tell whether this process is the one that writes, speaks and concludes."""
    return get_rank() == 0


def count_neighbours() -> int:
    """Return the number of processes on this machine, which share its cores and its memory."""
    return max(1, _read_number("LOCAL_WORLD_SIZE", 1)) if _read_number("WORLD_SIZE", 1) > 1 else 1


def get_local_rank() -> int:
    """Return the number of this process among those of its machine: the GPU that it takes."""
    return _read_number("LOCAL_RANK", 0) if _group.is_joined else 0


def get_step_group() -> Any:
    """Return torch's process group for what happens in every step; None for a process alone."""
    return _group.steps


@contextmanager
def join() -> Iterator[None]:
    """Meet the other processes that torchrun started; a process group that exists, such as Ray Train's, is used.

    Inside another `join`, and for a process alone, it does nothing.

    Raises:
        LostProcessError: The others do not come.
    """
    if _group.is_joined or not _is_one_of_many():
        yield
        return
    import torch.distributed as dist

    with explain_losses("the processes of the training could not meet"):
        _group.is_own = not dist.is_initialized()
        if _group.is_own:
            _open_group()
        _group.rank, _group.size, _group.is_joined = dist.get_rank(), dist.get_world_size(), True
        _group.steps = dist.new_group(timeout=timedelta(seconds=STEP_TIMEOUT_S))
        if _group.size > 1:
            _group.watch = _Watch()
    try:
        yield
    except BaseException:
        # NCCL would wait for the others before it lets go, and they perhaps for us.
        if _group.size > 1:
            _group.has_parted = True
            # While Python ends, gloo may wait again for what it had begun with a process that hangs.
            devnull = os.open(os.devnull, os.O_WRONLY)
            atexit.register(faulthandler.dump_traceback_later, _GRACE_S, exit=True, file=devnull)
            _end_watch(is_orderly=False)
            _close_group(is_orderly=dist.get_backend() == "gloo")
        raise
    else:
        leave()
    finally:
        _group.__init__()  # type: ignore[misc]


def leave() -> None:
    """Go on without the others; all do so at the same place. Each keeps its rank, the first does what is left."""
    if _group.size > 1:
        _end_watch(is_orderly=True)
        _close_group(is_orderly=True)


def _end_watch(is_orderly: bool) -> None:
    if _group.watch is not None:
        _group.watch.close(is_orderly)
        _group.watch = None


def _close_group(is_orderly: bool) -> None:
    import torch.distributed as dist

    _group.size, _group.steps = 1, None
    if _group.is_own and is_orderly:
        _group.is_own = False
        with suppress(RuntimeError):
            dist.destroy_process_group()


def has_parted() -> bool:
    """Tell whether this process left the others in disorder: ending, torch's threads may wait for them, or abort."""
    return _group.has_parted


def check_others() -> None:
    """Look whether all other processes are still there, between two pieces of work.

    Raises:
        LostProcessError: One is not.
    """
    if _group.watch is not None and _group.watch.is_lost:
        raise LostProcessError(f"{_LOSS}; see the messages of the others")


def add(*numbers: float) -> list[float]:
    """Return the sums over all processes, in every step: it waits for `STEP_TIMEOUT_S` at most."""
    if get_size() == 1:
        return list(numbers)
    import torch

    total = torch.tensor(numbers, dtype=torch.float64, device=_choose_device())
    _sum(total)
    return [float(number) for number in total.tolist()]


def average(tensors: list[torch.Tensor]) -> None:
    """Replace floating-point tensors by their mean over all processes."""
    if get_size() == 1 or not tensors:
        return
    import torch

    flat = torch.cat([tensor.reshape(-1).to(torch.float64) for tensor in tensors]).to(_choose_device())
    _sum(flat)
    flat /= get_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather(value: Value) -> list[Value]:
    """Return everybody's value, by rank; it waits long for those who still work."""
    if get_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * get_size()
    with _wait_for_others():
        dist.all_gather_object(values, value)
    return values


def share(value: Value) -> Value:
    """Return the first process' value; it waits long for it."""
    if get_size() == 1:
        return value
    import torch.distributed as dist

    values: list[Any] = [value if is_first() else None]
    with _wait_for_others():
        dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[no-any-return]


@contextmanager
def explain_losses(what: str = _LOSS) -> Iterator[None]:
    """Turn errors of torch's collectives into a `LostProcessError`.

    Args:
        what: What is wrong, for the message.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not (_group.is_joined or _is_one_of_many()):
            raise
        if isinstance(error, LostProcessError) or not any(sign in text.lower() for sign in _LOST):
            raise
        reason = text.strip().splitlines()[0][:200]
        raise LostProcessError(f"{what} ({reason}); see the messages of the others") from error


@contextmanager
def _wait_for_others() -> Iterator[None]:
    """Say that this process waits, see `_Watch`, and explain why it waited in vain."""
    _group.is_waiting = True
    try:
        with explain_losses():
            yield
    finally:
        _group.is_waiting = False


def _sum(tensor: torch.Tensor) -> None:
    import torch.distributed as dist

    with _wait_for_others():
        dist.all_reduce(tensor, group=_group.steps)


def _is_one_of_many() -> bool:
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return dist.get_world_size() > 1
    return _read_number("WORLD_SIZE", 1) > 1 and "MASTER_ADDR" in os.environ and "RANK" in os.environ


def _open_group() -> None:
    """Open the group that torchrun's variables describe: gloo for the CPU, NCCL beside it where there are GPUs."""
    import torch
    import torch.distributed as dist

    if count_neighbours() == _read_number("WORLD_SIZE", 1) and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: nobody else needs to reach it
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= count_neighbours()
    if has_gpus:
        torch.cuda.set_device(_read_number("LOCAL_RANK", 0))
    settings: dict[str, Any] = {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # else torchrun keeps the store
        settings = {
            "store": _open_store(),
            "rank": _read_number("RANK", 0),
            "world_size": _read_number("WORLD_SIZE", 1),
        }
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpus else "gloo", timeout=timedelta(seconds=_PATIENCE_S), **settings
    )


def _open_store() -> Any:
    """Open torch's store, on the given address alone: its own server would listen on every interface.

    Raises:
        LostProcessError: The port is taken.
    """
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], _read_number("MASTER_PORT", 29500)
    descriptor = None
    if _read_number("RANK", 0) == 0:
        try:
            descriptor = socket.create_server((address, port), backlog=1024).detach()
        except OSError as error:
            raise LostProcessError(
                f"port {port} of {address} cannot be opened for the processes to meet ({error.strerror}); "
                "give another MASTER_PORT, or torchrun's --master-port"
            ) from error
    size, timeout = _read_number("WORLD_SIZE", 1), timedelta(seconds=_MEETING_S)
    return dist.TCPStore(address, port, size, descriptor is not None, timeout, master_listen_fd=descriptor)


def _choose_device() -> torch.device:
    """Return the CPU, or the GPU where the group has NCCL alone."""
    import torch
    import torch.distributed as dist

    return torch.device("cuda" if dist.get_backend(_group.steps) == "nccl" else "cpu")


def _read_number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default
