from __future__ import annotations

import pytest

from resnetkit.machine.text import to_encodable, to_printable


def test_what_is_no_text_has_a_sign():
    assert (
        to_encodable(b"caf\xe9 \xc3\xa9.png".decode("utf-8", "surrogateescape")) == "caf\N{REPLACEMENT CHARACTER} é.png"
    )


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a\x1b[31m\n\u202eb\udcffé", "a\\x1b[31m\\n\\u202eb\\udcffé"),
        ("two\u2028lines\x85", "two\\u2028lines\\x85"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
    ],
)
def test_terminals_are_not_steered(text, printed):
    assert to_printable(text) == printed
