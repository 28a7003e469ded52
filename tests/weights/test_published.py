"""ImageNet weights: fetched from a stand-in, checked by their hash, kept where torch keeps its own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import models

from resnetkit.weights import published as published_module
from resnetkit.weights.architectures import ARCHITECTURES, PublishedWeights
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.models import initialize_model
from resnetkit.weights.published import fetch_imagenet_weights


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
    monkeypatch.setattr(published_module, "ARCHITECTURES", {"resnet18": architecture})
    monkeypatch.setattr(published_module, "ADDRESS", local_server.url)
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
def test_addresses_are_torchvisions(model_name, monkeypatch, tmp_path):
    asked: list[str] = []

    def record(url: str, **_: object) -> None:
        asked.append(url)
        raise OSError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(published_module, "urlopen", record)
    for weights in models.get_model_weights(model_name):
        with pytest.raises(WeightsError, match="no network in this test"):
            fetch_imagenet_weights(model_name, weights.name)
        assert asked.pop() == weights.url


@pytest.mark.parametrize("variable", ["TORCH_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_folder_is_that_of_torchs_downloads(variable, monkeypatch, tmp_path):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    file_name = ARCHITECTURES["resnet18"].get_weights().file_name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    path.parent.mkdir(parents=True)
    path.touch()
    assert fetch_imagenet_weights("resnet18") == path
    assert tmp_path in path.parents
