"""What a user sees and says while training runs: bars, steps, the wish to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm


class TrainingStopped(Exception):  # noqa: N818 - a request that was met, no error
    """Training ended because the user asked for it; the message says what was kept.

    Attributes:
        checkpoint: The best weights so far; None if no epoch was finished.
    """

    def __init__(self, message: str, checkpoint: Path | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


@dataclass(frozen=True)
class Hooks:
    """The loop's two ties to whatever runs it.

    Attributes:
        is_stop_requested: Asked before every batch.
        on_epoch: Called after every epoch.
    """

    is_stop_requested: Callable[[], bool] = lambda: False
    on_epoch: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Raise TrainingStopped if the user asked for it."""
        if self.is_stop_requested():
            raise TrainingStopped("train_resnet: stopped on request before training began; nothing was written")


class ProgressBar(tqdm):
    """A bar on standard error: in terminals and notebooks only, so that logs stay quiet; without a thread."""

    monitor_interval = 0

    def __init__(self, description: str, total: int, **settings: Any) -> None:
        is_seen = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        super().__init__(desc=description, total=total, disable=not is_seen, dynamic_ncols=True, **settings)

    def advance(self, count: int = 1, **figures: float | None) -> None:
        """Go on by `count` and show figures; None is left out."""
        if not self.disable:
            shown = {name: f"{value:.4g}" for name, value in figures.items() if value is not None}
            self.set_postfix(shown, refresh=False)
            self.update(count)
            if count == 0:
                self.refresh()


class CountingBar:
    """Shows (done, total) reports, as long scans give them, and lets the user stop between two of them."""

    def __init__(self, description: str, hooks: Hooks) -> None:
        self._bar: ProgressBar | None = None
        self._description = description
        self._hooks = hooks

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done.

        Raises:
            TrainingStopped: The user asked for it.
        """
        self._hooks.check()
        if self._bar is None:
            self._bar = ProgressBar(self._description, total, unit="image")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
