from __future__ import annotations

import pytest

from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import hide_password, to_encodable, to_printable


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


def test_a_line_in_the_log_steers_no_terminal(caplog):
    get_logger().warning("'%s' holds 100%%:\n%s", "a\x1b[31m\r\udcff", "next line")
    assert caplog.records[-1].getMessage() == "'a\\x1b[31m\\r\N{REPLACEMENT CHARACTER}' holds 100%:\nnext line"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:p@ss@host/x", "https://ada:***@host/x"),
        ("HTTP://ada:s3/cr?e#t@host:5000/a@b", "HTTP://ada:***@host:5000/a@b"),
        ("http://:secret@host", "http://:***@host"),
        ("https://token@host/x", "https://***@host/x"),
        (
            "API request to http://a:b@c/d and http://a:b@e failed",
            "API request to http://a:***@c/d and http://a:***@e failed",
        ),
        ("--tracking=http://ada:secret@host", "--tracking=http://ada:***@host"),
        ("http://host:5000/a@b:c", "http://host:5000/a@b:c"),
        ("hf://datasets/ada/digits@main/1.png", "hf://datasets/ada/digits@main/1.png"),
        ("local", "local"),
    ],
)
def test_only_passwords_and_tokens_are_hidden(text, shown):
    assert hide_password(text) == shown
