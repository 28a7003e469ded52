"""Images that are no files of their own: members of tar shards, rows of Parquet files, objects behind an address.

Each is read as (key, bytes). A key is a path like any other, in which an archive is a folder:
`shards/train-0001.tar/cat/17.jpg`, `photos.parquet/17`, `s3://bucket/photos/17.jpg`. So it can stand wherever a path
does, in tables and reports as well, and any process can read it without a list.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import tempfile
import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from resnetkit.machine.files import Address
from resnetkit.machine.text import Texts

ARCHIVE_SUFFIXES = (".tar", ".parquet")

#: Archives whose lists of members are kept; and those of other machines, whose copies take room on the disk.
_MAX_ARCHIVES, _MAX_COPIES = 4096, 4
#: Groups of Parquet rows that are kept in memory.
_MAX_GROUPS = 4
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes", "image_bytes", "content")
#: Packages of addresses that not everybody has, by their beginnings.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}


class StorageError(ValueError):
    """An archive or address cannot be read at all."""


class Archive(Protocol):
    """Many images in one file."""

    def list(self) -> Iterator[str]:
        """Yield the keys of all entries, in their order."""

    def measure(self, key: str) -> int:
        """Return the bytes of an entry, 0 where they are not known; a `KeyError` says that there is none."""

    def read(self, key: str) -> bytes:
        """Return an entry; a `KeyError` says that there is none."""


class TarArchive:
    """A tar file, not compressed: its entries are read where they lie, from several threads.

    Args:
        path: The file, or its address.
        copy: The temporary file that it was copied to, which lives as long as this does; None where it is read itself.

    Raises:
        StorageError: It is none.
    """

    def __init__(self, path: Path, copy: Any = None) -> None:
        self._path, self._copy = Path(copy.name) if copy else path, copy
        places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(self._path, "r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined] # else it keeps a kilobyte for each
                    if member.isreg() and not member.issparse():
                        places[posixpath.normpath(member.name)] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError) as error:
            raise StorageError(
                f"'{path}' cannot be read as a tar file ({error}); expected a whole one that is not compressed"
            ) from error
        names = list(places)
        self._names, self._places = Texts(names), np.array(list(places.values()), np.int64).reshape(-1, 2)
        self._order = array("q", sorted(range(len(names)), key=names.__getitem__))

    def list(self) -> Iterator[str]:
        """Yield the names of all files in it, in their order."""
        return iter(self._names)

    def measure(self, key: str) -> int:
        """Return the bytes of an entry."""
        return self._find(key)[1]

    def read(self, key: str) -> bytes:
        """Return an entry."""
        offset, size = self._find(key)
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _find(self, key: str) -> tuple[int, int]:
        """Return where an entry begins, and its bytes."""
        place = bisect_left(self._order, key, key=self._names.__getitem__)
        if place == len(self._order) or self._names[self._order[place]] != key:
            raise KeyError(key)
        offset, size = self._places[self._order[place]].tolist()
        return offset, size


class ParquetArchive:
    """A Parquet file with a column of image files: bytes, or as in data sets of Hugging Face, a struct with `bytes`.

    Its keys are the numbers of the rows, from 0. Groups of rows are read whole, and a few kept: that is fast in the
    order of the rows, and in any other order where groups are small.

    Args:
        path: The file, or its address.
        copy: The temporary file that it was copied to, which lives as long as this does; None where it is read itself.

    Raises:
        StorageError: It is none, or pyarrow is not installed.
    """

    def __init__(self, path: Path, copy: Any = None) -> None:
        self._copy = copy
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise StorageError(
                f"'{path}' needs pyarrow, which cannot be imported ({error}); pip install pyarrow"
            ) from error
        try:
            # Not mapped: who shortens a mapped file ends the process.
            self._file = parquet.ParquetFile(copy.name if copy else path)
        except (OSError, pyarrow.ArrowException) as error:
            raise StorageError(f"'{path}' cannot be read as a Parquet file ({error})") from error
        self._column = _find_image_column(self._file.schema_arrow)
        if not self._column:
            names = ", ".join(self._file.schema_arrow.names[:8])
            raise StorageError(f"'{path}' has no column of image files, as bytes; its columns are {names}")
        metadata = self._file.metadata
        sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def list(self) -> Iterator[str]:
        """Yield the numbers of all rows."""
        return map(str, range(int(self._starts[-1])))

    def measure(self, key: str) -> int:
        """Return 0: the size of a row is not known before it is read."""
        self._find(key)
        return 0

    def read(self, key: str) -> bytes:
        """Return the bytes of a row."""
        row, group = self._find(key)
        with self._lock:
            if group not in self._groups:
                column = self._file.read_row_group(group, columns=[self._column]).column(0).combine_chunks()
                self._groups[group] = column.field("bytes") if "." in self._column else column
            self._groups.move_to_end(group)
            while len(self._groups) > _MAX_GROUPS:
                self._groups.popitem(last=False)
            content = self._groups[group][row - int(self._starts[group])].as_py()
        return content or b""

    def read_column(self, name: str) -> Sequence[Any]:
        """Return another column, such as the labels of all rows."""
        return self._file.read(columns=[name]).column(0).to_pylist()  # type: ignore[no-any-return]

    @property
    def schema(self) -> Any:
        """The columns, and what libraries say about them, as pyarrow has them."""
        return self._file.schema_arrow

    def _find(self, key: str) -> tuple[int, int]:
        """Return a row's number, and that of its group."""
        if not key.isascii() or not key.isdigit() or int(key) >= self._starts[-1]:
            raise KeyError(key)
        return int(key), int(np.searchsorted(self._starts, int(key), "right")) - 1


class _Entry(io.BytesIO):
    """The content of a key; like a file, it has a name."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(content)
        self.name = str(path)


class _Opened:
    """Archives that were opened, the last used at the end; they are opened again when their files have changed."""

    def __init__(self) -> None:
        self._archives: OrderedDict[Path, tuple[object, Archive]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> Archive:
        version = None if isinstance(path, Address) else get_version(path)
        with self._lock:
            if path not in self._archives or self._archives[path][0] != version:
                self._archives[path] = version, self._open(path)
                same_kind = [each for each in self._archives if isinstance(each, Address) == isinstance(path, Address)]
                if len(same_kind) > (_MAX_COPIES if isinstance(path, Address) else _MAX_ARCHIVES):
                    del self._archives[same_kind[0]]
            self._archives.move_to_end(path)
            return self._archives[path][1]

    @staticmethod
    def _open(path: Path) -> Archive:
        kind = _ARCHIVES[path.suffix.lower()]
        if not isinstance(path, Address):
            return kind(path)  # type: ignore[no-any-return]
        # Removed with the last reference to it: somebody may still read while it is pushed out.
        return kind(path, _copy(path))  # type: ignore[no-any-return]


_ARCHIVES: dict[str, Any] = {".tar": TarArchive, ".parquet": ParquetArchive}
_opened = _Opened()


def is_archive(path: Path) -> bool:
    """Tell whether a path is that of an archive, by its name."""
    return path.suffix.lower() in ARCHIVE_SUFFIXES and (isinstance(path, Address) or path.is_file())


def open_archive(path: Path) -> Archive:
    """Open an archive; it stays open.

    Raises:
        StorageError: It is damaged, or a package is missing.
        OSError: It is not there.
    """
    return _opened.open(path)


def open_key(path: Path) -> IO[bytes]:
    """Open an image for reading: a file, an entry of an archive, or an object behind an address.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read.
        StorageError: Its archive or address cannot be read at all.
    """
    if not isinstance(path, Address) and path.is_file():
        return path.open("rb")
    archive = find_archive(path)
    if archive is not None:
        try:
            return _Entry(open_archive(archive).read(path.relative_to(archive).as_posix()), path)
        except KeyError:
            raise FileNotFoundError(str(path)) from None
    if isinstance(path, Address):
        system, name = connect(path)
        return _Entry(system.cat_file(name), path)
    raise FileNotFoundError(str(path))


def get_version(path: Path) -> tuple[int, int]:
    """Return size and time of change, in nanoseconds, of a file or of an entry with its archive.

    Raises:
        OSError: There is no such file.
    """
    try:
        status = path.stat()
    except OSError:
        archive = find_archive(path)
        if archive is None:
            raise
        try:
            size = open_archive(archive).measure(path.relative_to(archive).as_posix())
        except KeyError:
            raise FileNotFoundError(str(path)) from None
        return size, archive.stat().st_mtime_ns
    return status.st_size, status.st_mtime_ns


def find_archive(path: Path) -> Path | None:
    """Return the archive that a path leads into; None where it leads into none."""
    for parent in path.parents:
        if parent.suffix.lower() in ARCHIVE_SUFFIXES and is_archive(parent):
            return parent
    return None


def list_keys(address: Address) -> Iterator[Address]:
    """Yield the addresses of all objects that an address means, see `find_objects`.

    Raises:
        StorageError: It cannot be read.
    """
    system, name = connect(address)
    yield from (Address(system.unstrip_protocol(each)) for each in sorted(find_objects(address, system, name)))


def find_objects(address: Address, system: Any, name: str) -> dict[str, dict[str, Any]]:
    """Return all objects that an address means, those that match a pattern or lie below a folder, with their facts.

    Args:
        address: For the message of an error.
        system: The file system, see `connect`.
        name: What the address is called there.

    Raises:
        StorageError: It cannot be listed.
    """
    try:
        found = system.glob(name, detail=True) if is_pattern(name) else system.find(name, detail=True)
    except Exception as error:  # each file system raises errors of its own
        raise StorageError(f"'{address}' cannot be listed ({type(error).__name__}: {error})") from error
    return dict(found)


def is_pattern(name: str) -> bool:
    """Tell whether a name stands for all that match it."""
    return any(sign in name for sign in "*?[")


def connect(address: Address) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and what the address is called there.

    Raises:
        StorageError: Its kind is not known, or a package is missing.
    """
    scheme = str(address).partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        system, name = url_to_fs(str(address))
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        package = f"'resnet-for-ikomia[{extra}]'" if extra else "fsspec and what it needs for such addresses"
        raise StorageError(
            f"'{address}' needs a package that cannot be imported ({error}); pip install {package}"
        ) from error
    except ValueError as error:
        raise StorageError(f"'{address}' cannot be read ({error})") from error
    return system, name


def _copy(address: Address) -> Any:
    """Return a temporary file, with a name, that holds what is behind an address."""
    copy = tempfile.NamedTemporaryFile(prefix="resnetkit-", suffix=address.suffix)  # noqa: SIM115 - it outlives this
    system, name = connect(address)
    try:
        system.get_file(name, copy.name)
    except Exception as error:  # each file system raises errors of its own
        copy.close()
        raise StorageError(f"'{address}' cannot be fetched ({type(error).__name__}: {error})") from error
    return copy


def _find_image_column(schema: Any) -> str:
    """Return the column of image files, or the part of it that has the bytes; empty where there is none."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def rank(name: str) -> int:
        return _IMAGE_COLUMNS.index(name.lower()) if name.lower() in _IMAGE_COLUMNS else len(_IMAGE_COLUMNS)

    for name in sorted(schema.names, key=rank):
        kind = schema.field(name).type
        if is_bytes(kind):
            return str(name)
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type):
            return f"{name}.bytes"
    return ""
