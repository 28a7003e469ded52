"""Data sets behind an address, such as shards in a bucket: copied to this machine once, then where they changed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from resnetkit.decoding.storage import StorageError, connect, find_objects, is_pattern
from resnetkit.machine.files import Address, atomic_path, get_ikomia_root, write_json
from resnetkit.machine.progress import Progress
from resnetkit.sources.names import DatasetError

_INDEX_FILE = ".index.json"


def make_local(source: Path, progress: Progress) -> Path:
    """Return a data set of this machine: itself, or the copy, in the Ikomia folder, of one behind an address.

    Training looks at every image in every epoch and in any order: that is for a disk. Of several processes on a
    machine one fetches, and the others wait for it. What has not changed is not fetched again.

    Args:
        source: A path; or the address of a folder, of one file, or a pattern of shards.
        progress: Shows a bar, and may stop between two files.

    Raises:
        DatasetError: There is nothing, or it cannot be read.
    """
    if not isinstance(source, Address):
        return source
    from filelock import FileLock

    name = hashlib.sha256(str(source).encode()).hexdigest()[:16]
    folder = get_ikomia_root() / "Cache" / "resnetkit" / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        try:
            _update(source, folder, progress)
        except StorageError as error:
            raise DatasetError(str(error)) from error
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_file() else folder


def _update(address: Address, folder: Path, progress: Progress) -> None:
    system, root = connect(address)
    found = find_objects(address, system, root)
    if not found:
        raise DatasetError(f"there is nothing at '{address}'")
    base = re.split(r"[*?\[]", root)[0].rpartition("/")[0] if is_pattern(root) else root.rstrip("/")
    wanted = {(name.removeprefix(base).lstrip("/") or Path(name).name): name for name in sorted(found)}
    versions = {relative: _describe(found[name]) for relative, name in wanted.items()}
    known = _read_index(folder)
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != _INDEX_FILE]:
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    missing = [each for each in wanted if known.get(each) != versions[each] or not (folder / each).is_file()]
    with progress.show("fetching", len(missing), unit="file") as bar:
        for relative in progress.watch(missing, bar):
            target = folder / relative
            if folder not in target.resolve().parents:
                raise DatasetError(f"'{address}' has '{relative}', which leads out of it")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with (
                    atomic_path(target) as temporary,
                    temporary.open("wb") as copy,
                    system.open(wanted[relative]) as file,
                ):
                    shutil.copyfileobj(file, copy, 1 << 20)
            except Exception as error:
                raise DatasetError(
                    f"'{wanted[relative]}' cannot be fetched ({type(error).__name__}: {error}); start again to go on"
                ) from error
            known[relative] = versions[relative]
            write_json(folder / _INDEX_FILE, known)


def _describe(info: dict[str, Any]) -> str:
    """Return what changes with the content: size, time of change and tag, as far as the file system has them."""
    facts = sorted((name, str(value)) for name, value in info.items() if name.lower() not in ("name", "key"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _read_index(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / _INDEX_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
