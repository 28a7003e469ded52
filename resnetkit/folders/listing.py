"""Which image files are meant: files, folders, patterns, lists of paths, or what comes in on standard input."""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from resnetkit.decoding.storage import StorageError, is_archive, list_keys, open_archive
from resnetkit.folders.cells import read_path
from resnetkit.images.reading import IMAGE_SUFFIXES
from resnetkit.machine.files import Address, resolve_path, to_path

Source: TypeAlias = str | os.PathLike[str]

#: Stands for a list of paths on standard input.
STANDARD_INPUT = "-"

_TABLE_SUFFIXES = (".csv", ".tsv")
_LIST_SUFFIXES = (".txt", *_TABLE_SUFFIXES)
#: What the column of paths is called, in lower case and without spaces and underscores.
_PATH_COLUMNS = ("path", "filepath", "imagepath", "imgpath", "filename", "image", "file", "img", "name")
_CHUNK_BYTES = 1 << 16


class ListingError(ValueError):
    """A list of paths cannot be read."""


@dataclass(frozen=True)
class ListedFile:
    """One file that a user means; it may be missing.

    Attributes:
        path: Where it is, relative where the source was.
        name: A relative path without `..`, under which something made from the file may be saved.
    """

    path: Path
    name: Path


def list_files(sources: Source | Iterable[Source]) -> Iterator[ListedFile]:
    """List the image files that sources name; never more at a time than one folder holds.

    A folder gives the images in it and below it, by their endings, in the order of their names; hidden files and
    folders are left out, and a folder that is linked in twice is read once. A pattern such as `photos/**/*.jpg` gives
    what it matches; a `.txt`, `.csv` or `.tsv` file gives what it lists, folders included. A `.tar` file gives the
    images in it and a `.parquet` file its rows, each as a path that leads into the file, and an address such as
    `s3://bucket/photos` is read like a path. Anything else is taken for an image, so that a file that is missing gets
    its answer, too: an error.

    Args:
        sources: One, or several in their order; `-` reads a list from standard input, a path a line, or separated by
            NUL as `find -print0` writes it.

    Raises:
        ListingError: A list, a folder, an archive or an address cannot be read.
    """
    for source in [sources] if isinstance(sources, (str, os.PathLike)) else sources:
        text = os.fspath(source)
        if text == STANDARD_INPUT:
            yield from _list_named(_split_lines(sys.stdin.buffer), None)
            continue
        path = resolve_path(text) if text.startswith("~") else to_path(text)
        if path.suffix.lower() in _LIST_SUFFIXES and path.is_file():
            yield from _list_named(_read_list(path), path.parent)
        else:
            yield from _list_source(path)


def _list_source(path: Path) -> Iterator[ListedFile]:
    if _is_folder(path):
        yield from _walk(path)
    elif isinstance(path, Address):
        yield from _list_address(path)
    elif is_archive(path):
        yield from _list_archive(path)
    elif glob.has_magic(str(path)) and not _exists(path):
        yield from _match(path)
    else:
        yield ListedFile(path, _make_name(path))


def _match(pattern: Path) -> Iterator[ListedFile]:
    """Yield the files that match a pattern, with `**` the images among them; the pattern itself if nothing does."""
    is_recursive = "**" in pattern.parts  # It gives the files below a folder by itself.
    is_any = False
    for match in map(Path, glob.iglob(str(pattern), recursive=True)):  # noqa: PTH207 - pathlib's changes the names
        is_any = True
        if is_archive(match):
            yield from _list_archive(match)
        elif not _is_folder(match):
            if not is_recursive or match.suffix.lower() in IMAGE_SUFFIXES:
                yield ListedFile(match, _make_name(match))
        elif not is_recursive:
            yield from _walk(match)
    if not is_any:
        yield ListedFile(pattern, _make_name(pattern))


def _list_archive(path: Path) -> Iterator[ListedFile]:
    """Yield the images of a tar file, by their endings, or all rows of a Parquet file."""
    try:
        keys = open_archive(path).list()
    except (OSError, StorageError) as error:
        raise ListingError(str(error)) from error
    for key in keys:
        if path.suffix.lower() == ".parquet" or key.lower().endswith(IMAGE_SUFFIXES):
            yield ListedFile(path / key, _make_name(Path(path.name, key)))


def _list_address(address: Address) -> Iterator[ListedFile]:
    """Yield what is behind an address: one object, those that match a pattern, or the images below a folder."""
    is_pattern = glob.has_magic(str(address))
    if not is_pattern and is_archive(address):
        yield from _list_archive(address)
    elif not is_pattern and address.suffix.lower() in IMAGE_SUFFIXES:
        yield ListedFile(address, Path(address.name))
    else:
        start = 1 if is_pattern else len(address.parts)
        for found in _list_keys(address):
            if is_pattern and is_archive(found):
                yield from _list_archive(found)
            elif found.suffix.lower() in IMAGE_SUFFIXES:
                yield ListedFile(found, _make_name(Path(*found.parts[start:])))


def _list_keys(address: Address) -> Iterator[Address]:
    try:
        yield from list_keys(address)
    except StorageError as error:
        raise ListingError(str(error)) from error


def _walk(folder: Path) -> Iterator[ListedFile]:
    """Yield the images in a folder and those below it, each folder once, however it is linked."""
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            with os.scandir(current) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise ListingError(f"the folder '{current}' cannot be read ({error.strerror})") from error
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for name, is_folder in found:
            if not is_folder and name.lower().endswith(IMAGE_SUFFIXES):
                path = current / name
                yield ListedFile(path, path.relative_to(folder))
        waiting.extend(current / name for name, is_folder in reversed(found) if is_folder)


def _list_named(texts: Iterable[str], folder: Path | None) -> Iterator[ListedFile]:
    """List what the entries of a list name, relative to the list's folder, or to the current one if only there."""
    for text in texts:
        path = read_path(text)
        if folder is not None and not path.is_absolute() and (_exists(folder / path) or not _exists(path)):
            path = folder / path
        yield from _walk(path) if _is_folder(path) else [ListedFile(path, _make_name(path))]


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - pathlib's raises where it may not look


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _make_name(path: Path) -> Path:
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return Path(*parts) if parts else Path("image")


def _read_list(path: Path) -> Iterator[str]:
    try:
        if path.suffix.lower() in _TABLE_SUFFIXES:
            yield from _read_table(path)
        else:
            with path.open("rb") as file:
                yield from _split_lines(file)
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListingError(f"the list of paths '{path}' cannot be read ({reason})") from error


def _split_lines(file: IO[bytes]) -> Iterator[str]:
    """Yield the paths of a list, blank ones left out; names that are no UTF-8 stay what they are."""
    chunk = file.read1(_CHUNK_BYTES) if isinstance(file, io.BufferedReader) else file.read(_CHUNK_BYTES)
    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
    separator = b"\0" if b"\0" in chunk else b"\n"
    rest = b""
    while chunk:
        *lines, rest = (rest + chunk).split(separator)
        yield from (os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip())
        chunk = file.read(_CHUNK_BYTES)
    if rest.strip():
        yield os.fsdecode(rest.rstrip(b"\r"))


def _read_table(path: Path) -> Iterator[str]:
    """Yield the column of paths: the one that is called so, else the first one of a table without such a heading."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=first.count) if path.suffix.lower() == ".csv" else "\t"
        column = None
        for cells in csv.reader(file, delimiter=delimiter):
            if column is None:
                names = [cell.strip().lower().replace("_", "").replace(" ", "") for cell in cells]
                column = next((names.index(name) for name in _PATH_COLUMNS if name in names), -1)
                if column >= 0:
                    continue
            if len(cells) > max(column, 0) and (text := cells[max(column, 0)]).strip():
                yield text
