"""Safetensors files: their headers, read by themselves, and their tensors, read by the library from memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetkit.formats.tensors import FormatError, Storage, StoredTensor, count_strides
from resnetkit.machine.files import open_regular

#: Room for the names of hundreds of thousands of classes; the format itself allows 100 MB.
_MAX_HEADER_BYTES = 16_000_000
#: safetensors' types by torch's and numpy's names.
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def is_safetensors(path: Path) -> bool:
    """Tell by the first bytes: the length of a header, and the brace that it begins with."""
    with open_regular(path) as stream:
        start = stream.read(9)
        size = path.stat().st_size
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= size - 8


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header, and how many bytes follow it; format: 8 bytes little-endian length, then as much JSON."""
    size = path.stat().st_size
    with open_regular(path) as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise FormatError("is no safetensors file, or was cut off")
        text = stream.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("is no safetensors file: its header is no JSON object") from error
    if not isinstance(header, dict):
        raise FormatError("is no safetensors file: its header is no JSON object")
    return header, size - 8 - length


def list_tensors(header: Mapping[str, Any], num_bytes: int) -> dict[str, StoredTensor]:
    """Return the tensors of a header, whose values, `num_bytes` in all, have not been read."""
    tensors = {}
    total = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
            sizes = (*shape, start, end)
            if not all(type(size) is int and 0 <= size <= num_bytes for size in sizes):
                raise ValueError(f"of {name}")
            dtype = _TYPES.get(entry["dtype"], str(entry["dtype"]))
        except (TypeError, KeyError, ValueError) as error:
            raise FormatError(f"is no complete safetensors file (its header is damaged: {error})") from error
        total += end - start
        tensors[name] = StoredTensor(dtype, shape, Storage(claimed=end - start), 0, count_strides(shape))
    if total != num_bytes:
        raise FormatError(f"is no complete safetensors file (its tensors have {total} bytes, {num_bytes} are there)")
    return tensors


def read_tensors(content: bytes) -> dict[str, StoredTensor]:
    """Read a whole file's tensors.

    Raises:
        FormatError: It is damaged, or its tensors overlap or do not fill it.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(content)
    except (SafetensorError, MemoryError, OverflowError) as error:
        raise FormatError(f"is no complete safetensors file ({error})") from error
    tensors = {}
    for name, entry in entries:
        dtype, shape = _TYPES.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])
        tensors[name] = StoredTensor(dtype, shape, Storage(memoryview(entry["data"])), 0, count_strides(shape))
    return tensors
