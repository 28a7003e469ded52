"""What a user sees and says while something takes long: a bar, steps, the wish to stop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from resnetkit.machine.speaking import get_logger

Item = TypeVar("Item")


class TrainingStopped(Exception):  # noqa: N818 - a request that was met, no error
    """Training ended because the user asked for it; the message says what was kept.

    Attributes:
        checkpoint: The best weights so far; None if no epoch was finished.
        run_folder: What can be resumed; None if there is nothing yet.
    """

    def __init__(self, message: str, checkpoint: Path | None = None, run_folder: Path | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.run_folder = run_folder


@dataclass(frozen=True)
class Progress:
    """The ties between long work and whatever runs it.

    Attributes:
        is_stop_requested: Asked before every piece of work.
        on_epoch: Called after every epoch.
        is_quiet: Whether no bar is shown, not even in a terminal.
    """

    is_stop_requested: Callable[[], bool] = lambda: False
    on_epoch: Callable[[], None] = lambda: None
    is_quiet: bool = False

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

    def show(self, description: str, total: int, unit: str) -> ProgressBar:
        """Return a bar, to be used in a `with` statement."""
        # Where log lines are read, they say what a finished bar would.
        is_kept = not get_logger().isEnabledFor(logging.INFO)
        return ProgressBar(desc=description, total=total, unit=unit, leave=is_kept, disable=self.is_quiet)


class ProgressBar(tqdm):
    """A bar on standard error: in terminals and notebooks only, so that logs stay quiet; without a thread."""

    monitor_interval = 0

    def __init__(self, *, disable: bool = False, **settings: object) -> None:
        is_seen = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        super().__init__(disable=disable or not is_seen, dynamic_ncols=True, **settings)

    def advance(self, count: int = 1, **figures: float | None) -> None:
        """Go on by `count` and show figures; None is left out."""
        if not self.disable:
            shown = {name: f"{value:.4g}" for name, value in figures.items() if value is not None}
            self.set_postfix(shown, refresh=False)
            self.update(count)
            if count == 0:
                self.refresh()
