"""Run folders: one for each training, complete from its first moment, never overwritten; `latest` points to one."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from resnetkit.machine.files import get_ikomia_root, resolve_path
from resnetkit.weights.checkpoint import BEST_CHECKPOINT

LATEST = "latest"


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


def publish_latest(run_folder: Path) -> None:
    """Let `latest` beside the run folder mean this run: a link, or a copy where links are not to be had.

    Raises:
        OutputError: Something that is no run folder has that name.
    """
    latest = run_folder.parent / LATEST
    is_copy = _check_latest(latest)
    temporary = latest.with_name(f".{LATEST}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            temporary.symlink_to(run_folder.name, target_is_directory=True)
        except (OSError, NotImplementedError):  # Windows without developer mode, FAT
            shutil.copytree(run_folder, temporary)
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
    if _check_latest(run_folder.parent / LATEST):
        publish_latest(run_folder)


def _check_latest(latest: Path) -> bool:
    """Tell whether `latest` is a copy of a run folder, which may be replaced like a link.

    Raises:
        OutputError: It is something else, perhaps of value to its owner.
    """
    if latest.is_symlink() or not latest.exists():
        return False
    if (latest / BEST_CHECKPOINT).is_file():
        return True
    raise OutputError(errno.EEXIST, f"'{latest}' is no run folder, but has the name that the last run gets; rename it")
