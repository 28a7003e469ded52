"""bf16 and int8 on a network that was trained here: the same answers wherever the network is not in doubt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnetkit.exports.quantization import MAX_CALIBRATION_IMAGES, quantize_graph
from resnetkit.images.reading import read_image
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, RuntimeOptions
from resnetkit.runtimes.openvino_graph import build_graph, save_graph
from resnetkit.weights.checkpoint import open_weights

MIN_MARGIN = 0.05
MIN_IMAGES = 200


@dataclass(frozen=True)
class TrainedNetwork:
    """A resnet18 that reads handwritten digits, digits that it never saw, and some that it was trained on.

    Images are (N, 3, S, S) uint8.
    """

    metadata: Any
    source: NetworkSource
    images: Any
    labels: np.ndarray
    training_images: Any


@pytest.fixture(scope="module")
def trained_network(digit_reader):
    file = open_weights(digit_reader.folder)
    metadata = file.metadata
    unseen = [Path(path) for path in np.load(digit_reader.folder / "predictions.npz")["test_paths"]]
    trained_on = sorted(unseen[0].parents[2].glob("train/*/*.png"))
    chosen = np.linspace(0, len(trained_on) - 1, MAX_CALIBRATION_IMAGES).round().astype(int)  # of all classes
    images, training_images = (
        torch.from_numpy(np.stack([metadata.preprocessing.prepare(read_image(path)) for path in paths]))
        for paths in (unseen, [trained_on[index] for index in chosen])
    )
    source = NetworkSource.from_metadata(metadata, file.read_state_dict)
    labels = np.array([metadata.classes.index(path.parent.name) for path in unseen])
    return TrainedNetwork(metadata, source, images, labels, training_images)


def assert_same_answers(network, runtime):
    """Compare with PyTorch in float32 on the images whose first class leads by more than the margin."""
    expected = open_runtime(network.source, RuntimeOptions("torch"), None).run(network.images).logits
    probabilities = torch.softmax(torch.from_numpy(expected), dim=1).numpy()
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    is_certain = first - second > MIN_MARGIN
    assert (expected.argmax(axis=1) == network.labels).mean() >= 0.95  # it has learnt to read
    assert is_certain.sum() >= MIN_IMAGES

    actual = runtime.run(network.images).logits
    is_same = actual.argmax(axis=1) == expected.argmax(axis=1)
    assert is_same[is_certain].mean() >= 0.99
    # It does compute otherwise, unless the CPU has nothing quicker than fp32.
    assert np.abs(actual - expected).max() > 0 or runtime.precision == "fp32"


@pytest.mark.parametrize("runtime_name", ["openvino", "torch"])
def test_the_quickest_precision_keeps_the_answers(trained_network, runtime_name):
    runtime = open_runtime(trained_network.source, RuntimeOptions(runtime_name, precision="auto"), None)
    assert_same_answers(trained_network, runtime)


def test_int8_keeps_the_answers(trained_network, tmp_path):
    quantized = quantize_graph(build_graph(trained_network.source), trained_network.training_images)
    save_graph(quantized, tmp_path / "int8.xml", trained_network.metadata)
    source = replace(trained_network.source, graph_path=tmp_path / "int8.xml")
    runtime = open_runtime(source, RuntimeOptions("openvino"), None)
    assert runtime.precision == "int8"
    assert_same_answers(trained_network, runtime)
