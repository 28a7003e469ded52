"""Graph files: written with metadata, read back, and refused where they are something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.runtimes.choice import RuntimeOptions, open_runtime
from resnetkit.runtimes.openvino_graph import OUTPUT_NAMES, build_graph, is_quantized, save_graph
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
from resnetkit.weights.checkpoint import read_metadata
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import ModelMetadata

METADATA = ModelMetadata(
    "resnet18",
    ('an "egg" & <ham>', "naïve 猫", "tab\tnew\nline", "it's", *(f"class {index}" for index in range(4, 1000))),
    Preprocessing(64, 64, "crop", IMAGENET_MEAN, IMAGENET_STD),
    training={"epochs": 3},
)


@pytest.fixture(scope="module")
def graph_path(make_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "resnet18.xml"
    save_graph(build_graph(make_network().source), path, METADATA)
    return path


def test_the_graph_has_the_input_and_outputs_that_it_promises(make_network):
    graph = build_graph(make_network().source)
    assert [output.get_any_name() for output in graph.outputs] == list(OUTPUT_NAMES)
    assert graph.input().get_names() == {"images"}
    assert graph.input().get_element_type() == ov.Type.u8
    assert graph.input().get_partial_shape() == ov.PartialShape([-1, 3, 64, 64])
    assert graph.output("feature_map").get_partial_shape() == ov.PartialShape([-1, 512, 2, 2])


def test_metadata_survives_the_file(graph_path):
    assert read_metadata(graph_path) == METADATA
    assert sorted(path.name for path in graph_path.parent.iterdir()) == ["resnet18.bin", "resnet18.xml"]


def test_a_file_gives_the_same_answers(make_network, graph_path, tmp_path):
    network = make_network()
    source = replace(network.source, graph_path=graph_path, read_state_dict=None)
    for _ in range(2):  # compiled, then from the cache
        runtime = open_runtime(source, RuntimeOptions(), tmp_path)
        output = runtime.run(network.images, with_features=True)
        np.testing.assert_allclose(output.logits, network.outputs[0], atol=1e-5)
        np.testing.assert_allclose(output.pooled, network.outputs[2], atol=1e-5)
        np.testing.assert_allclose(runtime.read_head_weights(), network.model.fc.weight.detach().numpy())
    assert runtime.precision == "fp32"
    assert not is_quantized(graph_path)


def test_a_file_runs_at_another_input_size(make_network, graph_path):
    large, small = make_network("resnet18", 96), make_network()
    source = replace(small.source, graph_path=graph_path, input_size=96)
    built = open_runtime(replace(small.source, input_size=96), RuntimeOptions(), None).run(large.images)
    read = open_runtime(source, RuntimeOptions(), None).run(large.images)
    np.testing.assert_allclose(read.logits, built.logits, atol=1e-5)


def test_an_onnx_file_gives_the_same_answers(make_network, tmp_path):
    """The graph that PyTorch's exporter writes, with names and normalization as train_resnet gives them."""
    network = make_network()
    path = tmp_path / "model.onnx"
    export_onnx(network, path)
    source = replace(network.source, graph_path=path, read_state_dict=None)
    runtime = open_runtime(source, RuntimeOptions(), tmp_path)
    output = runtime.run(network.images, with_features=True)
    assert difference(output.logits, network.outputs[0]) < 1e-4
    assert difference(output.feature_map, network.outputs[1]) < 1e-4
    np.testing.assert_allclose(runtime.read_head_weights(), network.model.fc.weight.detach().numpy())


def difference(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def export_onnx(network, path):
    import warnings

    import torch

    class Exported(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network.model

        def forward(self, images):
            model = self.model
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            x = model.maxpool(model.relu(model.bn1(model.conv1((images.float() / 255 - mean) / std))))
            feature_map = model.layer4(model.layer3(model.layer2(model.layer1(x))))
            pooled = torch.flatten(model.avgpool(feature_map), 1)
            return model.fc(pooled), feature_map, pooled

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Exported().eval(),
            (network.images[:2],),
            path,
            input_names=["images"],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )


@pytest.mark.parametrize("kind", ["missing", "text", "cut off", "foreign", "no bin"])
def test_a_file_that_is_no_graph_of_ours_is_an_error_that_names_it(make_network, graph_path, tmp_path, kind):
    path = tmp_path / "model.xml"
    if kind == "text":
        path.write_text("hello")
    elif kind == "cut off":
        path.write_bytes(graph_path.read_bytes()[:2000])
    elif kind == "no bin":
        path.write_bytes(graph_path.read_bytes())
    elif kind == "foreign":
        parameter = ops.parameter([1, 4], np.float32)
        ov.save_model(ov.Model([ops.relu(parameter)], [parameter]), path)
    source = replace(make_network().source, graph_path=path)
    with pytest.raises(WeightsError, match=r"weights file '.*model.xml'"):
        open_runtime(source, RuntimeOptions(), None)


def test_a_failed_write_leaves_the_old_files_and_no_others(make_network, graph_path, tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    path.write_text("old")

    def fail(*_, **__):
        raise RuntimeError("disk is full")

    monkeypatch.setattr(ov, "save_model", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        save_graph(build_graph(make_network().source), path, METADATA)
    assert [file.name for file in tmp_path.iterdir()] == ["model.xml"]
    assert path.read_text() == "old"
