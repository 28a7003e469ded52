"""Weights of other people: what training programs and download servers leave under the name of a weights file."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import pickle
import struct
import zipfile
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resnetkit.formats import torch_file
from resnetkit.formats.torch_file import read_torch_file
from resnetkit.weights.checkpoint import WeightsFile, open_weights
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.models import initialize_model
from resnetkit.weights.state_dict import find_state_dict, identify_architecture


@pytest.fixture(scope="module")
def state_dict():
    return initialize_model("resnet18", 3, seed=0).state_dict()


@pytest.fixture(scope="module")
def other():
    return initialize_model("resnet18", 3, seed=1).state_dict()


class Mode(Enum):
    TRAIN = 1


class Config(dict):
    """As Lightning's and OmegaConf's: a dictionary with a class of its own."""


EXTRAS = {
    "Namespace": argparse.Namespace(lr=0.1, data=Path("here")),
    "path": Path("here/there"),
    "numpy scalar": np.float64(0.75),
    "numpy array": np.arange(3),
    "enum": Mode.TRAIN,
    "own dictionary": Config(lr=0.1),
    "date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "decimal": Decimal("0.1"),
    "set": {1, 2},
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
    "size": torch.Size([1, 2]),
    "class": Mode,
    "function by name": os.path.join,
}


def equals(loaded, state_dict):
    return all(torch.equal(loaded[name], state_dict[name].float()) for name in loaded) and len(loaded) == 102


@pytest.mark.parametrize("is_legacy", [False, True], ids=["zip", "legacy"])
def test_what_else_a_checkpoint_carries_does_not_matter(tmp_path, state_dict, is_legacy):
    content = {"model": state_dict, **EXTRAS}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=not is_legacy)
    assert equals(open_weights(tmp_path / "model.pth").read_state_dict(), state_dict)


def put_head(state_dict, name):
    return {key.replace("fc.", name): value for key, value in state_dict.items()}


def prefix(state_dict, text):
    return {f"{text}{name}": tensor for name, tensor in state_dict.items()}


def to_places(state_dict):
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    split = {name: name.partition(".") for name in state_dict}
    return {
        f"features.{places[first]}.{rest}" if first in places else f"{first}.{rest}": state_dict[name]
        for name, (first, _, rest) in split.items()
    }


FORMS = {
    **{f"prefix {text}": lambda w, text=text: prefix(w, text) for text in (
        "model.", "net.", "backbone.", "resnet.", "encoder.", "module.model.", "model.backbone.", "_anything.",
        "model._orig_mod.",
    )},
    **{f"head {name}": lambda w, name=name: put_head(w, name) for name in ("fc.0.", "fc.1.", "head.", "classifier.1.")},
    "head beside the backbone": lambda w: {
        (name if name.startswith("fc") else f"backbone.{name}").replace("fc.", "head."): value
        for name, value in w.items()
    },
    "children in a Sequential": to_places,
    **{f"wrapper {name}": lambda w, name=name: {name: w, "epoch": 3} for name in (
        "net", "state_dict_ema", "model_ema", "network", "weights", "whatever",
    )},
    "lightning": lambda w: {
        "state_dict": {**prefix(w, "model."), "loss.weight": torch.ones(3)}, "hyper_parameters": Config(lr=1),
        "callbacks": {"ModelCheckpoint{}": {"best": 1}}, "optimizer_states": [{"state": {0: {"step": torch.ones(())}}}],
    },
    "profiled": lambda w: {**w, "total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1).double()},
    "parameters": lambda w: {name: nn.Parameter(v, v.is_floating_point() and True) if v.is_floating_point() else v
                             for name, v in w.items()},
    "channels last": lambda w: {
        name: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for name, v in w.items()
    },
    "views of one memory": lambda w: {name: torch.stack([v, v])[1] for name, v in w.items()},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_weights(tmp_path, state_dict, form):
    torch.save(FORMS[form](state_dict), tmp_path / "model.pth")
    assert equals(open_weights(tmp_path / "model.pth").read_state_dict(), state_dict)


@pytest.mark.parametrize("name", ["model.ckpt", "pytorch_model.bin", "checkpoint.pth.tar", "MODEL.PT"])
def test_names_of_other_programs(tmp_path, state_dict, name):
    torch.save(state_dict, tmp_path / name)
    assert equals(open_weights(tmp_path / name).read_state_dict(), state_dict)


def test_safetensors_under_another_name(tmp_path, state_dict):
    save_file(dict(state_dict), tmp_path / "model.bin")
    assert open_weights(tmp_path / "model.bin").format == "safetensors"
    assert equals(open_weights(tmp_path / "model.bin").read_state_dict(), state_dict)


def test_torchscript_is_read_for_its_weights(tmp_path):
    from torchvision.models import resnet18

    model = resnet18(num_classes=3).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTORCH_JIT", "1")
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(model).save(tmp_path / "model.pt")
    assert equals(open_weights(tmp_path / "model.pt").read_state_dict(), model.state_dict())


def test_a_head_without_bias_has_one_of_zeros(tmp_path, state_dict):
    torch.save({name: value for name, value in put_head(state_dict, "head.").items() if name != "head.bias"},
               tmp_path / "model.pth")  # fmt: skip
    assert open_weights(tmp_path / "model.pth").read_arrays()["fc.bias"].tolist() == [0, 0, 0]


def test_of_two_networks_the_trained_one_is_taken_and_said(tmp_path, state_dict, other, caplog):
    torch.save({"model_ema": prefix(other, "module."), "model": state_dict}, tmp_path / "model.pth")
    with caplog.at_level(logging.INFO):
        loaded = open_weights(tmp_path / "model.pth").read_state_dict()
    assert equals(loaded, state_dict)
    assert "weights are taken from 'model', not from model_ema.module" in caplog.text
    torch.save({**prefix(other, "teacher."), **prefix(state_dict, "student.")}, tmp_path / "two.pth")
    assert equals(open_weights(tmp_path / "two.pth").read_state_dict(), state_dict)


def test_weights_averages_alone_are_taken_by_name(tmp_path, state_dict, caplog):
    torch.save({"state_dict_ema": state_dict}, tmp_path / "model.pth")
    with caplog.at_level(logging.INFO):
        open_weights(tmp_path / "model.pth").identify()
    assert "weights are taken from 'state_dict_ema'" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w, o: {**prefix(w, "left."), **prefix(o, "right.")}, "holds 2 networks, 'left', 'right'; save the one"),
        (lambda w, _: {k: v for k, v in w.items() if "fc" not in k}, "a resnet18 without fc.weight"),
        (
            lambda w, _: {**{k: v for k, v in w.items() if "fc" not in k}, "fc.0.weight": torch.ones(64, 512),
                          "fc.2.weight": torch.ones(3, 64)},
            r"has a head of its own \(fc.0, fc.2\)",
        ),
        (lambda *_: {"model": nn.Linear(2, 2)}, "holds a whole torch.nn.modules.linear.Linear"),
        (lambda w, _: {**w, "hook": io.open}, "holds no"),
    ],
    ids=["two networks", "backbone", "two layers", "module", "function"],
)  # fmt: skip
def test_what_is_refused_says_what_it_is(tmp_path, state_dict, other, make, message):
    torch.save(make(state_dict, other), tmp_path / "model.pth")
    if message == "holds no":  # a function that is only named does nothing
        assert equals(open_weights(tmp_path / "model.pth").read_state_dict(), state_dict)
        return
    with pytest.raises(WeightsError, match=message) as caught:
        open_weights(tmp_path / "model.pth").read_state_dict()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("wide_resnet101_2", "wide_resnet101_2"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("resnext101_64x4d", "resnext101_64x4d"),
        ("resnext101_32x8d", "resnext101_32x8d"),
    ],
)
def test_relatives_are_called_by_their_names(tmp_path, name, kind):
    from torchvision import models

    with torch.device("meta"):
        weights = models.get_model(name, weights=None, num_classes=2).state_dict()
    claims = {key: torch.zeros(()).expand(value.shape) for key, value in weights.items()}
    torch.save(claims, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=f"is a {kind}, which is not among those supported"):
        open_weights(tmp_path / "model.pth").read_arrays()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", r"is a web page \(HTML\)"),
        (b"\n  <html>", r"is a web page \(HTML\)"),
        (b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
        (b'{"error": "not found"}', "is a JSON text"),
        (b"\x1f\x8b" + bytes(40), "is a gzip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "is an HDF5 file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is an image"),
        (bytes(257) + b"ustar" + bytes(40), "is a tar archive"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx", ".bin"])
def test_what_is_no_weights_file_at_all_is_named(tmp_path, content, message, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        open_weights(path).identify()


class Call:
    def __init__(self, *call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "true"), Call(eval, "1"), Call(getattr, Path, "cwd"), Call(__import__, "os"),
        Call(Path.cwd), Call(np.load, "x"), Call(torch.load, "x"), Call(torch.hub.load, "x", "y"), Call(print),
    ],
    ids=["os.system", "eval", "getattr", "__import__", "Path.cwd", "np.load", "torch.load", "torch.hub.load", "print"],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4])
def test_calls_of_functions_are_refused_by_name(state_dict, call, protocol):
    stream = io.BytesIO()
    torch.save({"weight": state_dict["fc.weight"], "evil": call}, stream, pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"it holds [\w.]+, which would run code when loaded"):
        read_torch_file(stream.getvalue())


def test_a_pickle_with_a_huge_index_costs_no_memory():
    with pytest.raises(ValueError, match="PyTorch file"):
        read_torch_file(b"\x80\x02K\x01r\xff\xff\xff\xff.")


def test_the_same_mapping_in_many_places_is_looked_at_once(tmp_path, state_dict):
    content = {"x": state_dict["fc.weight"]}
    for _ in range(5):
        content = {f"part {index}": content for index in range(1000)}
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="holds no ResNet"):
        open_weights(tmp_path / "model.pth").identify()


def test_a_network_that_stands_in_two_places_is_one(tmp_path, state_dict):
    torch.save({"best": {"model": state_dict}, "state_dict": state_dict}, tmp_path / "model.pth")
    assert open_weights(tmp_path / "model.pth").identify().num_classes == 3


@pytest.mark.parametrize("framed", [b"", b"\x95" + struct.pack("<Q", 20_003)], ids=["plain", "in a frame"])
def test_a_pickle_of_very_many_objects_is_not_read_to_its_end(framed, monkeypatch):
    monkeypatch.setattr(torch_file._Steps, "left", 10_000)
    with pytest.raises(ValueError, match="far more parts than a checkpoint"):
        read_torch_file(b"\x80\x04" + framed + b"(" + b"]" * 20_000 + b"l.")


def test_an_archive_of_very_many_entries_is_refused_by_its_list(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "_MAX_LIST_BYTES", 20_000)
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for index in range(500):
            archive.writestr(f"archive/data/{index}", b"")
    with pytest.raises(WeightsError, match="lists far more entries"):
        open_weights(tmp_path / "model.pt").identify()


def test_an_end_of_an_archive_behind_a_bomb_hides_nothing(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(50 << 20))
    with path.open("ab") as stream:
        stream.write(b"PK\x05\x06")
    with pytest.raises(WeightsError, match=r"PyTorch file|compressed archive"):
        open_weights(path).identify()


def test_random_damage_never_raises_anything_else(state_dict):
    stream = io.BytesIO()
    torch.save({"fc.weight": state_dict["fc.weight"], "namespace": argparse.Namespace(a=1)}, stream)
    content, random = stream.getvalue(), np.random.default_rng(0)
    start = content.index(b"\x80\x02}")
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 4)):
            damaged[start + random.integers(0, 400)] = random.integers(0, 256)
        with contextlib.suppress(ValueError):
            find_state_dict(read_torch_file(bytes(damaged)))


def test_reading_imports_no_torch(tmp_path, state_dict, run_script):
    torch.save({"model": state_dict, "args": argparse.Namespace(a=1)}, tmp_path / "model.pth")
    save_file({k: v.bfloat16() for k, v in state_dict.items()}, tmp_path / "model.safetensors")
    code = """
import sys
from pathlib import Path
from resnetkit.weights.checkpoint import open_weights
for name in ("model.pth", "model.safetensors"):
    file = open_weights(Path(sys.argv[1]) / name)
    print(file.identify().model_name, len(file.read_arrays()), file.content_hash[:0], "torch" in sys.modules)
"""
    result = run_script(code, arguments=[str(tmp_path)], PYTHONPATH=str(Path(__file__).resolve().parents[2]))
    assert result.output.split() == ["resnet18", "102", "False"] * 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_replaced_while_it_is_loaded_is_an_error(tmp_path, state_dict, other, suffix):
    path = tmp_path / f"model{suffix}"

    def write(weights):
        save_file(dict(weights), path) if suffix == ".safetensors" else torch.save(weights, path)

    write(state_dict)
    file = open_weights(path)
    assert file.content_hash
    write(other)
    with pytest.raises(WeightsError, match="was replaced while it was being loaded"):
        file.read_arrays()
    file = open_weights(path)
    loaded = file.read_state_dict()
    path.write_bytes(path.read_bytes()[:1000])  # in place, as `cp` does; what was loaded is not mapped
    assert equals(loaded, other)
    assert file.content_hash != WeightsFile(path, file.format, None).content_hash


def test_negative_variances_are_refused(tmp_path, state_dict):
    torch.save({**state_dict, "bn1.running_var": torch.full((64,), -1.0)}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"bn1\.running_var holds negative values"):
        open_weights(tmp_path / "model.pth").read_arrays()


def test_a_pipe_is_no_weights_file(tmp_path):
    os.mkfifo(tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="is no file, but a pipe or device"):
        open_weights(tmp_path / "model.pth")


def test_a_huge_sparse_file_is_not_read(tmp_path):
    path = tmp_path / "model.pth"
    with path.open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(3 << 30)
    with pytest.raises(WeightsError, match="more than the"):
        open_weights(path).identify()


def test_a_pickle_by_itself_is_no_weights_file(tmp_path, state_dict):
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"fc.weight": np.ones((3, 512))}))
    with pytest.raises(WeightsError, match="is no PyTorch file"):
        open_weights(tmp_path / "model.pth").identify()


def test_identity_needs_no_values(state_dict):
    stream = io.BytesIO()
    torch.save(state_dict, stream)
    assert identify_architecture(find_state_dict(read_torch_file(stream.getvalue()))) == ("resnet18", 3, False)
