"""Compiled networks on disk: quick when all is well, and never in the way of an answer."""

from __future__ import annotations

import logging
import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnetkit.runtimes import openvino_runtime
from resnetkit.runtimes.cache import CompiledCache, make_key
from resnetkit.runtimes.choice import RuntimeOptions, open_runtime
from resnetkit.weights.errors import WeightsError

REPOSITORY = Path(__file__).resolve().parents[2]
OPENVINO = RuntimeOptions("openvino")


def refuse_to_read():
    raise AssertionError("the state dict was read")


@pytest.fixture
def warm_source(make_network, tmp_path):
    """A source whose network is in the cache folder `tmp_path`, and which cannot be read any more."""
    source = make_network().source
    open_runtime(source, OPENVINO, tmp_path)
    return replace(source, read_state_dict=refuse_to_read)


def list_entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_warm_cache_gives_the_same_answers_without_reading_the_weights(make_network, warm_source, tmp_path):
    network = make_network()
    entries = list_entries(tmp_path)
    output = open_runtime(warm_source, OPENVINO, tmp_path).run(network.images, with_features=True)
    np.testing.assert_allclose(output.logits, network.outputs[0], atol=1e-4)
    np.testing.assert_allclose(output.feature_map, network.outputs[1], atol=1e-4)
    assert list_entries(tmp_path) == entries
    assert len(entries) == 1


def test_openvino_never_imports_torch_whether_the_cache_is_cold_or_warm(run_script, checkpoint_path, tmp_path):
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        import numpy as np
        from resnetkit.weights.checkpoint import open_weights
        from resnetkit.runtimes.choice import NetworkSource, RuntimeOptions, open_runtime

        file = open_weights(Path({str(checkpoint_path)!r}))
        source = NetworkSource(
            "resnet18", 3, False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), file.content_hash, 64, file.read_arrays
        )
        runtime = open_runtime(source, RuntimeOptions("openvino"), Path({str(tmp_path / "cache")!r}))
        answer = runtime.run(np.zeros((1, 3, 64, 64), np.uint8)).logits
        print({{"torch", "torchvision"}} & set(sys.modules), answer.shape)
        """
    )
    outputs = [run_script(script, PYTHONPATH=str(REPOSITORY)).output.split() for _ in range(2)]
    assert outputs == [["set()", "(1,", "3)"]] * 2


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "empty":
        content = bytearray()
    elif kind == "cut off":
        content = content[: len(content) // 2]
    elif kind == "noise":
        content = bytearray(np.random.default_rng(0).bytes(len(content)))
    elif kind == "one byte":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["empty", "cut off", "noise", "one byte"])
def test_a_damaged_entry_is_made_anew_with_one_log_line(make_network, tmp_path, caplog, kind):
    network = make_network()
    open_runtime(network.source, OPENVINO, tmp_path)
    (entry,) = tmp_path.iterdir()
    damage(entry, kind)
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(network.source, OPENVINO, tmp_path)
    np.testing.assert_allclose(runtime.run(network.images).logits, network.outputs[0], atol=1e-4)
    assert len(caplog.records) == 1
    assert str(entry) in caplog.text
    assert entry.stat().st_size > 1_000_000

    caplog.clear()
    open_runtime(replace(network.source, read_state_dict=refuse_to_read), OPENVINO, tmp_path)
    assert not caplog.records


def test_an_entry_that_openvino_refuses_is_made_anew(make_network, tmp_path, caplog):
    network = make_network()
    open_runtime(network.source, OPENVINO, tmp_path)
    (entry,) = tmp_path.iterdir()
    CompiledCache(tmp_path).write(entry.stem, memoryview(b"whole, but no network" * 100))
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(network.source, OPENVINO, tmp_path)
    np.testing.assert_allclose(runtime.run(network.images).logits, network.outputs[0], atol=1e-4)
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_costs_one_log_line(make_network, tmp_path, caplog, kind):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" if kind == "a file" else tmp_path / "file" / "cache"
    network = make_network()
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(network.source, OPENVINO, folder)
    np.testing.assert_allclose(runtime.run(network.images).logits, network.outputs[0], atol=1e-4)
    assert len(caplog.records) == 1
    assert "cannot be" in caplog.text
    assert str(folder) in caplog.text


def test_a_full_disk_leaves_no_half_entry(make_network, tmp_path, caplog, monkeypatch):
    from resnetkit.machine import files

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_flush_to_disk", fail)
    network = make_network()
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(network.source, OPENVINO, tmp_path)
    np.testing.assert_allclose(runtime.run(network.images).logits, network.outputs[0], atol=1e-4)
    assert "No space left on device" in caplog.text
    assert list_entries(tmp_path) == []


def test_what_changes_the_network_changes_the_entry(make_network, tmp_path):
    source = make_network().source
    open_runtime(source, OPENVINO, tmp_path)
    count = 1
    for change in ({"content_hash": "other"}, {"input_size": 96}, {"mean": (0.5, 0.5, 0.5)}, {"std": (1.0, 1.0, 1.0)}):
        open_runtime(replace(source, **change), OPENVINO, tmp_path)
        count += 1
        assert len(list_entries(tmp_path)) == count, change
    open_runtime(source, RuntimeOptions("openvino", threads=1), tmp_path)
    assert len(list_entries(tmp_path)) == count


@pytest.mark.parametrize("version", ["ours", "OpenVINO's"])
def test_an_entry_of_another_version_is_not_used(make_network, tmp_path, monkeypatch, version):
    network = make_network()
    with monkeypatch.context() as patch:
        if version == "ours":
            patch.setattr(openvino_runtime, "GRAPH_VERSION", -1)
        else:
            patch.setattr(openvino_runtime.ov, "get_version", lambda: "2020.1")
        open_runtime(network.source, OPENVINO, tmp_path)
    (other,) = list_entries(tmp_path)
    (tmp_path / other).write_bytes(b"what this version cannot read")
    output = open_runtime(network.source, OPENVINO, tmp_path).run(network.images)
    np.testing.assert_allclose(output.logits, network.outputs[0], atol=1e-4)
    assert len(list_entries(tmp_path)) == 2


def test_without_a_folder_or_hash_nothing_is_cached(make_network, tmp_path):
    source = make_network().source
    open_runtime(source, OPENVINO, None)
    open_runtime(replace(source, content_hash=""), OPENVINO, tmp_path)
    assert list_entries(tmp_path) == []


def test_several_processes_may_start_at_once(run_script, checkpoint_path, tmp_path):
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        import numpy as np
        from resnetkit.runtimes.cache import CompiledCache

        cache = CompiledCache(Path({str(tmp_path / "cache")!r}))
        content = np.random.default_rng(0).bytes(1 << 22)
        for _ in range(10):
            cache.write("key", memoryview(content))
            assert cache.read("key").tobytes() == content
        """
    )
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: run_script(script, PYTHONPATH=str(REPOSITORY)), range(4)):
            assert result.output == ""
    assert list_entries(tmp_path / "cache") == ["key.blob"]


def test_a_full_cache_that_cannot_be_touched_is_read(make_network, warm_source, tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refuse)
    network = make_network()
    output = open_runtime(warm_source, OPENVINO, tmp_path).run(network.images)
    np.testing.assert_allclose(output.logits, network.outputs[0], atol=1e-4)
    assert not caplog.records


def test_a_pipe_in_the_place_of_an_entry_is_replaced(make_network, tmp_path, caplog):
    network = make_network()
    open_runtime(network.source, OPENVINO, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.unlink()
    os.mkfifo(entry)
    open_runtime(network.source, OPENVINO, tmp_path)
    assert "no regular file" in caplog.text
    assert entry.is_file()


def test_what_replaced_a_graph_while_it_was_read_is_not_kept_under_its_key(make_network, tmp_path):
    def refuse():
        raise WeightsError("was replaced")

    source = replace(make_network().source, check_unchanged=refuse)
    with pytest.raises(WeightsError, match="was replaced"):
        open_runtime(source, OPENVINO, tmp_path)
    assert list_entries(tmp_path) == []


# --- The folder itself ---


def test_the_oldest_entries_go_when_the_limit_is_passed(tmp_path):
    cache = CompiledCache(tmp_path, limit=3500)
    for number, key in enumerate("abc"):
        cache.write(key, memoryview(bytes(1000)))
        os.utime(tmp_path / f"{key}.blob", (number, number))
    assert cache.read("a") is not None  # used, and thereby the youngest
    cache.write("d", memoryview(bytes(1000)))
    assert list_entries(tmp_path) == ["a.blob", "c.blob", "d.blob"]


def test_an_entry_larger_than_the_limit_is_not_written(tmp_path):
    CompiledCache(tmp_path, limit=10).write("a", memoryview(bytes(11)))
    assert list_entries(tmp_path) == []


def test_a_missing_entry_is_no_event(tmp_path, caplog):
    assert CompiledCache(tmp_path / "new").read("a") is None
    assert not caplog.records


def test_keys_differ_with_every_fact_and_not_with_their_order():
    assert make_key({"a": 1, "b": [2.0]}) == make_key({"b": [2.0], "a": 1})
    assert make_key({"a": 1}) != make_key({"a": 2})
    assert make_key({"a": 1}) != make_key({"b": 1})
