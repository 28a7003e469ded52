"""Files: where they are, and how they are written, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import to_encodable

logger = get_logger()

if TYPE_CHECKING:
    _SystemPath = Path
else:
    _SystemPath = type(Path())  # before Python 3.12, `Path` itself cannot be derived from

#: What the system calls a full disk, a used-up quota, a file beyond what is allowed.
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_CHUNK_BYTES = 1 << 20
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")


class Address(_SystemPath):
    """An address such as `s3://bucket/photos/17.jpg`: a path like any other, but of no file on this machine."""

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace("\\", "/").replace(":/", "://", 1)

    def is_absolute(self) -> bool:
        """Say that no folder belongs in front of it."""
        return True

    def resolve(self, strict: bool = False) -> Address:  # noqa: ARG002 - as the base class has it
        """Return itself: there are no links to follow."""
        return self


def to_path(text: str) -> Path:
    """Return what a text names: an `Address`, or a path of this machine, `file://` included."""
    if _ADDRESS.match(text) is None:
        return Path(text)
    return resolve_path(text) if text.startswith("file://") else Address(text)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its name once it is complete and on the disk.

    On an error the temporary file is removed and `path` is as it was. The suffix stays, for
    libraries that choose a format by it.
    """
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.tmp{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
        _flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, into which its files are moved once all of them are written.

    They replace files of their names, other files of `folder` stay. On an error, `folder` is as it was, or is not made.

    Raises:
        OSError: It cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = folder.with_name(f".{os.urandom(8).hex()}.tmp")
    hidden.mkdir()
    try:
        yield hidden
        folder.mkdir(exist_ok=True)
        for path in sorted(hidden.rglob("*")):  # a folder comes before what it holds
            target = folder / path.relative_to(hidden)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        reason = f"no space left to write into '{folder.parent}' ({os.strerror(error.errno)}); free some"
        raise OSError(error.errno, reason) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def check_place(folder: Path) -> None:
    """Check that `atomic_folder` can make a folder, before long work whose result it is for.

    Raises:
        OSError: Where it would lie, nothing can be written.
    """
    with tempfile.TemporaryFile(dir=next(path for path in folder.absolute().parents if path.exists())):
        pass


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file with Unix line ends, whole or not at all; see `to_encodable` for odd file names."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_encodable(text).encode("utf-8"))


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading that is a file: a pipe would keep its reader waiting, a device would never end.

    Raises:
        OSError: It is none, or cannot be opened.
    """
    # Without waiting for whoever might write into a pipe; to files the flag means nothing.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield stream  # type: ignore[misc] # unbuffered, so that memory is filled without another copy


def read_file(path: Path, limit: int) -> bytes:
    """Read a whole file into memory: what comes back no longer changes with the file.

    Args:
        path: Where it is.
        limit: Bytes that it may have.

    Raises:
        OSError: It is no regular file, larger, changes while it is read, or cannot be read.
    """
    with open_regular(path) as stream:
        before = os.fstat(stream.fileno())
        if before.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {before.st_size} bytes, more than the {limit} that are read", str(path))
        content = stream.read(before.st_size)
        while len(content) < before.st_size and (more := stream.read(before.st_size - len(content))):
            content += more  # Linux reads 2 GB at a time
        after = os.fstat(stream.fileno())
    if len(content) != before.st_size or _get_version(before) != _get_version(after):
        raise OSError(errno.EAGAIN, "it changes while it is read", str(path))
    return content


def hash_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the content of files, one after the other, in hexadecimal.

    Raises:
        OSError: One is no regular file, or cannot be read.
    """
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
    for path in paths:
        with open_regular(path) as stream:
            while count := stream.readinto(chunk):  # type: ignore[attr-defined] # it is unbuffered
                digest.update(chunk[:count])
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read: one entry of an object a line, lists of numbers or texts on one line.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    write_text(path, _format_json(content, 0) + "\n")


def _format_json(content: Any, depth: int) -> str:
    """Return JSON in which a list or object of plain values, or of lists of them, takes one line."""
    items = list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []
    if not any(isinstance(item, (dict, list)) for item in items):
        return json.dumps(content, ensure_ascii=False, allow_nan=False)
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(content, list):
        lines = [json.dumps(item, ensure_ascii=False, allow_nan=False) for item in content]
        return "[\n" + ",\n".join(inner + line for line in lines) + f"\n{outer}]"
    lines = [
        f"{json.dumps(key, ensure_ascii=False)}: {_format_json(value, depth + 1)}" for key, value in content.items()
    ]
    return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{outer}}}"


def resolve_path(text: str) -> Path:
    """Turn a parameter's value into an absolute path; `~` and addresses, `file://` among them, are understood."""
    if _ADDRESS.match(text) and not text.startswith("file://"):
        return Address(text)
    if text.startswith("file://"):
        # On deployment the engine rewrites a parameter that names an existing file to file://...
        # Some of its versions percent-encode and some do not: the literal name wins if it exists.
        literal = Path(text.removeprefix("file://"))
        if not literal.exists():
            from urllib.request import url2pathname  # It imports all that speaks HTTP.

            literal = _find_deployed(literal) or Path(url2pathname(urlsplit(text).path))
        text = str(literal)
    path = Path(text)
    with suppress(RuntimeError):  # `~name` of nobody
        path = path.expanduser()
    return Path(os.path.abspath(path))


def _find_deployed(relative: Path) -> Path | None:
    """Return a file that came along in the archive of a deployed workflow: its path begins with the plugin's name.

    The folder of the plugins is among those that modules are imported from.
    """
    if relative.is_absolute():
        return None
    return next((path for folder in sys.path if (path := Path(folder) / relative).is_file()), None)


def get_ikomia_root() -> Path:
    """Return the user's Ikomia folder, in which plugins, models and caches live.

    A user without a home folder, such as a container's random user id, gets a folder of his own among the temporary
    files.
    """
    with suppress(RuntimeError):  # neither HOME nor an entry among the users
        home = Path.home()
        if home.is_absolute():
            return home / "Ikomia"
    return _make_temporary_root()


@cache
def _make_temporary_root() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    root = Path(tempfile.gettempdir()) / f"Ikomia-{user}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
        # Anybody may make a folder of that name there first.
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022
    except OSError:
        is_own = False
    if not is_own and hasattr(os, "getuid"):
        root = Path(tempfile.mkdtemp(prefix="Ikomia-"))
    logger.warning("there is no home folder; the Ikomia folder is '%s'", root)
    return root


def _get_version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _flush_to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder; its rename is journaled.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
