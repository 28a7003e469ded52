"""Weights files: those that train_resnet writes, those of other programs, and those that are damaged or hostile."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace

import pytest
import torch

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
from resnetkit.weights.checkpoint import open_weights, read_metadata, write_checkpoint
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import METADATA_KEY, ModelMetadata
from resnetkit.weights.models import initialize_model

METADATA = ModelMetadata(
    "resnet18",
    ("Bär", "猫", 'a "quoted"\nname'),
    Preprocessing(64, 73, "letterbox", IMAGENET_MEAN, IMAGENET_STD),
    metrics={"accuracy": 0.5},
    versions={"torch": "2"},
    training={"epochs": 3, "seed": None},
)


@pytest.fixture(scope="module")
def state_dict():
    return initialize_model("resnet18", 3, seed=0).state_dict()


@pytest.fixture
def path(tmp_path, state_dict):
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, state_dict, METADATA)
    return path


def test_a_checkpoint_describes_itself(path, state_dict):
    assert read_metadata(path) == METADATA
    weights = open_weights(path)
    assert (weights.path, weights.format, weights.is_graph) == (path, "safetensors", False)
    loaded = weights.read_state_dict()
    assert all(torch.equal(loaded[name], state_dict[name]) for name in loaded)
    assert weights.identify() == ("resnet18", 3, False)


def test_a_checkpoint_is_as_readable_as_any_file(path):
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_a_run_folder_is_read_by_its_best_checkpoint(path):
    assert open_weights(path.parent).path == path
    assert read_metadata(path.parent) == METADATA


def test_the_header_is_read_without_torch(path, run_script):
    code = """
import sys
from pathlib import Path
from resnetkit.weights.checkpoint import read_metadata
print(read_metadata(Path(sys.argv[1])).model_name, "torch" in sys.modules)
"""
    result = run_script(code, arguments=[str(path)], PYTHONPATH=_get_plugins_folder())
    assert result.output.split() == ["resnet18", "False"]


def _get_plugins_folder() -> str:
    from pathlib import Path

    return str(Path(__file__).resolve().parents[2])


def test_the_same_content_has_the_same_hash(path, tmp_path, state_dict):
    twin = tmp_path / "twin.safetensors"
    shutil.copy(path, twin)
    assert open_weights(twin).content_hash == open_weights(path).content_hash
    write_checkpoint(twin, state_dict, replace(METADATA, metrics={}))
    assert open_weights(twin).content_hash != open_weights(path).content_hash


def test_a_failed_write_leaves_the_old_checkpoint(path, state_dict, monkeypatch):
    import safetensors.torch

    def fail(tensors, filename, metadata):
        with open(filename, "wb") as file:  # noqa: PTH123
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(path, state_dict, replace(METADATA, classes=("a", "b", "c")))
    assert read_metadata(path) == METADATA
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pth", None, "does not exist"),
        ("empty.safetensors", b"", "is empty"),
        ("empty.pth", b"", "is empty"),
        ("model.h5", b"12345678", r"has an unknown ending; expected one of \.safetensors, \.pth, "),
        ("short.safetensors", b"1234", "was cut off"),
        ("text.safetensors", b"cat\ndog\nfish\nand more", "was cut off"),
        ("list.safetensors", struct.pack("<Q", 2) + b"[]" + b"\0" * 10, "header is no JSON object"),
        ("binary.safetensors", struct.pack("<Q", 4) + b"\xff\xfe\0\0" + b"\0" * 10, "header is no JSON object"),
        ("deep.safetensors", struct.pack("<Q", 200_000) + b"[" * 200_000, "header is no JSON object"),
        ("bomb.safetensors", struct.pack("<Q", 1 << 62) + b"{}", "was cut off"),
        ("large.safetensors", struct.pack("<Q", 20_000_000) + b" " * 20_000_000, "was cut off"),
        ("half.xml", b"<net/>", r"lacks its other half, half\.bin"),
        ("text.onnx", b"cat and dog", "cannot be read by OpenVINO"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        open_weights(path)
    assert str(caught.value).startswith(f"weights file '{path}' ")
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(WeightsError, match=r"is a folder without best\.safetensors"):
        open_weights(tmp_path)
    with pytest.raises(WeightsError, match="too long"):
        open_weights(tmp_path / ("a" * 5000 + ".pth"))


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_a_truncated_checkpoint_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="no complete safetensors file"):
        open_weights(path).read_state_dict()


def damage(metadata: ModelMetadata, **changes) -> dict[str, str]:
    return {METADATA_KEY: json.dumps({**json.loads(metadata.to_strings()[METADATA_KEY]), **changes})}


PREPROCESSING = {"input_size": 64, "resize_size": 73, "resize_mode": "crop"}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": "resnet19"},
        {"model_name": ["resnet18"]},
        {"classes": "abc"},
        {"classes": []},
        {"classes": [1, 2]},
        {"classes": ["\ud800"]},
        {"classes": None},
        {"preprocessing": None},
        {"preprocessing": {}},
        {"preprocessing": {**PREPROCESSING, "resize_mode": "zoom"}},
        {"preprocessing": {**PREPROCESSING, "input_size": 0}},
        {"preprocessing": {**PREPROCESSING, "input_size": 10**9}},
        {"preprocessing": {**PREPROCESSING, "mean": [1, 2]}},
        {"preprocessing": {**PREPROCESSING, "mean": [float("nan")] * 3}},
        {"preprocessing": {**PREPROCESSING, "std": [0, 1, 1]}},
        {"preprocessing": {**PREPROCESSING, "std": [1e-300, 1, 1]}},
        {"preprocessing": {**PREPROCESSING, "mean": [1e300, 1, 1]}},
        {"preprocessing": {**PREPROCESSING, "input_size": 8192}},
        {"preprocessing": {**PREPROCESSING, "input_size": float("inf")}},
        {"preprocessing": {**PREPROCESSING, "resize_size": 8192}},
        {"classes": ["a" * 100_000]},
        {"small_input_stem": "yes"},
        {"metrics": [1]},
        {"training": None},
        {"thresholds": 0.9},
        {"thresholds": [[0.9, 0.5]]},
        {"thresholds": [[0.9, "high", 1]]},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_damaged_metadata_are_refused(changes):
    with pytest.raises(WeightsError, match="has metadata that cannot be read"):
        ModelMetadata.from_strings(damage(METADATA, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000])
def test_metadata_that_are_no_object_are_refused(text):
    with pytest.raises(WeightsError, match="has metadata that cannot be read"):
        ModelMetadata.from_strings({METADATA_KEY: text})


def test_a_header_of_others_is_no_metadata():
    assert ModelMetadata.from_strings({"format": "pt"}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "resnet50"}, "says that it holds a resnet50, but holds a resnet18"),
        ({"classes": ("a", "b")}, "names 2 classes, but has 3 outputs"),
        ({"small_input_stem": True}, "another kind of first convolution"),
    ],
    ids=["architecture", "classes", "stem"],
)
def test_metadata_that_contradict_the_weights_are_refused(path, state_dict, changes, message):
    write_checkpoint(path, state_dict, replace(METADATA, **changes))
    with pytest.raises(WeightsError, match=message):
        open_weights(path).read_state_dict()
