"""bf16 on a network that was trained here: the same answers wherever the network is not in doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from infer_resnet.checkpoint import open_weights
from infer_resnet.network import NetworkSource, RuntimeOptions
from infer_resnet.runtimes import open_runtime

NUM_IMAGES = 300
MIN_MARGIN = 0.05
MIN_IMAGES = 200


@dataclass(frozen=True)
class TrainedNetwork:
    """A resnet18 that reads handwritten digits, and digits that it never saw: (N, 3, S, S) uint8."""

    source: NetworkSource
    images: Any
    labels: np.ndarray


@pytest.fixture(scope="module")
def trained_network(trained_run, digits_folder):
    """The network that the tests of the engine trained on 40 digits a class, and those that were not in its folder."""
    import cv2
    from sklearn.datasets import load_digits

    file = open_weights(trained_run)
    metadata = file.metadata
    preprocessing = metadata.preprocessing
    digits = load_digits()
    in_folder = {int(path.stem) for path in digits_folder.rglob("*.png")}
    unseen = [index for index in range(len(digits.target)) if index not in in_folder][:NUM_IMAGES]
    images = []
    for index in unseen:  # as the folder's were made
        pixels = cv2.resize((digits.images[index] * 15.9375).astype(np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
        images.append(preprocessing.prepare(np.repeat(pixels[..., None], 3, axis=2)))

    source = NetworkSource.from_metadata(metadata, file.read_state_dict)
    labels = np.array([metadata.classes.index(str(digits.target[index])) for index in unseen])
    return TrainedNetwork(source, torch.stack(images), labels)


def assert_same_answers(network, runtime):
    """Compare with PyTorch in float32 on the images whose first class leads by more than the margin."""
    expected = open_runtime(network.source, RuntimeOptions("torch"), None).run(network.images).logits
    probabilities = torch.softmax(torch.from_numpy(expected), dim=1).numpy()
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    is_certain = first - second > MIN_MARGIN
    assert (expected.argmax(axis=1) == network.labels).mean() > 0.8  # it has learnt to read
    assert is_certain.sum() >= MIN_IMAGES

    actual = runtime.run(network.images).logits
    is_same = actual.argmax(axis=1) == expected.argmax(axis=1)
    assert is_same[is_certain].mean() >= 0.99
    assert np.abs(actual - expected).max() > 0  # it does compute otherwise


@pytest.mark.parametrize("runtime_name", ["openvino", "torch"])
def test_the_quickest_precision_keeps_the_answers(trained_network, runtime_name):
    runtime = open_runtime(trained_network.source, RuntimeOptions(runtime_name, precision="auto"), None)
    assert_same_answers(trained_network, runtime)
