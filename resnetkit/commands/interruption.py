"""Ctrl-C and SIGTERM: a wish to stop the first time, the end of the process the second time."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

_STDERR = 2


class Interruption:
    """Notes that the user wants to stop, while it is entered; to be entered in the main thread."""

    def __init__(self) -> None:
        self._signal = 0
        self._before: dict[int, signal.Handlers] = {}

    @property
    def status(self) -> int:
        """The exit status of a stopped process, as shells count it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self._signal

    def is_requested(self) -> bool:
        """Tell whether a signal came."""
        return self._signal != 0

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:  # what `nohup` and shells in the background ignore stays ignored
                self._before[number] = before  # type: ignore[assignment]
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = number
        for each in self._before:
            # The system itself: it does not wait until a long call into C is over, as a handler in Python would.
            signal.signal(each, signal.SIG_DFL)
        # Not by logging or sys.stderr: either may be at work in the very line that was interrupted.
        with suppress(OSError):
            os.write(_STDERR, b"\nstopping after this piece of work; a second Ctrl-C or SIGTERM ends at once\n")
