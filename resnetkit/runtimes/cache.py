"""Compiled networks on disk, so that the next process starts quickly.

An entry is one file: the content, then its SHA-256. Entries appear whole or not at all, so that any number of
processes may share the folder; a damaged one is seen and made anew. A cache that does not work costs time, never an
answer: every problem ends in one line in the log.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.machine.files import atomic_path, open_regular
from resnetkit.machine.speaking import get_logger
from resnetkit.runtimes.known_files import KnownFiles

logger = get_logger()

#: Bytes of all entries together; the oldest go first. A compiled resnet50 is about 100 MB.
DEFAULT_LIMIT = 2 << 30

_SUFFIX = ".blob"
_DIGEST_BYTES = hashlib.sha256().digest_size
#: How exactly it is known when an entry was last used. Noting it changes the file's stamp, see `KnownFiles`.
_USE_NOTED_S = 24 * 3600


class CompiledCache:
    """A folder of compiled networks.

    Attributes:
        folder: Created at the first write.
        limit: Bytes of all entries together.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def read(self, key: str) -> np.ndarray | None:
        """Return an entry, memory-mapped, (bytes,) uint8; None if there is none that is whole."""
        path = self._get_path(key)
        try:
            with open_regular(path) as stream:
                content = np.memmap(stream, dtype=np.uint8, mode="c")  # OpenVINO wants writable memory: copied on write
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            logger.warning("cache entry '%s' cannot be read (%s); the network is compiled anew", path, error)
            return None
        blob, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]

        def check() -> bool:
            return hashlib.sha256(blob.data).digest() == digest.tobytes()

        if not KnownFiles(self.folder).recall("is whole", [path], check):
            self.report_damage(key)
            return None
        with suppress(OSError):  # a cache of somebody else, or one that is mounted read-only, is read as it is
            if time.time() - path.stat().st_mtime > _USE_NOTED_S:
                os.utime(path)
        return blob

    def report_damage(self, key: str) -> None:
        """Say that an entry is of no use; the next `write` replaces it."""
        logger.warning("cache entry '%s' is damaged; the network is compiled anew", self._get_path(key))

    def write(self, key: str, content: memoryview) -> None:
        """Store an entry, replacing one of the same key, and delete the oldest beyond the limit."""
        if len(content) > self.limit:
            return
        path = self._get_path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                stream.write(content)
                stream.write(hashlib.sha256(content).digest())
            self._prune()
        except OSError as error:
            logger.warning(
                "cache folder '%s' cannot be written (%s); the network is compiled at every start", self.folder, error
            )

    def _get_path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _prune(self) -> None:
        """Delete the entries that were not used for longest; another process may be deleting them as well."""
        entries = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = 0
        for _, size, path in sorted(entries, reverse=True):
            total += size
            if total > self.limit:
                _delete(path)


def make_key(facts: Mapping[str, Any]) -> str:
    """Return the name of the entry for some JSON-able facts, in hexadecimal: another fact, another entry."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:  # Windows: another process has it open; the next write tries again.
        logger.debug("'%s' is in use and stays in the cache", path)
