"""Text that files and terminals can take: names of files and classes may hold anything."""

from __future__ import annotations

import re

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
