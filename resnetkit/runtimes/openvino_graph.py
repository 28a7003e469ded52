"""The network as an OpenVINO graph, built from a state dict: no PyTorch tracing, no torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from resnetkit.formats.graph_file import MAX_BYTES, read_graph_file
from resnetkit.formats.tensors import FormatError
from resnetkit.machine.files import atomic_path, read_file
from resnetkit.machine.imports import lean_openvino
from resnetkit.runtimes.network import NetworkSource, summarize_error
from resnetkit.weights.architectures import ARCHITECTURES, Architecture
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import METADATA_KEY, ModelMetadata

with lean_openvino():
    import openvino as ov
    from openvino import opset13 as ops

#: Part of the cache's key: raise it when the same weights come to mean another graph.
GRAPH_VERSION = 1
#: Names of the outputs of every graph, in order.
OUTPUT_NAMES = ("logits", "feature_map", "pooled")

#: Of one image, that a layer may make of each pixel: resnet152 with the small-image stem makes 256; and of any image.
_MAX_VALUES_PER_PIXEL = 1024
_MAX_VALUES = 10_000_000

#: torchvision's batch normalization adds it to the variance.
_EPSILON = 1e-5

Arrays: TypeAlias = Mapping[str, np.ndarray]


def build_graph(source: NetworkSource) -> ov.Model:
    """Return the graph of a network: input `images` (N, 3, S, S) uint8, outputs named as OUTPUT_NAMES.

    A graph file is read as it is; a state dict becomes a graph of the same arithmetic as torchvision's, with the
    batch normalizations folded into the convolutions.

    Raises:
        WeightsError: The file cannot be read, or is no graph that train_resnet wrote.
    """
    if source.graph_path is not None:
        return _read_graph(source.graph_path, source.input_size)
    arrays = source.read_arrays()
    images = ops.parameter([-1, 3, source.input_size, source.input_size], np.uint8, name="images")
    normalized = _normalize(images, source.mean, source.std)
    feature_map = _add_stages(normalized, arrays, ARCHITECTURES[source.model_name], source.small_input_stem)
    pooled = ops.reduce_mean(feature_map, ops.constant([2, 3], np.int64), keep_dims=False)  # (N, C)
    product = ops.matmul(pooled, _constant(arrays["fc.weight"]), False, True)
    logits = ops.add(product, _constant(arrays["fc.bias"][None]))  # (N, classes)

    images.output(0).set_names({"images"})
    results = []
    for name, node in zip(OUTPUT_NAMES, (logits, feature_map, pooled), strict=True):
        node.output(0).set_names({name})
        results.append(ops.result(node, name=name))
    return ov.Model(results, [images], source.model_name)


def save_graph(graph: ov.Model, path: Path, metadata: ModelMetadata) -> None:
    """Write a graph with its metadata as `<name>.xml` and `<name>.bin`, in float32 (or the int8 that it holds)."""
    graph.set_rt_info(metadata.to_strings()[METADATA_KEY], [METADATA_KEY])
    for key, text in metadata.to_plain_strings().items():
        graph.set_rt_info(text, ["model_info", key])
    with atomic_path(path) as xml, atomic_path(path.with_suffix(".bin")) as binary:
        try:
            ov.save_model(graph, xml, compress_to_fp16=False)
            xml.with_suffix(".bin").replace(binary)
        except RuntimeError as error:
            if "iostream" not in str(error):
                raise
            # OpenVINO keeps the reason to itself.
            raise OSError("OpenVINO cannot write it; perhaps there is no space left on the disk") from error
        finally:
            xml.with_suffix(".bin").unlink(missing_ok=True)


def read_head_weights(source: NetworkSource) -> np.ndarray:
    """Return the last layer's weights, (num_classes, channels) float32.

    Raises:
        WeightsError: The source cannot be read, or the logits of its graph come from no matrix product.
    """
    if source.graph_path is None:
        return np.array(source.read_arrays()["fc.weight"])
    result = _read_graph(source.graph_path, source.input_size).output("logits").get_node()
    node = result.input_value(0).get_node()
    factor = np.float32(1)
    while node.get_type_name() in ("Add", "Multiply"):  # the bias, and the alpha of ONNX's Gemm
        first, second = (value.get_node() for value in node.input_values())
        if node.get_type_name() == "Multiply" and second.get_type_name() == "Constant":
            factor = factor * np.asarray(second.data, np.float32)
        node = first
    if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
        raise WeightsError(f"weights file '{source.graph_path}': its last layer is no product with constant weights")
    array = factor * np.array(node.input_value(1).get_node().data, np.float32)
    return array if node.get_attributes()["transpose_b"] else array.T


def is_quantized(path: Path) -> bool:
    """Tell whether a graph file, which exists, computes in int8."""
    return path.suffix.lower() == ".xml" and b'type="FakeQuantize"' in path.read_bytes()


def _read_graph(path: Path, input_size: int) -> ov.Model:
    try:
        graph = _read_model(path)
        names = {name for output in graph.outputs for name in output.get_names()}
        missing = [name for name in OUTPUT_NAMES if name not in names]
        if missing or len(graph.inputs) != 1 or graph.input().get_element_type() != ov.Type.u8:
            raise WeightsError(
                f"weights file '{path}' is no graph of train_resnet; expected one uint8 input and the outputs "
                f"{', '.join(OUTPUT_NAMES)}, got {len(graph.inputs)} inputs and {', '.join(sorted(names)) or 'none'}"
            )
        graph.reshape([-1, 3, input_size, input_size])
    except RuntimeError as error:
        raise WeightsError(f"weights file '{path}' cannot be read by OpenVINO ({summarize_error(error)})") from error
    _check_sizes(graph, path, input_size)
    return graph


def _read_model(path: Path) -> ov.Model:
    """Read a graph file into memory; nothing stays mapped of it.

    Raises:
        WeightsError: It has other operators than a ResNet, or cannot be read.
        RuntimeError: OpenVINO refuses it.
    """
    core = ov.Core()
    try:
        file = read_graph_file(path)
        if path.suffix.lower() == ".xml":
            binary = np.frombuffer(read_file(path.with_suffix(".bin"), MAX_BYTES), np.uint8)
            return core.read_model(file.content, ov.Tensor(binary))
        if not file.side_files:
            return core.read_model(file.content, b"")
        core.set_property({"ENABLE_MMAP": False})
        return core.read_model(path)
    except OSError as error:
        raise WeightsError(f"weights file '{path}' cannot be read ({error.strerror or error})") from error
    except FormatError as error:
        raise WeightsError(f"weights file '{path}' {error}") from error


def _check_sizes(graph: ov.Model, path: Path, input_size: int) -> None:
    """Refuse what blows up an image, such as paddings, or small constants into a large one, which compiling works out.

    No layer has more values than a wide stem without pooling, or than the largest constant, which it may be made of.
    """
    constants = [node for node in graph.get_ops() if node.get_type_name() == "Constant"]
    largest = max((math.prod(node.output(0).get_shape()) for node in constants), default=0)
    limit = max(_MAX_VALUES_PER_PIXEL * input_size**2 + _MAX_VALUES, largest)
    for node in graph.get_ops():
        if node.get_type_name() == "Constant":
            continue
        for output in node.outputs():
            sizes = [size.get_max_length() for size in output.get_partial_shape()]
            if sizes and sizes[0] < 0:  # the images of a batch
                sizes = sizes[1:]
            if any(size < 0 for size in sizes) or math.prod(sizes) > limit:
                raise WeightsError(
                    f"weights file '{path}': its layer '{node.get_friendly_name()[:60]}' makes {sizes} values, more "
                    "than any ResNet does of an image"
                )


def _constant(array: np.ndarray) -> ov.Node:
    """Wrap an array without copying it; the graph keeps it alive."""
    return ov.op.Constant(np.ascontiguousarray(array), shared_memory=True)


def _normalize(images: ov.Node, mean: tuple[float, float, float], std: tuple[float, float, float]) -> ov.Node:
    offset = np.float32(255) * np.array(mean, np.float32).reshape(1, 3, 1, 1)
    scale = 1 / (255 * np.array(std, np.float64).reshape(1, 3, 1, 1))
    centred = ops.subtract(ops.convert(images, "f32"), _constant(offset))
    return ops.multiply(centred, _constant(scale.astype(np.float32)))


def _add_stages(x: ov.Node, arrays: Arrays, architecture: Architecture, small_input_stem: bool) -> ov.Node:
    """Append the stem and the four stages; returns the feature map."""
    if small_input_stem:
        x = ops.relu(_add_conv(x, arrays, "conv1", stride=1))
    else:
        x = ops.relu(_add_conv(x, arrays, "conv1", stride=2))
        x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)

    add_block = _add_basic_block if architecture.block == "basic" else _add_bottleneck
    for stage, depth in enumerate(architecture.depths, start=1):
        for index in range(depth):
            stride = 2 if stage > 1 and index == 0 else 1
            x = add_block(x, arrays, f"layer{stage}.{index}", stride)
    return x


def _add_basic_block(x: ov.Node, arrays: Arrays, name: str, stride: int) -> ov.Node:
    y = ops.relu(_add_conv(x, arrays, f"{name}.conv1", stride))
    y = _add_conv(y, arrays, f"{name}.conv2")
    return ops.relu(ops.add(y, _add_shortcut(x, arrays, name, stride)))


def _add_bottleneck(x: ov.Node, arrays: Arrays, name: str, stride: int) -> ov.Node:
    # The stride is on the 3x3 convolution, as in torchvision ("ResNet v1.5"), not on the first as in the paper.
    y = ops.relu(_add_conv(x, arrays, f"{name}.conv1"))
    y = ops.relu(_add_conv(y, arrays, f"{name}.conv2", stride))
    y = _add_conv(y, arrays, f"{name}.conv3")
    return ops.relu(ops.add(y, _add_shortcut(x, arrays, name, stride)))


def _add_shortcut(x: ov.Node, arrays: Arrays, name: str, stride: int) -> ov.Node:
    if f"{name}.downsample.0.weight" not in arrays:
        return x
    return _add_conv(x, arrays, f"{name}.downsample.0", stride)


def _add_conv(x: ov.Node, arrays: Arrays, name: str, stride: int = 1) -> ov.Node:
    """Append a convolution and the batch normalization that follows it, as one."""
    weight = arrays[f"{name}.weight"]  # (out, in, k, k)
    norm = _get_norm_name(name)
    deviation = np.sqrt(arrays[f"{norm}.running_var"].astype(np.float64) + _EPSILON)
    scale = arrays[f"{norm}.weight"] / deviation
    shift = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * scale

    folded = (weight * scale[:, None, None, None]).astype(np.float32)
    padding = [weight.shape[-1] // 2] * 2
    y = ops.convolution(x, _constant(folded), [stride] * 2, padding, padding, [1, 1])
    return ops.add(y, _constant(shift.astype(np.float32)[None, :, None, None]))


def _get_norm_name(conv_name: str) -> str:
    """Return the batch normalization behind a convolution: bn1 of conv1, downsample.1 of downsample.0."""
    if conv_name.endswith("downsample.0"):
        return f"{conv_name[:-1]}1"
    return conv_name.replace("conv", "bn")
