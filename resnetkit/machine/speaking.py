"""The name of the plugin or command in front of every error and log line: put there once, at the boundary."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from resnetkit.machine.text import to_encodable, to_printable

_speaker: ContextVar[str] = ContextVar("speaker", default="")


@contextmanager
def speak_as(name: str) -> Iterator[None]:
    """Put `name: ` in front of what is logged and of the error that is raised inside; the outermost name counts."""
    if _speaker.get():
        yield
        return
    token = _speaker.set(name)
    try:
        yield
    except Exception as error:
        _prefix_error(error, name)
        raise
    finally:
        _speaker.reset(token)


def get_logger() -> logging.Logger:
    """Return the one logger of the library: a filter sees what is logged through its logger, not through children."""
    return _LOGGER


def _prefix_error(error: Exception, name: str) -> None:
    if isinstance(error, OSError) and error.strerror:  # its text is made of number and strerror
        error.strerror = f"{name}: {error.strerror}"
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{name}: {error.args[0]}", *error.args[1:])


class _SpeakerFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Change the message, not the handlers: these are the application's, and write to files or terminals."""
        text = record.getMessage()
        plain = "\n".join(to_printable(line) for line in to_encodable(text).split("\n"))
        if plain != text:
            record.msg, record.args = plain, ()
        if name := _speaker.get():
            record.msg = f"{name}: {record.msg}"
        return True


_LOGGER = logging.getLogger("resnetkit")
_LOGGER.addFilter(_SpeakerFilter())
