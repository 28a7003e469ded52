"""Paths and names as cells of a table: UTF-8 text that no spreadsheet runs as a formula, and back.

A relative path that begins with one of the characters of a formula gets `./` in front, which is the same path. A path
that is no UTF-8 is written as a `file://` address. Any other text that begins like a formula gets an apostrophe in
front, and so does one that begins with apostrophes and then like a formula: what is read back is what was written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from resnetkit.machine.files import to_path
from resnetkit.machine.text import to_encodable

_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_QUOTED_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ADDRESS = "file://"


def write_path(path: Path | str) -> str:
    """Return a path as the text of a cell."""
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _ADDRESS + quote(os.fsencode(os.path.abspath(text)))
    return f"./{text}" if _FORMULA.match(text) else text


def read_path(text: str) -> Path:
    """Return the path that a cell names."""
    if text.startswith(f"{_ADDRESS}/"):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_ADDRESS))))
    return to_path(text)


def write_text(text: str) -> str:
    """Return a name or message as the text of a cell; see `to_encodable` for odd file names."""
    text = to_encodable(text)
    return f"'{text}" if _QUOTED_FORMULA.match(text) else text


def read_text(text: str) -> str:
    """Return the name or message that a cell holds."""
    return text[1:] if text.startswith("'") and _QUOTED_FORMULA.match(text) else text


class PathSet:
    """Paths seen so far, a million of them in 16 MB: 64 bits of a digest each.

    Two of a million paths share these bits with a probability of 3 in 100 million.
    """

    def __init__(self) -> None:
        self._slots = np.zeros(1 << 12, np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> bool:
        """Add a path; tell whether it is new."""
        import hashlib

        digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        if not self._insert(int.from_bytes(digest, "little") or 1):
            return False
        self._count += 1
        if 2 * self._count > len(self._slots):
            self._grow()
        return True

    def _insert(self, value: int) -> bool:
        mask = len(self._slots) - 1
        index = value & mask
        while found := int(self._slots[index]):
            if found == value:
                return False
            index = (index + 1) & mask
        self._slots[index] = value
        return True

    def _grow(self) -> None:
        old = self._slots[self._slots != 0]
        self._slots = np.zeros(4 * len(self._slots), np.uint64)
        for value in old:
            self._insert(int(value))
