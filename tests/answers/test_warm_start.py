"""A second start: neither weights nor compiled network are hashed, and a file that was changed answers as it is now."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from resnetkit.answers import loader, portable
from resnetkit.folders.classifier import Classifier
from resnetkit.parameters.inference import InferParameters
from resnetkit.runtimes import known_files
from resnetkit.weights import checkpoint
from resnetkit.weights.checkpoint import open_weights

KINDS = ("safetensors", "state dict", "pth", "onnx", "onnx and data", "openvino", "int8")


@pytest.fixture(autouse=True)
def _has_own_cache(monkeypatch, tmp_path):
    """Give the test a cache of its own, for whose files all have been there for long, on a file system of Linux."""
    for module in (loader, portable):
        monkeypatch.setattr(module, "get_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(known_files, "_find_file_system", lambda _: "ext4")
    monkeypatch.setattr(known_files, "_SETTLED_S", 0)


@pytest.fixture
def hashed(monkeypatch):
    """The number of bytes given to each SHA-256."""
    sizes = []
    sha256 = hashlib.sha256

    class Counted:
        def __init__(self, data=b""):
            self.inner = sha256()
            self.update(data)
            self.digest_size, self.digest, self.hexdigest = 32, self.inner.digest, self.inner.hexdigest

        def update(self, data):
            sizes.append(memoryview(data).nbytes)
            self.inner.update(data)

    monkeypatch.setattr(hashlib, "sha256", Counted)
    return sizes


@pytest.fixture(params=KINDS)
def model_path(request, weights_files, tmp_path) -> Path:
    """A copy of the weights file of each kind, with what lies beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("classes.txt", "preprocessing.json"):
        shutil.copy(weights_files["pth"].with_name(name), folder)
    if request.param == "state dict":
        from safetensors.numpy import save_file

        arrays = open_weights(weights_files["safetensors"]).read_arrays()
        save_file(arrays, folder / "model.safetensors")
        return folder / "model.safetensors"
    if request.param == "onnx and data":
        import onnx

        model = onnx.load(weights_files["onnx"])
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
        return folder / "model.onnx"
    path = weights_files[request.param]
    for each in (path, path.with_suffix(".bin")):
        if each.exists():
            shutil.copy(each, folder)
    return folder / path.name


def predict(path: Path, image: np.ndarray) -> np.ndarray:
    """Answer as a new process does; return the logarithms of the probabilities."""
    values = InferParameters().updated({"model_weight_file": str(path), "runtime": "openvino", "precision": "fp32"})
    (prediction,) = loader.Loader().load(values).predict([image])
    return np.log(prediction.probabilities)


def turn_bias(path: Path, bias: np.ndarray) -> None:
    """Write the values of the last layer's bias in the other order, in place, and keep size and time of the file."""
    files = (path, path.with_suffix(".bin"), path.with_suffix(".data"))
    (file,) = (each for each in files if each.exists() and bias.tobytes() in each.read_bytes())
    times, content = file.stat(), bytearray(file.read_bytes())
    start = content.index(bias.tobytes())
    time.sleep(0.02)  # more than a tick of the file system's clock
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(bias[::-1].tobytes())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    time.sleep(0.02)


def test_a_warm_start_hashes_next_to_nothing_and_sees_a_change(
    model_path, checkpoint_path, photographs, hashed, monkeypatch
):
    bias = open_weights(checkpoint_path).read_arrays()["fc.bias"]
    before = predict(model_path, photographs["small"])
    predict(model_path, photographs["small"])  # the first to read the compiled network
    hashed.clear()
    with monkeypatch.context() as patch:
        for name in ("read_file", "read_torch_file", "hash_files"):
            patch.setattr(checkpoint, name, lambda *_: pytest.fail("the weights file was read"))
        np.testing.assert_array_equal(predict(model_path, photographs["small"]), before)
        assert portable.list_model_files(str(model_path))[0] == model_path
    assert sum(hashed) < 100_000

    turn_bias(model_path, bias)
    after = predict(model_path, photographs["small"])
    difference = (after - before) - (bias[::-1] - bias)
    np.testing.assert_allclose(difference, difference.mean(), atol=1e-4)


def test_a_table_of_answers_names_the_model_by_a_hash_that_is_known(checkpoint_path, photograph_folder, hashed):
    values = InferParameters().updated({"model_weight_file": str(checkpoint_path), "runtime": "openvino"})
    names = []
    for start in ("cold", "compiled", "warm"):
        hashed.clear()
        classifier = Classifier(values)
        (answer,) = classifier.classify(photograph_folder / "tiny.png")
        assert answer.prediction is not None
        names.append(classifier.make_columns().model)
        size = checkpoint_path.stat().st_size
        # Cold: the key of the network, the weights that are compiled, and the network that is written.
        limit = {"cold": 3.1 * size, "compiled": 1.1 * size, "warm": 100_000}[start]
        assert sum(hashed) < limit, start
    assert len(set(names)) == 1


def test_imagenet_weights_are_hashed_once(imagenet_weights, photographs, hashed):
    path = imagenet_weights("resnet18")
    values = InferParameters().updated({"runtime": "openvino", "input_size": 64})
    for _ in range(2):
        loader.Loader().load(values)
    hashed.clear()
    loader.Loader().load(values).predict([photographs["tiny"]])
    assert sum(hashed) < 100_000
    assert path.is_file()


def test_an_entry_that_is_damaged_after_it_was_found_whole_is_made_anew(checkpoint_path, photographs, tmp_path, caplog):
    expected = predict(checkpoint_path, photographs["small"])
    predict(checkpoint_path, photographs["small"])
    (entry,) = (tmp_path / "cache").glob("*.blob")
    times, content = entry.stat(), bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0xFF
    time.sleep(0.02)
    entry.write_bytes(content)
    os.utime(entry, ns=(times.st_atime_ns, times.st_mtime_ns))
    np.testing.assert_array_equal(predict(checkpoint_path, photographs["small"]), expected)
    assert [record.getMessage().partition(" '")[0] for record in caplog.records] == ["cache entry"]


def test_a_network_that_is_used_stays_the_youngest_in_the_cache_though_its_time_is_noted_daily(
    checkpoint_path, photographs, tmp_path
):
    predict(checkpoint_path, photographs["small"])
    (entry,) = (tmp_path / "cache").glob("*.blob")
    for age_h, is_noted in ((1, False), (25, True)):
        then = time.time() - age_h * 3600
        os.utime(entry, (then, then))
        predict(checkpoint_path, photographs["small"])
        assert (entry.stat().st_mtime > then + 1) == is_noted
