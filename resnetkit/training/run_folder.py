"""Run folders: one for each training, complete from its first moment, never overwritten; `latest` points to one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from resnetkit.machine.files import get_ikomia_root, resolve_path
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.declaration import ParameterError

logger = get_logger()

LATEST = "latest"

_RUN_NAME = r"\d{8}-\d{6}_\w+"
_MARK_NAME = ".copied-by-train_resnet.json"
_LOCK_NAME = ".lock"


class OutputError(OSError):
    """The output folder cannot be used."""


def prepare_output_folder(text: str) -> Path:
    """Make the folder in which run folders are made, and prove that it can be written to.

    Args:
        text: The parameter `output_folder`; empty means `Models/train_resnet` in the Ikomia folder.

    Raises:
        OutputError: It cannot be made or written to.
    """
    folder = resolve_path(text) if text else get_ikomia_root() / "Models" / "train_resnet"
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            error.errno or errno.EIO,
            f"output folder '{folder}' cannot be written to ({error.strerror}); "
            "free it, or give another 'output_folder'",
        ) from error
    _check_latest(folder / LATEST)
    return folder


def create_run_folder(output_folder: Path, model_name: str, fill: Callable[[Path], None]) -> Path:
    """Make a new folder `<date>-<time>_<model>`, filled before anybody can see it.

    A rename never replaces a folder that holds files, so two runs of one second get two names.

    Args:
        output_folder: Where it is made.
        model_name: Part of its name.
        fill: Writes the first files into the folder that it is given.
    """
    hidden = output_folder / f".{secrets.token_hex(8)}.tmp"
    hidden.mkdir()
    try:
        fill(hidden)
        stem = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}_{model_name}"
        for count in range(1, 10_000):
            folder = output_folder / (stem if count == 1 else f"{stem}_{count}")
            if folder.exists():
                continue
            with contextlib.suppress(OSError):
                hidden.rename(folder)
                return folder
        raise OutputError(errno.EEXIST, f"no free name for a run folder in '{output_folder}'")
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def create_named_run_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make the run folder that the parameter `run_folder` names, filled before anybody can see it.

    Args:
        folder: What it is to be; there is nothing, or an empty folder.
        fill: Writes the first files into the folder that it is given.

    Raises:
        OutputError: It holds something, or cannot be made.
    """
    hidden = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        hidden.mkdir(parents=True)
        fill(hidden)
        hidden.replace(folder)
    except OSError as error:
        reason = error.strerror
        if folder.exists():
            reason = "it holds no run, but something else, or one that another process has just begun"
        raise OutputError(
            error.errno or errno.EIO, f"run folder '{folder}' cannot be made ({reason}); give another 'run_folder'"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return folder


def publish_latest(run_folder: Path) -> None:
    """Let `latest` beside the run folder mean this run: a link, or a copy where links are not to be had.

    A run folder that the user named has none.

    What is neither our link nor our copy stays as it is, and a line in the log says so.
    """
    if not re.fullmatch(_RUN_NAME, run_folder.name):
        return
    latest = run_folder.parent / LATEST
    try:
        is_copy = _check_latest(latest)
    except OutputError as error:
        logger.warning("%s; '%s' is left out", error.strerror, LATEST)
        return
    temporary = latest.with_name(f".{LATEST}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            temporary.symlink_to(run_folder.name, target_is_directory=True)
        except (OSError, NotImplementedError):  # Windows without developer mode, FAT
            _copy_marked(run_folder, temporary)
        if is_copy:
            shutil.rmtree(latest)
        elif not temporary.is_symlink() and latest.is_symlink():
            latest.unlink()
        temporary.replace(latest)
    finally:
        if temporary.is_symlink():
            temporary.unlink()
        shutil.rmtree(temporary, ignore_errors=True)


def remove_temporary_files(run_folder: Path) -> None:
    """Delete what a killed process was writing into a run folder; nothing reads it any more."""
    for path in run_folder.glob(".*tmp*"):
        # Ours, or what safetensors writes first, under a name that it chooses.
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp(\.\w+)?|\.tmp[0-9A-Za-z]{6}", path.name) and path.is_file():
            path.unlink()


def refresh_latest(run_folder: Path) -> None:
    """Bring `latest` up to date where it is a copy."""
    latest = run_folder.parent / LATEST
    if latest.is_dir() and not latest.is_symlink():
        publish_latest(run_folder)


class RunFolderLock:
    """A run folder that no other process trains in; one that ends, however, no longer holds it.

    Args:
        folder: The run folder.

    Raises:
        ParameterError: Another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout

        self._path = folder / _LOCK_NAME
        self._lock = FileLock(self._path, timeout=0)
        try:
            self._lock.acquire()
            self._path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        except Timeout as error:
            raise ParameterError(
                f"the run folder '{folder}' is in use by {self._read_owner()}; wait until it has ended, or stop it"
            ) from error
        except (OSError, NotImplementedError) as error:
            logger.warning("'%s' cannot be locked (%s); no other process must train in it", folder, error)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)  # while nobody else can hold it
            self._lock.release()

    def _read_owner(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")[:200] or "another process"
        except (OSError, ValueError):  # Windows keeps others from reading it
            return "another process"


def _copy_marked(run_folder: Path, copy: Path) -> None:
    """Copy a run folder, with a list of what was copied: only that is ever removed again."""
    shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns(".*"))
    (copy / _MARK_NAME).write_text(json.dumps(_list_files(copy)), encoding="utf-8")


def _check_latest(latest: Path) -> bool:
    """Tell whether `latest` is a copy that was made and marked here, which may be replaced like a link of ours.

    Raises:
        OutputError: It is something else, or holds something else, perhaps of value to its owner.
    """
    if latest.is_symlink():
        target = str(latest.readlink())
        if re.fullmatch(_RUN_NAME, target):
            return False
        raise OutputError(errno.EEXIST, f"'{latest}' is a link to '{target}', which is no run folder; rename it")
    if not latest.exists():
        return False
    try:
        listed = json.loads((latest / _MARK_NAME).read_text(encoding="utf-8"))
        added = sorted(set(_list_files(latest)) - {*map(str, listed), _MARK_NAME})
    except (OSError, ValueError, TypeError):
        raise OutputError(
            errno.EEXIST,
            f"'{latest}' is no run folder of train_resnet, but has the name that the last run gets; rename it",
        ) from None
    if added:
        raise OutputError(errno.EEXIST, f"'{latest}' is a copy of the last run, but holds '{added[0]}', too; rename it")
    return True


def _list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
