"""Functions run in a process of their own, with an end to its time and a look at what it leaves behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

#: Seconds that processes started by a child have to follow it.
_GRACE_S = 5


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        exit_code: Negative for a signal; None where it had to be ended because its time was up.
        answer: What the function returned, by way of JSON; None if it did not come to that.
        output: Everything that it printed.
        seconds: From start to end.
        left: Whether processes that it had started were still there, and were ended.
    """

    exit_code: int | None
    answer: Any
    output: str
    seconds: float
    left: bool


class Child:
    """A process that calls a function of a module; it is the first of a session of its own.

    Args:
        function: Of a module of this repository; its arguments and result pass through JSON.
        arguments: By name.
        folder: Where its files are; made if it does not exist.
        home: Its home folder.
        environment: Other variables of its own.
        python: Another interpreter than this one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        folder: Path,
        home: Path | None = None,
        **environment: str,
    ) -> None:
        temporary, work = folder / "tmp", folder / "work"
        for path in (temporary, work):
            path.mkdir(parents=True, exist_ok=True)
        self.temporary = temporary
        self._answer, self._output = folder / "answer.json", folder / "output.txt"
        self._answer.unlink(missing_ok=True)
        (folder / "arguments.json").write_text(json.dumps(dict(arguments)), encoding="utf-8")
        python = environment.pop("PYTHON", sys.executable)
        name = f"{function.__module__}:{function.__qualname__}"
        self._began = time.monotonic()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [python, "-m", "soak.children", name, str(folder)],
                cwd=work,
                env={**make_environment(home, temporary), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 120) -> Ended:
        """Wait for the end; end the child, and all that it started, when the time is up."""
        exit_code: int | None = None
        try:
            exit_code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        left = end_group(self.process.pid)
        text = self._output.read_text(encoding="utf-8", errors="replace")
        answer = json.loads(self._answer.read_text(encoding="utf-8")) if self._answer.is_file() else None
        return Ended(exit_code, answer, text, time.monotonic() - self._began, left)


def make_environment(home: Path | None, temporary: Path) -> dict[str, str]:
    """Return the environment of a child: one CPU thread, no display, and this repository to import from."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(temporary),
        "IKOMIA_AUTO_COMPLETION": "0",
        "QT_QPA_PLATFORM": "offscreen",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }
    if home is not None:
        environment["HOME"] = environment["USERPROFILE"] = str(home)
    return environment


def link_plugins(home: Path) -> Path:
    """Make a home folder whose Ikomia folder has links to both plugins."""
    folder = home / "Ikomia" / "Plugins" / "Python"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("infer_resnet", "train_resnet"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name, target_is_directory=True)
    return home


def end_group(group: int) -> bool:
    """End what is left of the session of a child; tell whether there was anything."""
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return True


def main(name: str, folder: Path) -> None:
    """Call the function and write what it returns (runs in the child)."""
    module, function = name.split(":")
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    answer = getattr(importlib.import_module(module), function)(**arguments)
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
