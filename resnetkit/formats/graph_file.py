"""Files of whole networks, ONNX and OpenVINO: what they say about themselves, and whether they may be run.

Only the operators of a ResNet are let through, before any library reads the file: a loop of 10^12 steps, or a constant
that is made by repeating a small one, costs the reader's time and memory. ONNX files are protocol buffers, see
onnx/onnx.proto; of these no more is understood here than where operators, constants and metadata are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from resnetkit.formats.tensors import FormatError
from resnetkit.machine.files import read_file

#: More than any ResNet with the names of its classes.
MAX_BYTES = 2 << 30
#: Of an .xml file, whose constants are elsewhere; of its elements or those of an .onnx file, a ResNet-152 in int8 has
#: some thousand.
_MAX_XML_BYTES, _MAX_OPERATORS = 16_000_000, 20_000

#: Of ONNX. None gives more values than it gets, but for the paddings of Conv and MaxPool, see `openvino_graph`.
_ONNX_OPERATORS = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Constant", "Conv", "DequantizeLinear", "Div",
        "Flatten", "Gemm", "GlobalAveragePool", "Identity", "MatMul", "MaxPool", "Mul", "QuantizeLinear", "ReduceMean",
        "Relu", "Reshape", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
#: The same of OpenVINO, which calls constants Const in its files.
_OPENVINO_OPERATORS = frozenset(
    {
        "Add", "AvgPool", "BatchNormInference", "Clamp", "Const", "Convert", "Convolution", "Divide", "FakeQuantize",
        "MatMul", "MaxPool", "Multiply", "Parameter", "ReduceMean", "ReLU", "Reshape", "Result", "SoftMax", "Softmax",
        "Squeeze", "Subtract", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


@dataclass(frozen=True)
class GraphFile:
    """A whole network that may be run.

    Attributes:
        path: The .onnx or .xml file.
        content: Its bytes.
        side_files: Other files that hold its constants: the .bin of an .xml, the external data of an .onnx.
        metadata: What it says about itself, by key.
    """

    path: Path
    content: bytes
    side_files: tuple[Path, ...]
    metadata: dict[str, str]


def read_graph_file(path: Path) -> GraphFile:
    """Read a .onnx or .xml file and look at what it is made of.

    Raises:
        FormatError: It is damaged, or holds more than the operators of a ResNet.
        OSError: It cannot be read.
    """
    if path.suffix.lower() == ".xml":
        return _read_xml(path, read_file(path, _MAX_XML_BYTES))
    return _read_onnx(path, read_file(path, MAX_BYTES))


def _read_xml(path: Path, content: bytes) -> GraphFile:
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"cannot be read by OpenVINO (it is no XML: {error})") from error
    layers = list(root.iter("layer"))
    _check_count(len(layers))
    for layer in layers:
        if layer.get("type") not in _OPENVINO_OPERATORS:
            raise FormatError(_explain_operator(str(layer.get("type"))))
    elements = [*root.iterfind("rt_info/framework/*"), *root.iterfind("rt_info/*")]  # those of an ONNX file; its own
    metadata = {element.tag: value for element in elements if (value := element.get("value"))}
    return GraphFile(path, content, (path.with_suffix(".bin"),), metadata)


def _read_onnx(path: Path, content: bytes) -> GraphFile:
    metadata: dict[str, str] = {}
    locations: dict[str, int] = {}
    try:
        for number, value in _read_fields(memoryview(content)):
            if number == 7:  # graph
                _check_graph(value, locations)
            elif number == 14:  # metadata_props
                key, text = _read_entry(value)
                metadata[key] = text
            elif number == 25:  # functions
                raise FormatError("holds functions, which the graph of a ResNet does not need")
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("is no ONNX file, or was cut off; it cannot be read by OpenVINO") from error
    files = tuple(_locate(path, text, count) for text, count in locations.items())
    return GraphFile(path, content, files, metadata)


def _check_graph(graph: memoryview, locations: dict[str, int]) -> None:
    count = 0
    for number, value in _read_fields(graph):
        if number == 1:
            count += 1
            _check_count(count)
            _check_node(value, locations)
        elif number == 5:  # initializer
            _check_tensor(value, locations)
        elif number == 15:
            raise FormatError("holds sparse constants, which no ResNet needs")


def _check_node(node: memoryview, locations: dict[str, int]) -> None:
    operator = domain = ""
    for number, value in _read_fields(node):
        if number == 4:
            operator = str(value, "utf-8")
        elif number == 7:
            domain = str(value, "utf-8")
        elif number == 5:
            for kind, part in _read_fields(value):  # of the attribute
                if kind in (5, 10):
                    _check_tensor(part, locations)
                elif kind in (6, 11, 22, 23):
                    raise FormatError("holds graphs inside of operators, which no ResNet needs")
    if operator not in _ONNX_OPERATORS or domain not in ("", "ai.onnx"):
        raise FormatError(_explain_operator(f"{domain}.{operator}" if domain else operator))


def _check_tensor(tensor: memoryview, locations: dict[str, int]) -> None:
    """Compare how many values a constant claims with how many bytes it has; note where else they are."""
    dims: list[int] = []
    num_bytes, location, is_external = 0, "", False
    for number, value in _read_fields(tensor):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_read_varints(value))
        elif number in (4, 5, 6, 7, 9, 10, 11):
            num_bytes += 8 if isinstance(value, int) else len(value)
        elif number == 13:
            key, text = _read_entry(value)
            location = text if key == "location" else location
        elif number == 14:
            is_external = bool(value)
    count = math.prod(dims)
    if is_external or location:
        locations[location] = max(count, locations.get(location, 0))
    elif count > num_bytes:  # less than a byte each (int4) would be a count of twice the bytes, and no weights
        raise FormatError(f"holds a constant of {count} values in {num_bytes} bytes")


def _locate(path: Path, location: str, count: int) -> Path:
    """Return a file of external data, which lies beside the model or below it."""
    relative = PurePosixPath(location)
    file = path.parent / relative
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location or not file.is_file():
        raise FormatError(f"keeps its weights in '{location[:200]}', which is no file beside it; save it as one file")
    if path.parent.resolve() not in file.resolve().parents or count > file.stat().st_size:
        raise FormatError(f"keeps its weights in '{location[:200]}', which does not hold them; save it as one file")
    return file


def _check_count(count: int) -> None:
    if count > _MAX_OPERATORS:
        raise FormatError(f"has more than {_MAX_OPERATORS} operators; expected the graph of a ResNet")


def _explain_operator(operator: str) -> str:
    return f"has the operator {operator[:60]!r}, which no ResNet has; expected the graph of one"


def _read_entry(entry: memoryview) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    parts = {number: str(value, "utf-8") for number, value in _read_fields(entry)}
    return parts.get(1, ""), parts.get(2, "")


def _read_fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protocol buffer: an integer, or the bytes of anything else.

    Raises:
        ValueError: It is none, or was cut off.
        IndexError: It was cut off.
    """
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _read_varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = _read_varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("groups are no part of ONNX")
        if length > len(message) - position:
            raise ValueError("cut off")
        yield tag >> 3, message[position : position + length]
        position += length


def _read_varints(packed: memoryview) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _read_varint(packed, position)
        yield value


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer of 7 bits a byte, lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("an integer of more than 10 bytes")
