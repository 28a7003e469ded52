"""What was found out about image files, kept from one start to the next: only files that have changed are read again.

A file is known by its path, size and time of change. Files that cannot be read are not kept: the reason may be gone.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from resnetkit.decoding.storage import get_version, open_key
from resnetkit.images.pixels import ImageError, ValueRange
from resnetkit.images.ranges import Values
from resnetkit.machine.files import get_ikomia_root
from resnetkit.machine.speaking import get_logger

logger = get_logger()

#: Part of the key: what is kept, and how images are decoded.
_FORMAT = 2
#: A file that was written this short a time ago may be written again without a later time of change.
_SETTLED_S = 2
#: Files whose findings wait to be written.
_MAX_WAITING = 2000
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of an image file.

    Attributes:
        width: In pixels.
        height: In pixels.
        checksum: CRC-32 of the pixels, RGB.
        content: SHA-256 of the file; empty while nobody needed it.
        pixels: SHA-256 of the pixels; empty while nobody needed it.
        thumbnail: The image in few gray levels, see `resnetkit.sources.near_duplicates`; empty while nobody needed it.
    """

    width: int
    height: int
    checksum: int
    content: bytes = b""
    pixels: bytes = b""
    thumbnail: bytes = b""


class Inspections:
    """The findings of a data set, in a file of its own in the Ikomia folder; a loss of that file costs time only.

    Usable from several threads. Where the file cannot be used, everything is found out anew, and a line in the log says
    why.

    Args:
        source: Folder or table of the data set.
        value_range: What is black and white in images of more than 8 bits: other pixels have other findings.
    """

    def __init__(self, source: Path, value_range: ValueRange | None = None) -> None:
        identity = f"{_FORMAT} {value_range or ''} {source.absolute()}"
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._path = get_ikomia_root() / "Cache" / "resnetkit" / "images" / f"{name}.sqlite"
        self._lock = threading.Lock()
        self._waiting: dict[Path, tuple[int, int, Finding]] = {}
        self._waiting_values: list[tuple[bytes, int, int, str]] = []
        self._connection: sqlite3.Connection | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=_TIMEOUT_S, check_same_thread=False)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS findings (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER,"
                " width INTEGER, height INTEGER, checksum INTEGER, content BLOB, pixels BLOB, thumbnail BLOB)"
                " WITHOUT ROWID"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS brightness (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER,"
                " measured TEXT) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def find(self, path: Path) -> Finding | None:
        """Return what is known of a file as it is now; None where it is not known, or has changed."""
        with self._lock:
            version = _find_version(path)
            if self._connection is None or version is None:
                return None
            if path in self._waiting:
                size, changed, finding = self._waiting[path]
                return finding if (size, changed) == version else None
            try:
                row = self._connection.execute("SELECT * FROM findings WHERE path = ?", (bytes(path),)).fetchone()
                if row is None or row[1:3] != version:
                    return None
                return Finding(int(row[3]), int(row[4]), int(row[5]), *map(bytes, row[6:9]))
            except (sqlite3.Error, TypeError, ValueError) as error:
                self._give_up(error)
                return None

    def keep(self, path: Path, finding: Finding) -> None:
        """Keep what was found in a file just now."""
        version = _find_version(path)
        if version is None or time.time() - version[1] / 1e9 < _SETTLED_S:
            return
        with self._lock:
            if self._connection is not None:
                self._waiting[path] = (*version, finding)
                if len(self._waiting) >= _MAX_WAITING:
                    self._write()

    def add_hashes(self, path: Path, content: bytes = b"", pixels: bytes = b"") -> None:
        """Keep a hash beside what is known of a file already."""
        if finding := self.find(path):
            self.keep(path, replace(finding, content=content or finding.content, pixels=pixels or finding.pixels))

    def find_values(self, path: Path) -> tuple[bool, Values | None]:
        """Return whether a file's values were measured, and what was found: None where it has 8 bits."""
        with self._lock:
            version = _find_version(path)
            if self._connection is None or version is None:
                return False, None
            try:
                row = self._connection.execute("SELECT * FROM brightness WHERE path = ?", (bytes(path),)).fetchone()
                if row is None or row[1:3] != version:
                    return False, None
                measured = json.loads(row[3])
                return True, None if measured is None else Values(*measured)
            except (sqlite3.Error, TypeError, ValueError) as error:
                self._give_up(error)
                return False, None

    def keep_values(self, path: Path, values: Values | None) -> None:
        """Keep what was measured in a file just now; it is found again once this is closed."""
        version = _find_version(path)
        if version is None or time.time() - version[1] / 1e9 < _SETTLED_S:
            return
        with self._lock:
            self._waiting_values.append((bytes(path), *version, json.dumps(values)))

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._lock:
            if self._connection is not None:
                self._write()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _write(self) -> None:
        assert self._connection is not None
        rows: Sequence[tuple[object, ...]] = [
            (bytes(path), size, changed, *astuple(each)) for path, (size, changed, each) in self._waiting.items()
        ]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                self._connection.executemany(
                    "INSERT OR REPLACE INTO brightness VALUES (?, ?, ?, ?)", self._waiting_values
                )
            self._waiting.clear()
            self._waiting_values.clear()
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning(
            "what is known of images is not kept in '%s' (%s); delete it if it is damaged", self._path, error
        )
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        self._waiting.clear()
        self._waiting_values.clear()


def hash_content(path: Path) -> bytes:
    """Return the SHA-256 of an image file; nothing where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_key(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return b""
    return digest.digest()


def hash_pixels(path: Path, read: Callable[[Path], AbstractContextManager[np.ndarray]]) -> bytes:
    """Return the SHA-256 of an image's pixels; nothing where it cannot be read."""
    try:
        with read(path) as image:
            return hashlib.sha256(np.ascontiguousarray(image).data).digest()
    except ImageError:
        return b""


def _find_version(path: Path) -> tuple[int, int] | None:
    try:
        return get_version(path)
    except OSError:
        return None
