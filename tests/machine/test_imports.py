"""Garbage collection while libraries are loaded: paused, and what they leave counts as old; nothing else does."""

from __future__ import annotations

import gc
import importlib

from resnetkit.machine.imports import pause_garbage_collection


def is_old(thing: object) -> bool:
    return any(kept is thing for kept in gc.get_objects(generation=2))


def test_what_is_made_during_an_import_is_old_at_once(tmp_path, monkeypatch):
    (tmp_path / "large_library.py").write_text("THING = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pause_garbage_collection():
        assert not gc.isenabled()
        module = importlib.import_module("large_library")
    assert gc.isenabled()
    assert is_old(module.THING)


def test_without_an_import_objects_stay_young_and_their_garbage_is_found():
    with pause_garbage_collection():
        thing: list[object] = []
    assert not is_old(thing)
