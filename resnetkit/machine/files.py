"""Files: where they are, and how they are written, whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its name once it is complete and on the disk.

    On an error the temporary file is removed and `path` is as it was. The suffix stays, for
    libraries that choose a format by it.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
        _flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file with Unix line ends, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read: one entry of an object a line, lists of numbers or texts on one line.

    Bytes of file names that are no UTF-8 become question marks.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    text = _format_json(content, 0) + "\n"
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


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
    """Turn a parameter's value into an absolute path; `~` and `file://` addresses are understood."""
    if text.startswith("file://"):
        # On deployment the engine rewrites a parameter that names an existing file to file://...
        # Some of its versions percent-encode and some do not: the literal name wins if it exists.
        literal = Path(text.removeprefix("file://"))
        text = str(literal) if literal.exists() else url2pathname(urlsplit(text).path)
    path = Path(text)
    with suppress(RuntimeError):  # `~name` of nobody
        path = path.expanduser()
    return Path(os.path.abspath(path))


def get_ikomia_root() -> Path:
    """Return the user's Ikomia folder, in which plugins, models and caches live."""
    return Path.home() / "Ikomia"


def _flush_to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder; its rename is journaled.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
