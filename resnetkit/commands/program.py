"""How every command runs: messages on standard error, the answer on standard output, an exit status."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from resnetkit.commands.interruption import Interruption
from resnetkit.commands.options import CommandParser
from resnetkit.machine.progress import Progress, Stopped
from resnetkit.machine.ranks import JointError, has_parted
from resnetkit.machine.speaking import get_logger, speak_as

logger = get_logger()

#: Exit statuses; a command that a signal stopped has 128 and the signal's number, as in shells.
SUCCESS, FAILURE, WRONG_USE = 0, 1, 2
#: Of a process that stops because another one of its training was asked to: as if SIGTERM had come to it, too.
STOPPED_ELSEWHERE = 143


@dataclass(frozen=True)
class Answer:
    """What a command writes to standard output when it is done.

    Attributes:
        lines: For people and shell scripts.
        json: The same and more, for programs: with `--json`.
        status: Exit status of the process.
    """

    lines: Sequence[str]
    json: Mapping[str, Any]
    status: int = SUCCESS


class Command(Protocol):
    """What a module of this room offers that is named like a command.

    Attributes:
        SUMMARY: What the command does, in a sentence.
        USAGE: How its positional arguments are written.
    """

    SUMMARY: str
    USAGE: str

    def add_arguments(self, parser: CommandParser) -> None:
        """Add positional arguments and options; `--json`, `--quiet` and `--help` are there already."""

    def run(self, arguments: argparse.Namespace, progress: Progress) -> Answer | None:
        """Do the work; None where another process answers.

        What goes to standard output meanwhile, say from a library, is shown on standard error.
        """


def run_command(name: str, words: Sequence[str]) -> int:
    """Run the command of a module of this room; return the exit status of the process.

    Args:
        name: The module's.
        words: What follows the command's name.
    """
    command: Any = importlib.import_module(f"resnetkit.commands.{name}")
    parser = CommandParser(name, command.SUMMARY, command.USAGE)
    command.add_arguments(parser)
    parser.add_common()
    with speak_as(f"resnetkit {name}"), _show_messages(), Interruption() as interruption:
        try:
            arguments = parser.parse(words)
            logger.setLevel(logging.WARNING if arguments.quiet else logging.INFO)
            progress = Progress(interruption.is_requested, is_quiet=arguments.quiet)
            with redirect_stdout(sys.stderr):
                answer = command.run(arguments, progress)
            if answer is None:
                return SUCCESS
            _print(json.dumps(answer.json, ensure_ascii=False) if arguments.json else "\n".join(answer.lines))
        except Stopped as stopped:
            logger.warning("%s", stopped)
            return interruption.status if interruption.is_requested() else STOPPED_ELSEWHERE
        except Exception as error:
            return WRONG_USE if isinstance(error, JointError) and error.is_told else _report(error)
    return answer.status


def end_process(status: int) -> None:
    """End the process at once, where an orderly end could hang or abort: when others of its training went away."""
    if has_parted():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def write_command(name: str, words: Sequence[str]) -> str:
    """Return a command line that runs a command of this program, to be pasted into the user's shell."""
    is_module = Path(sys.argv[0]).name == "__main__.py"
    line = [*([sys.executable, "-m", "resnetkit"] if is_module else ["resnetkit"]), name, *words]
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(line)
    from shlex import join

    return join(line)


def _report(error: Exception) -> int:
    """Say what went wrong, in a line; where the library did not foresee it, with Python's traceback.

    A ValueError is wrong use: of parameters, of the data set or of a file that the user named. All else is failure.
    """
    if isinstance(error, OSError) and error.strerror:
        place = f": '{error.filename}'" if error.filename is not None else ""
        logger.error("%s%s", error.strerror, place)
    elif isinstance(error, (OSError, MemoryError)) or type(error).__module__.startswith("resnetkit."):
        logger.error("%s", error)
    elif isinstance(error, ImportError):
        logger.error("%s; install what this command needs: pip install 'resnet-for-ikomia[train]'", error)
    else:
        logger.error("unexpected %s: %s", type(error).__name__, error, exc_info=error)
        return FAILURE
    return WRONG_USE if isinstance(error, ValueError) else FAILURE


def _print(text: str) -> None:
    """Write to standard output, now: an error must not wait until Python ends.

    Raises:
        OSError: It is closed, or its disk is full.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - else Python tries again at its end, and complains
            os.dup2(nowhere.fileno(), 1)
        raise OSError(
            error.errno or errno.EIO, f"standard output cannot be written to ({error.strerror}); it should get: {text}"
        ) from error


class _BarHandler(logging.Handler):
    """Writes to standard error, above the bar that is there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _show_messages() -> Iterator[None]:
    """Show what the library logs, on standard error, until the end of the command."""
    handler, level_before = _BarHandler(), logger.level
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
