"""Garbage collection while libraries are loaded: paused, and what they leave counts as old; nothing else does."""

from __future__ import annotations

import gc
import importlib
import sys

from resnetkit.machine.imports import finish_importing, pause_garbage_collection, start_importing


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


def test_what_is_being_imported_is_whole_afterwards(tmp_path, monkeypatch):
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package" / "__init__.py").touch()
    (tmp_path / "slow_package" / "part.py").write_text("import time\ntime.sleep(0.3)\nname = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    start_importing(["slow_package.part", "no_such_module_at_all"])
    finish_importing()
    assert sys.modules["slow_package.part"].name == 1
    finish_importing()  # nothing is left
