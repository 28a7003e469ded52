"""What a user sees and says while something takes long: a bar, steps, the wish to stop."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnetkit.machine.speaking import get_logger

if TYPE_CHECKING or "ipykernel" not in sys.modules:
    from tqdm import tqdm
else:  # A widget where the notebook can show one; tqdm warns where it cannot, and the bar of a terminal does.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

Item = TypeVar("Item")


class Stopped(Exception):  # noqa: N818 - a request that was met, no error
    """Work ended because the user asked for it; the message says what was kept."""


class TrainingStopped(Stopped):
    """Training ended because the user asked for it; the message says what was kept.

    Attributes:
        checkpoint: The best weights so far; None if no epoch was finished.
        run_folder: What can be resumed; None if there is nothing yet.
    """

    def __init__(self, message: str, checkpoint: Path | None = None, run_folder: Path | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.run_folder = run_folder


class Meter:
    """How much of all work is done, though nobody knows beforehand how long its parts will take.

    Args:
        on_share: Called with the share that is done, 0..1, whenever it has grown.
    """

    def __init__(self, on_share: Callable[[float], None]) -> None:
        self._on_share = on_share
        self._share = 0.0

    def open_part(self, share: float) -> Callable[[float], None]:
        """Begin a part that is this share of the work left; return what takes the share of the part that is done."""
        begin = self._share
        span = (1 - begin) * share

        def move(done: float) -> None:
            if (reached := begin + span * min(done, 1.0)) > self._share:
                self._share = reached
                self._on_share(reached)

        return move


@dataclass(frozen=True)
class Progress:
    """The ties between long work and whatever runs it.

    Attributes:
        is_stop_requested: Asked before every piece of work.
        on_epoch: Called after every epoch.
        is_quiet: Whether no bar is shown, not even in a terminal.
        meter: Follows the bars, also those that are not shown.
    """

    is_stop_requested: Callable[[], bool] = lambda: False
    on_epoch: Callable[[], None] = lambda: None
    is_quiet: bool = False
    meter: Meter = field(default_factory=lambda: Meter(lambda _: None))

    @contextmanager
    def is_current(self) -> Iterator[None]:
        """Let `check_stop` ask here, for work that is many calls away and of no length of its own."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def check(self) -> None:
        """Raise TrainingStopped if the user asked for it."""
        if self.is_stop_requested():
            raise TrainingStopped("stopped on request before training began; nothing was written")

    def watch(self, items: Iterable[Item], bar: ProgressBar | None = None) -> Iterator[Item]:
        """Yield the items, check for a stop before each one, and move a bar."""
        for item in items:
            self.check()
            if bar is not None:
                bar.update()
            yield item

    def show(self, description: str, total: int | None, unit: str, share: float = 0.2) -> ProgressBar:
        """Return a bar, to be used in a `with` statement; the total may be unknown.

        Args:
            description: What is being done.
            total: How many units there are.
            unit: What is counted.
            share: About how much of the work left this is, 0..1.
        """
        # Where log lines are read, they say what a finished bar would.
        is_kept = not get_logger().isEnabledFor(logging.INFO)
        on_part = self.meter.open_part(share)
        return ProgressBar(on_part, desc=description, total=total, unit=unit, leave=is_kept, disable=self.is_quiet)


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def check_stop() -> None:
    """Raise TrainingStopped if the user asked for it, wherever in the work of a `Progress` that is current."""
    if (progress := _current.get()) is not None:
        progress.check()


class ProgressBar(tqdm):
    """A bar in terminals (on standard error) and notebooks only, so that logs stay quiet; without a thread.

    Args:
        on_part: Called with the share of the bar that is done, 0..1, whether the bar is seen or not.
        disable: Whether it is not to be seen.
        **settings: tqdm's own.
    """

    monitor_interval = 0

    def __init__(self, on_part: Callable[[float], None], *, disable: bool = False, **settings: Any) -> None:
        self._on_part = on_part
        self._wanted, self._done = settings["total"], 0.0
        is_seen = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        super().__init__(disable=disable or not is_seen, dynamic_ncols=True, **settings)

    def update(self, n: float | None = 1) -> bool | None:
        """Go on by `n` units."""
        self._done += n or 0
        if self._wanted:
            self._on_part(self._done / self._wanted)
        return super().update(n)

    def advance(self, count: int = 1, **figures: float | None) -> None:
        """Go on by `count` and show figures; None is left out."""
        if not self.disable:
            shown = {name: f"{value:.4g}" for name, value in figures.items() if value is not None}
            self.set_postfix(shown, refresh=False)
        self.update(count)
        if count == 0 and not self.disable:
            self.refresh()
