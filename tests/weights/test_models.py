"""Networks: built, initialized, frozen, given a head; ImageNet weights fetched from a stand-in, and checked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import models

from resnetkit.weights.architectures import ARCHITECTURES, PublishedWeights
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.models import (
    add_counters,
    build_model,
    fetch_imagenet_weights,
    initialize_head,
    initialize_model,
    load_model,
)


@pytest.mark.parametrize("model_name", ARCHITECTURES)
def test_a_built_model_has_torchvisions_names_and_takes_no_memory(model_name):
    with torch.device("meta"):
        expected = models.get_model(model_name, weights=None, num_classes=7).state_dict()
    found = build_model(model_name, 7).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
    assert all(value.is_meta for value in found.values())


def test_a_loaded_model_shares_its_tensors_and_answers_as_the_original():
    original = initialize_model("resnet18", 3, seed=0, small_input_stem=True).eval()
    state_dict = {name: value for name, value in original.state_dict().items() if "num_batches" not in name}
    model = load_model("resnet18", state_dict, small_input_stem=True)
    assert not model.training
    assert model.fc.weight.data_ptr() == state_dict["fc.weight"].data_ptr()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), original(images))


@pytest.mark.parametrize("small_input_stem", [False, True])
def test_initialization_depends_on_the_seed_alone(small_input_stem):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        initialize_model("resnet18", 3, seed, small_input_stem).state_dict()["conv1.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(1), expected)  # the global state is as it was
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_new_head_has_its_outputs_and_depends_on_the_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (initialize_head(512, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # the global state is as it was
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == {"fc.weight": (3, 512), "fc.bias": (3,)}
    assert torch.equal(first["fc.weight"], again["fc.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_counters_are_added_where_they_are_missing_and_load_strictly():
    original = initialize_model("resnet18", 3, seed=0).state_dict()
    original["bn1.num_batches_tracked"] += 7
    counted = {name: value for name, value in original.items() if "num_batches" not in name or name.startswith("bn1")}
    completed = add_counters(counted)
    assert completed.keys() == original.keys()
    assert all(torch.equal(completed[name], value) for name, value in original.items())


@pytest.fixture
def published(local_server, monkeypatch, tmp_path):
    """Publish a seeded resnet18 on the local server in place of torchvision's; returns its file there.

    Only the address and the hash are replaced. Torch's cache is an empty folder.
    """
    torch.save(initialize_model("resnet18", 1000, seed=0).state_dict(), tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (local_server.folder / name).write_bytes(content)
    architecture = replace(ARCHITECTURES["resnet18"], weights=(PublishedWeights("IMAGENET1K_V1", name, 256),))
    monkeypatch.setattr("resnetkit.weights.models.ARCHITECTURES", {"resnet18": architecture})
    reference = models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(
        models.ResNet18_Weights.IMAGENET1K_V1, "_value_", replace(reference, url=f"{local_server.url}/{name}")
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return local_server.folder / name


def test_imagenet_weights_are_downloaded_once(published, tmp_path):
    path = fetch_imagenet_weights("resnet18")
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / published.name
    assert path.read_bytes() == published.read_bytes()
    published.unlink()
    assert fetch_imagenet_weights("resnet18", "IMAGENET1K_V1") == path


def test_a_wrong_hash_fails_and_leaves_nothing(published, tmp_path):
    published.write_bytes(published.read_bytes() + b"!")
    with pytest.raises(WeightsError, match="invalid hash value"):
        fetch_imagenet_weights("resnet18")
    assert not list((tmp_path / "torch").rglob("*.*"))


def test_without_network_the_message_says_what_to_do(published, tmp_path):
    published.unlink()
    with pytest.raises(WeightsError) as caught:
        fetch_imagenet_weights("resnet18")
    message = str(caught.value)
    assert published.name in message
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in message
    assert "without network, put the file there, or set 'model_weight_file'" in message


def test_a_cache_folder_that_cannot_be_made_is_an_error(published, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="could not be downloaded"):
        fetch_imagenet_weights("resnet18")


def test_weights_that_were_never_published_are_refused():
    with pytest.raises(WeightsError, match="IMAGENET1K_V2 do not exist for resnet34"):
        fetch_imagenet_weights("resnet34", "IMAGENET1K_V2")


@pytest.mark.parametrize("model_name", ARCHITECTURES)
def test_the_address_is_torchvisions(model_name, monkeypatch, tmp_path):
    asked: list[tuple[str, str]] = []

    def record(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", record)
    for weights in models.get_model_weights(model_name):
        assert isinstance(fetch_imagenet_weights(model_name, weights.name), Path)
        assert asked.pop() == (weights.url, weights.url.rsplit("-")[-1].removesuffix(".pth"))
