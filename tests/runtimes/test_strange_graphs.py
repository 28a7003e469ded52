"""Graph files of strangers: only the operators of a ResNet, of its size, and what the cache keeps of them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as ops

from resnetkit.answers.loader import Loader
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.parameters.inference import InferParameters
from resnetkit.runtimes.choice import RuntimeOptions, open_runtime
from resnetkit.runtimes.openvino_graph import _read_graph, build_graph, save_graph
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
from resnetkit.weights.checkpoint import open_weights, read_metadata
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import METADATA_KEY, ModelMetadata

METADATA = ModelMetadata("resnet18", ("cat", "dog", "fish"), Preprocessing(64, 64, "crop", IMAGENET_MEAN, IMAGENET_STD))


def make_model(nodes, initializers=(), outputs=("logits", "feature_map", "pooled")):
    """An ONNX model with our metadata: the input `images`, and whatever stands between it and the outputs."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, METADATA.to_strings())
    return model


def make_small_model(bias=(0.0, 1.0, 2.0)):
    """The least that counts as one of ours: one convolution, the mean, one matrix."""
    random = np.random.default_rng(0)
    return make_model(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["floats", "kernel"], ["feature_map"], strides=[32, 32]),
            helper.make_node("ReduceMean", ["feature_map", "axes"], ["pooled"], keepdims=0),
            helper.make_node("Gemm", ["pooled", "head", "bias"], ["logits"], transB=1),
        ],
        [
            numpy_helper.from_array(random.normal(size=(8, 3, 7, 7)).astype(np.float32) / 100, "kernel"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(random.normal(size=(3, 8)).astype(np.float32), "head"),
            numpy_helper.from_array(np.array(bias, np.float32), "bias"),
        ],
    )


def classify(loader, path):
    values = InferParameters().updated({"model_weight_file": path, "runtime": "openvino"})
    image = np.full((64, 64, 3), 100, np.uint8)
    return loader.load(values).predict([image])[0].probabilities


def test_metadata_of_an_onnx_file_is_read_without_any_library(tmp_path, run_script):
    from pathlib import Path

    onnx.save(make_small_model(), tmp_path / "model.onnx")
    assert read_metadata(tmp_path / "model.onnx") == METADATA
    code = """
import sys
from pathlib import Path
from resnetkit.weights.checkpoint import read_metadata
print(read_metadata(Path(sys.argv[1])).model_name, {"openvino", "onnx", "torch"} & set(sys.modules))
"""
    root = str(Path(__file__).resolve().parents[2])
    assert run_script(code, arguments=[str(tmp_path / "model.onnx")], PYTHONPATH=root).output == "resnet18 set()\n"
    assert classify(Loader(), tmp_path / "model.onnx").shape == (3,)


def loop():
    body = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["again"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, [])],
    )
    count = numpy_helper.from_array(np.array(10**12), "count")
    return make_model([helper.make_node("Loop", ["count", ""], [], body=body)], [count])


def expand():
    shape = numpy_helper.from_array(np.array([10**6, 10**6]), "shape")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    return make_model([helper.make_node("Expand", ["one", "shape"], ["logits"])], [shape, one])


def claim():
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=b"1234")
    return make_model([helper.make_node("Identity", ["huge"], ["logits"])], [tensor])


def custom():
    return make_model([helper.make_node("Relu", ["images"], ["logits"], domain="com.example")])


def function():
    model = make_small_model()
    model.functions.append(
        helper.make_function("here", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    )
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (loop, "holds graphs inside of operators|has the operator 'Loop'"),
        (expand, "has the operator 'Expand'"),
        (claim, "holds a constant of 1000000000000 values in 4 bytes"),
        (custom, r"has the operator 'com\.example\.Relu'"),
        (function, "holds functions"),
    ],
    ids=["loop", "expand", "claim", "custom", "function"],
)
def test_an_onnx_file_of_other_operators_is_refused_before_it_is_loaded(tmp_path, make, message):
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(WeightsError, match=message) as caught:
        open_weights(tmp_path / "model.onnx")
    assert str(tmp_path / "model.onnx") in str(caught.value)


@pytest.mark.parametrize("pads", [[10**5] * 4, [10**9] * 4])
def test_paddings_that_explode_are_refused(tmp_path, pads):
    model = make_small_model()
    model.graph.node[1].attribute.append(helper.make_attribute("pads", pads))
    del model.graph.node[1].attribute[0]
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"more than any ResNet does|cannot be read by OpenVINO"):
        classify(Loader(), tmp_path / "model.onnx")


@pytest.mark.parametrize("operator", ["Add", "MatMul"])
def test_constants_that_explode_when_they_are_worked_out_are_refused(tmp_path, operator):
    column, row = np.zeros((30_000, 1), np.float32), np.zeros((1, 30_000), np.float32)
    model = make_small_model()
    model.graph.initializer.extend([numpy_helper.from_array(column, "column"), numpy_helper.from_array(row, "row")])
    model.graph.node.append(helper.make_node(operator, ["column", "row"], ["square"]))
    model.graph.node.append(helper.make_node("ReduceMean", ["square"], ["mean"]))
    model.graph.node[-3].output[0] = "plain"
    model.graph.node.append(helper.make_node("Add", ["plain", "mean"], ["logits"]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"makes \[30000, 30000\] values, more than any ResNet does"):
        classify(Loader(), tmp_path / "model.onnx")


def test_a_batch_that_explodes_is_refused(tmp_path):
    model = make_small_model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((10**6, 1, 1, 1), np.float32), "many"))
    model.graph.node[1].output[0] = "plain"
    model.graph.node.insert(2, helper.make_node("Add", ["plain", "many"], ["feature_map"]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"makes \[1000000, 8, \d+, \d+\] values"):
        classify(Loader(), tmp_path / "model.onnx")


def test_the_size_of_a_last_layer_is_no_explosion(tmp_path):
    model = make_small_model()
    head = numpy_helper.from_array(np.zeros((2_000_000, 8), np.int8), "head")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    model.graph.initializer[2].CopyFrom(head)
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.zeros(2_000_000, np.float32), "bias"))
    model.graph.initializer.append(scale)
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["head", "scale"], ["weights"]))
    model.graph.node[-1].input[1] = "weights"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    graph = _read_graph(tmp_path / "model.onnx", 64)
    assert graph.output("logits").get_partial_shape()[1].get_length() == 2_000_000


def test_very_many_operators_are_refused(tmp_path):
    names = ["images", *(f"copy{index}" for index in range(20_001))]
    nodes = [helper.make_node("Identity", [first], [second]) for first, second in pairwise(names)]
    (tmp_path / "model.onnx").write_bytes(make_model(nodes).SerializeToString())
    layers = '<layer type="ReLU"/>' * 20_001
    (tmp_path / "model.xml").write_text(f"<net>{layers}</net>", encoding="utf-8")
    (tmp_path / "model.bin").write_bytes(b"")
    for name in ("model.onnx", "model.xml"):
        with pytest.raises(WeightsError, match="has more than 20000 operators"):
            open_weights(tmp_path / name)


def test_an_xml_file_of_very_many_elements_is_not_read(tmp_path):
    (tmp_path / "model.xml").write_bytes(b"<net>" + b"<a>" * 3_000_000 + b"</a>" * 3_000_000 + b"</net>")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="more than the 16000000 that are read"):
        open_weights(tmp_path / "model.xml")


def test_an_openvino_file_of_other_operators_is_refused(tmp_path):
    given = ops.parameter([-1, 3, 64, 64], np.uint8, name="images")
    tiled = ops.tile(given, ops.constant([1, 1, 10**5, 10**5], np.int64))
    graph = ov.Model([ops.result(tiled)], [given], "tile")
    graph.set_rt_info(METADATA.to_strings()[METADATA_KEY], [METADATA_KEY])
    ov.save_model(graph, tmp_path / "model.xml")
    with pytest.raises(WeightsError, match="has the operator 'Tile', which no ResNet has"):
        open_weights(tmp_path / "model.xml")


def test_random_damage_of_an_onnx_file_raises_nothing_else(tmp_path):
    content, random = make_small_model().SerializeToString(), np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(0, len(content))] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            open_weights(path)
        except WeightsError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most damage is in weights, where nobody can see it


@pytest.fixture
def with_external_data(tmp_path):
    """Write `model.onnx`, whose weights lie in `weights.data`, with this bias."""

    def write(bias):
        (tmp_path / "weights.data").unlink(missing_ok=True)
        onnx.save_model(
            make_small_model(bias), tmp_path / "model.onnx", save_as_external_data=True, location="weights.data",
            size_threshold=0,
        )  # fmt: skip
        return tmp_path / "model.onnx"

    return write


def test_external_data_are_part_of_the_content(with_external_data, tmp_path):
    path = with_external_data((0.0, 1.0, 2.0))
    graph, first = path.read_bytes(), open_weights(path).content_hash
    loader = Loader()
    before = classify(loader, path)
    with_external_data((9.0, 0.0, 0.0))
    assert path.read_bytes() == graph
    assert open_weights(path).content_hash != first
    after = classify(Loader(), path)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(classify(loader, path), after, atol=1e-6)


@pytest.mark.parametrize("location", ["../weights.data", "/etc/passwd", "missing.data", ""])
def test_external_data_elsewhere_are_refused(with_external_data, tmp_path, location):
    path = with_external_data((0.0, 1.0, 2.0))
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="save it as one file"):
        open_weights(path)


def test_a_graph_that_is_replaced_between_hashing_and_reading_is_not_kept(make_network, tmp_path):
    source = make_network().source
    weights = source.read_state_dict()
    other = {**weights, "fc.bias": weights["fc.bias"] + 1}
    metadata = replace(METADATA, classes=tuple(map(str, range(1000))))
    path = tmp_path / "model.xml"
    save_graph(build_graph(source), path, metadata)
    file = open_weights(path)
    graph = replace(source, graph_path=path, content_hash=file.content_hash, check_unchanged=file.check_unchanged)
    save_graph(build_graph(replace(source, read_state_dict=lambda: other)), path, metadata)
    with pytest.raises(WeightsError, match="was replaced while it was being loaded"):
        open_runtime(graph, RuntimeOptions("openvino"), tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_exported_metadata_survive_as_they_are(tmp_path):
    onnx.save(make_small_model(), tmp_path / "model.onnx")
    (entry,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert json.loads(entry.value)["classes"] == ["cat", "dog", "fish"]
