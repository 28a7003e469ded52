"""Tensors as files hold them: shapes first, values when they are asked for, always without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Types of floats that weights are made of; numpy has no bfloat16, see `StoredTensor.to_array`.
FLOAT_TYPES = ("float32", "float64", "float16", "bfloat16")

#: Values of a file, nested as they are: figures of ten thousand epochs, names of as many classes.
_MAX_VALUES = 1_000_000


class FormatError(ValueError):
    """A file is not what its name says, is damaged, or asks for more than weights do."""


@dataclass
class Storage:
    """Memory that tensors are views of.

    Attributes:
        content: Its bytes; filled in later where they follow the tensors in the file.
        is_swapped: Whether its numbers are big-endian.
        claimed: Bytes that it has where only the header of a file was read.
    """

    content: memoryview | bytes = b""
    is_swapped: bool = False
    claimed: int = 0


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that has not been read yet.

    Attributes:
        dtype: Its type by torch's and numpy's name, such as float32.
        shape: Sizes of its dimensions.
        storage: Where its values are; None where it has none that could be read (sparse, quantized, on no device).
        offset: Index of its first value in the storage.
        strides: Steps in values to the next one of each dimension.
    """

    dtype: str
    shape: tuple[int, ...]
    storage: Storage | None = None
    offset: int = 0
    strides: tuple[int, ...] = ()

    @classmethod
    def from_array(cls, array: np.ndarray) -> StoredTensor:
        """Wrap an array, which is not copied."""
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return cls(array.dtype.name, array.shape, Storage(content), 0, count_strides(array.shape))

    @property
    def item_size(self) -> int:
        """Bytes of a value."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def is_plain(self) -> bool:
        """Whether its values lie in memory, each stored once: a crafted tensor claims any size, or reaches outside."""
        sizes = (*self.shape, *self.strides, self.offset)
        if self.storage is None or len(self.shape) != len(self.strides) or any(size < 0 for size in sizes):
            return False
        count = math.prod(self.shape)
        steps = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        last = self.offset + (steps if count else -1)
        return max(count, last + 1) * self.item_size <= max(len(self.storage.content), self.storage.claimed)

    def to_array(self) -> np.ndarray:
        """Return a copy of the values: of the tensor's own type, but float32 for bfloat16; C-contiguous.

        Raises:
            ValueError: The tensor is not plain.
        """
        if not self.is_plain or self.storage is None or self.storage.claimed:
            raise ValueError("the tensor has no values that could be read")
        stored = np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)
        stored = stored.newbyteorder(">" if self.storage.is_swapped else "<")
        count = len(self.storage.content) // stored.itemsize
        flat = np.frombuffer(self.storage.content, stored, count)
        steps = [stride * stored.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)
        if self.dtype == "bfloat16":  # the upper half of a float32
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.array(view, stored.newbyteorder("="), order="C")


def count_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor whose values lie one after the other."""
    return tuple(math.prod(shape[position + 1 :]) for position in range(len(shape)))


def check_sizes(content: Any, num_bytes: int) -> None:
    """Refuse nested values that come to more than was read: all of them may stand for the same few bytes.

    Args:
        content: What a file holds.
        num_bytes: Of the file.

    Raises:
        FormatError: Tensors would take more memory than the file, or values stand in millions of places.
    """
    waiting, count = [content], 1
    while waiting and num_bytes >= 0 and count <= _MAX_VALUES:
        value = waiting.pop()
        if isinstance(value, StoredTensor) and value.is_plain:
            num_bytes -= math.prod(value.shape) * value.item_size
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        waiting.extend(inner)
        count += len(inner)
    if waiting or num_bytes < 0:
        raise FormatError("holds the same values many times over, more than its size has room for")


def describe(tensor: StoredTensor) -> str:
    """Return type and shape in words, as torch says them."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


Tensors = Mapping[str, StoredTensor]
