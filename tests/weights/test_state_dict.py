"""State dicts of every origin: the same weights come out, or an error that says why not; and no code runs."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.checkpoint import open_weights
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.models import build_model, initialize_model
from resnetkit.weights.state_dict import check_state_dict, identify_architecture


@pytest.fixture(scope="module")
def model():
    return initialize_model("resnet18", 3, seed=0)


@pytest.fixture(scope="module")
def state_dict(model):
    return model.state_dict()


def prefix(state_dict, text):
    return {f"{text}{name}": tensor for name, tensor in state_dict.items()}


FORMS = {
    "bare": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    "model_state": lambda weights: {"model_state": weights},
    "wrapped twice": lambda weights: {"model": {"state_dict": weights}},
    "DataParallel": lambda weights: prefix(weights, "module."),
    "compiled": lambda weights: prefix(weights, "_orig_mod."),
    "both prefixes": lambda weights: {"state_dict": prefix(weights, "module._orig_mod.")},
    "averaged": lambda weights: {**prefix(weights, "module."), "n_averaged": torch.tensor(3)},
    "without counters": lambda weights: {name: value for name, value in weights.items() if "num_batches" not in name},
    "double": lambda weights: {name: value.double() for name, value in weights.items()},
}


@pytest.mark.parametrize("is_legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_gives_the_same_weights(tmp_path, state_dict, form, is_legacy):
    path = tmp_path / "model.pth"
    torch.save(FORMS[form](state_dict), path, _use_new_zipfile_serialization=not is_legacy)
    loaded = open_weights(path).read_state_dict()
    assert set(loaded) == {name for name in state_dict if "num_batches" not in name}
    assert all(torch.equal(loaded[name], state_dict[name]) for name in loaded)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_half_precision_becomes_float32(tmp_path, state_dict, dtype, suffix):
    weights = {name: value.to(dtype) for name, value in state_dict.items() if value.is_floating_point()}
    path = tmp_path / f"model{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    file = open_weights(path)
    assert file.metadata is None
    assert file.identify() == ("resnet18", 3, False)
    loaded = file.read_state_dict()
    assert all(torch.equal(loaded[name], weights[name].float()) for name in weights)


@pytest.mark.parametrize("small_input_stem", [False, True])
@pytest.mark.parametrize("model_name", ARCHITECTURES)
def test_every_architecture_is_recognized(model_name, small_input_stem):
    weights = build_model(model_name, 7, small_input_stem).state_dict()
    assert identify_architecture(weights) == (model_name, 7, small_input_stem)


class _RunsCode:
    """Creates a file when it is unpickled, as an attacker's object would do worse."""

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_a_pickle_that_runs_code_does_not_run_it(tmp_path, state_dict, form):
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    content = {**state_dict, "evil": _RunsCode(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(_RunsCode(marker)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match="would run code when loaded"):
        open_weights(path).read_state_dict()
    assert not marker.exists()
    pickle.loads(pickle.dumps(_RunsCode(marker)))
    assert marker.exists()  # It would have been seen.


def test_a_whole_model_is_refused(tmp_path, model):
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"save it again with torch\.save\(model\.state_dict\(\), path\)"):
        open_weights(tmp_path / "model.pth").read_state_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({}, "holds no ResNet .*got nothing"),
        ({"weight": torch.ones(2)}, "holds no ResNet .*got weight"),
        ({"state_dict": 3}, "holds a int; expected a state dict"),
        (torch.ones(3), "holds a Tensor; expected a state dict"),
    ],
    ids=["list", "empty", "another network", "number", "tensor"],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        open_weights(tmp_path / "model.pth").read_state_dict()
    assert str(tmp_path / "model.pth") in str(caught.value)


@pytest.mark.parametrize("is_legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state_dict, is_legacy, share):
    path = tmp_path / "model.pth"
    torch.save(state_dict, path, _use_new_zipfile_serialization=not is_legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"is no complete PyTorch file|is no PyTorch file"):
        open_weights(path).read_state_dict()


@pytest.mark.parametrize("content", [b"cat\ndog\n", b"PK\x03\x04" + b"\0" * 100, b"\x80\x02}." * 3, b"\0" * 1000])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        open_weights(path).read_state_dict()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, state_dict):
    torch.save(state_dict, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "model.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match=r"is a compressed archive, which torch\.save does not write"):
        open_weights(tmp_path / "model.pth").read_state_dict()


def change(state_dict, **changes):
    return {**state_dict, **{name.replace("__", "."): value for name, value in changes.items()}}


BAD_WEIGHTS = {
    "wrong shape": (
        lambda w: change(w, layer1__0__conv1__weight=torch.zeros(64, 64, 1, 1)),
        r"conv1.weight of resnet18",
    ),
    "transposed head": (lambda w: change(w, fc__weight=torch.zeros(512, 3)), r"fc\.weight of resnet18|fc\.bias of"),
    "flat head": (lambda w: change(w, fc__weight=torch.zeros(3)), "holds no ResNet"),
    "missing": (lambda w: {name: value for name, value in w.items() if name != "fc.bias"}, r"lacks fc\.bias"),
    "integers": (
        lambda w: change(w, fc__bias=torch.zeros(3, dtype=torch.int64)),
        r"plain floats \(3,\), got int64 \(3,\)",
    ),
    "sparse": (lambda w: change(w, fc__weight=torch.zeros(3, 512).to_sparse()), "must be plain floats"),
    "claimed": (lambda w: change(w, fc__weight=torch.zeros(1, 512).expand(3, 512)), "must be plain floats"),
    "huge claim": (
        lambda w: change(w, fc__weight=torch.zeros(1, 1).expand(10**9, 512), fc__bias=torch.zeros(1).expand(10**9)),
        "must be plain floats",
    ),
    "nowhere": (lambda w: change(w, fc__bias=torch.zeros(3, device="meta")), "must be plain floats"),
    "extra": (lambda w: change(w, layer1__0__attention__weight=torch.zeros(3)), r"has layer1\.0\.attention\.weight"),
    "NaN": (
        lambda w: change(w, fc__bias=torch.tensor([0.0, float("nan"), 0.0])),
        r"fc\.bias holds values that are NaN",
    ),
    "infinite": (
        lambda w: change(w, bn1__running_var=torch.full((64,), float("inf"))),
        r"bn1\.running_var holds values",
    ),
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(tmp_path, state_dict, kind):
    make, message = BAD_WEIGHTS[kind]
    torch.save(make(state_dict), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message):
        open_weights(tmp_path / "model.pth").read_state_dict()


@pytest.mark.parametrize("model_name", ["wide_resnet50_2", "resnext50_32x4d"])
def test_relatives_of_resnet_are_refused(model_name):
    from torchvision import models

    with torch.device("meta"):
        weights = models.get_model(model_name, weights=None).state_dict()
    with pytest.raises(WeightsError, match="of resnet50 must be plain floats"):
        check_state_dict(weights)
