"""Progress bars: where they are seen, and what is left of them."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "level", "is_quiet", "is_seen", "is_left"),
    [
        pytest.param(Terminal(), logging.WARNING, False, True, True, id="terminal"),
        pytest.param(Terminal(), logging.INFO, False, True, False, id="terminal with log lines"),
        pytest.param(Terminal(), logging.INFO, True, False, False, id="quiet"),
        pytest.param(io.StringIO(), logging.WARNING, False, False, False, id="file"),
    ],
)
def test_a_bar_is_shown_in_terminals_and_stays_where_nothing_else_tells(
    monkeypatch, stream, level, is_quiet, is_seen, is_left
):
    monkeypatch.setattr(sys, "stderr", stream)
    before = get_logger().level
    get_logger().setLevel(level)
    try:
        with Progress(is_quiet=is_quiet).show("reading", 2, "image") as bar:
            bar.advance(2)
    finally:
        get_logger().setLevel(before)
    text = stream.getvalue()
    assert ("reading" in text) == is_seen
    assert ("100%" in text.rsplit("\r", 1)[-1]) == is_left
