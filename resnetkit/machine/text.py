"""Text that files and terminals can take, as names of files and classes may hold anything; and very many texts."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

#: Half a surrogate pair: Python's sign for a byte of a file name that is no UTF-8.
_SURROGATES = re.compile("[\ud800-\udfff]")
#: What moves a terminal's cursor, ends a line or turns the direction of writing; ZWJ and ZWNJ, which Persian and emoji
#: need, do not.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: What stands between the beginning of an address and its host: a user's name and a password, or a token alone. Digits
#: and a slash behind a colon are a port and a path.
_PASSWORD = re.compile(r"(\w://)(?:([^/@:\s]*:)(?!\d*/)[^@\s]*|[^/@\s]*)@(?:[^/@\s]*@)*")


def to_encodable(text: str) -> str:
    """Return text that UTF-8 can express: a sign of replacement for each byte of a file name that is no UTF-8."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def to_printable(text: str) -> str:
    r"""Return text on one line that steers no terminal: what would do so is shown as an escape, \x1b for example."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def hide_password(text: str) -> str:
    """Return a text whose addresses of servers show no password, nor a token in its place: both are for connections."""
    return _PASSWORD.sub(lambda match: f"{match[1]}{match[2] or ''}***@", text)


class Texts(Sequence[str]):
    """Texts by the million, kept in one piece instead of as an object for each."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._content = bytearray()
        self._bounds = array("q", [0])
        self.extend(texts)

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts at the end, such as names of files that are no UTF-8."""
        for text in texts:
            self._content += text.encode("utf-8", "surrogatepass")
            self._bounds.append(len(self._content))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        found = range(len(self))[index]  # negative ones from the end, and an error beyond it
        return Texts(map(self._read, found)) if isinstance(found, range) else self._read(found)

    def __iter__(self) -> Iterator[str]:
        return map(self._read, range(len(self)))

    def _read(self, index: int) -> str:
        return self._content[self._bounds[index] : self._bounds[index + 1]].decode("utf-8", "surrogatepass")
