"""Files of torch.save, read without torch.

Such a file is a pickle and the memory of tensors, in a zip archive or, before torch 1.6, one after the other. Here the
pickle can make tensors and plain values, and nothing else: no class or function that it names is ever imported.
Instances of any class become `Inert` ones; where a function would have to be called, the file is refused.

The formats are those of torch/serialization.py; the pickle is read by Python's own reader in Python, whose memory is
bounded by the size of the file (that of the one in C is not: an index of 4 bytes makes it reserve 64 GB).
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnetkit.formats.tensors import FormatError, Storage, StoredTensor
from resnetkit.machine.files import open_regular

#: The first bytes of a zip archive and of a pickle of torch.save, which writes protocol 2.
ZIP_START = b"PK\x03\x04"
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
#: A ResNet's pickle has some hundred thousand bytes, a checkpoint's with everything else some million.
_MAX_PICKLE_BYTES = 16_000_000
#: That pickle takes some ten thousand steps; each may make an object of 200 bytes.
_MAX_PICKLE_STEPS = 1_500_000
#: An archive's list of its entries has about a hundred bytes for each tensor.
_MAX_LIST_BYTES = 2_000_000

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
_TYPES = frozenset({*_STORAGES.values(), "uint16", "uint32", "uint64"})
_MAX_DIMENSIONS = 16
#: Calls of these make values; the values are dropped, so that what they are called with has no effect.
_VALUES = {
    "builtins": {"set", "frozenset", "slice", "complex", "bytearray", "range", "list", "dict", "tuple", "object"},
    "collections": {"defaultdict", "deque", "Counter", "UserDict"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "numpy": {"scalar", "dtype", "ndarray", "_reconstruct", "_frombuffer", "__ndarray_ctor"},
    "torch": {"device", "_get_layout"},
    "types": {"SimpleNamespace"},
}
#: Protocol 2, in which torch.save writes, calls them by their old names.
_NAMES_OF_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
#: Modules of Python's library of which classes make values, too.
_VALUE_MODULES = frozenset({"argparse", "pathlib", "decimal", "fractions", "uuid", "enum", "ipaddress", "typing"})


class _InertType(type):
    """The type of all classes that a pickle names; see `Inert`."""

    def __call__(cls, *_arguments: Any) -> Any:
        """Make an instance where the pickle calls a class, and refuse where it calls what may be a function."""
        if not _makes_values(cls.__module__, cls.__qualname__):
            raise pickle.UnpicklingError(f"{cls.__module__}.{cls.__qualname__} would run")
        return cls.__new__(cls)  # type: ignore[call-overload] # of the class, not of the type


class Inert(dict[Any, Any], metaclass=_InertType):
    """An instance of a class that the pickle names: its items and attributes, and none of its code.

    Attributes:
        attributes: What it was pickled with.
    """

    attributes: Any = None
    __hash__ = object.__hash__  # type: ignore[assignment] # it may be the key of a dictionary

    def __new__(cls, *_arguments: Any, **_options: Any) -> Inert:  # noqa: D102 - arguments have no meaning here
        return super().__new__(cls)

    def add(self, *_: Any) -> None:
        """Drop the items of a list or set."""

    append = extend = add

    @property
    def class_name(self) -> str:
        """Module and name of the class."""
        return f"{type(self).__module__}.{type(self).__qualname__}"


class _Steps(dict[int, Any]):
    """What reads each opcode of a pickle, for a bounded number of them."""

    left = _MAX_PICKLE_STEPS

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("it has far more parts than a checkpoint")
        return super().__getitem__(opcode)


class _Archive(io.BytesIO):
    """A zip archive of which its list of entries is read, and no list of millions."""

    def read(self, size: int | None = -1) -> bytes:
        left = len(self.getbuffer()) - self.tell()
        if (left if size is None or size < 0 else size) > _MAX_LIST_BYTES:
            raise FormatError("lists far more entries than a checkpoint has")
        return super().read(size)


class _Reader(pickle._Unpickler):  # type: ignore[name-defined,misc] # Python's reader in Python
    """Python's reader of pickles, without its ways to the outside."""

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, stream: io.BytesIO, get_storage: Callable[[tuple[Any, ...]], tuple[str, Storage]]) -> None:
        super().__init__(stream, encoding="utf-8", errors="replace")
        self.dispatch = _Steps(type(self).dispatch)  # type: ignore[misc] # each reader counts its own
        self._get_storage = get_storage
        self._classes: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in for a class or function; nothing is imported."""
        module = _NAMES_OF_PYTHON_2.get(module, module)
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module in ("torch", "torch.storage", "torch.cuda") and (name in _STORAGES or name in _TYPES):
            return _STORAGES.get(name, name)
        if (module, name) == ("torch", "Size"):
            return tuple
        if module in ("torch._utils", "torch._tensor") and name.startswith("_rebuild"):
            return _REBUILDERS.get(name, _rebuild_foreign)
        if module == "torch.jit._pickle":
            return _drop
        key = (module, name)
        if key not in self._classes:
            self._classes[key] = _InertType(name, (Inert,), {"__module__": module, "__qualname__": name})
        return self._classes[key]

    def persistent_load(self, pid: Any) -> tuple[str, Storage]:
        """Return type and memory of a storage."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], str):
            raise pickle.UnpicklingError("a storage is described in an unknown way")
        return self._get_storage(pid)

    def load_build(self) -> None:
        """Keep what an inert instance was pickled with; nothing else gets attributes."""
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state, instance = stack.pop(), stack[-1]
        if isinstance(instance, Inert):
            instance.attributes = state
        elif not isinstance(instance, OrderedDict):  # whose attributes are versions of modules
            raise pickle.UnpicklingError(f"a {type(instance).__name__} would be changed")

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


def is_torch_file(path: Path) -> bool:
    """Tell by the first bytes whether a file can be one of torch.save."""
    with open_regular(path) as stream:
        return stream.read(4).startswith((ZIP_START, *PICKLE_STARTS))


def read_torch_file(content: bytes | memoryview) -> Any:
    """Read a file of torch.save: plain values, with `StoredTensor` for tensors and `Inert` for all other objects.

    Raises:
        FormatError: The file is damaged, compressed, or would run code.
    """
    view = memoryview(content)
    try:
        return _read_zip(view) if bytes(view[:4]) == ZIP_START else _read_legacy(view)
    except FormatError:
        raise
    except pickle.UnpicklingError as error:
        if not str(error).endswith(" would run"):
            raise FormatError(f"is no PyTorch file, or was cut off ({error})") from error
        name = str(error).removesuffix(" would run")
        raise FormatError(
            f"is no pure state dict: it holds {name}, which would run code when loaded; "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its opcodes happen to do
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise FormatError(f"is no complete PyTorch file ({reason})") from error


def _read_zip(content: memoryview) -> Any:
    with zipfile.ZipFile(_Archive(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    if sum(entry.file_size for entry in entries.values() if not entry.compress_type) > len(content):
        raise FormatError("is no complete PyTorch file (its entries claim more than it has)")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError("is no complete PyTorch file (an archive without data.pkl)")
    root = pickles[0].removesuffix("data.pkl")

    def read(name: str) -> memoryview:
        entry = entries[root + name]
        if entry.compress_type != zipfile.ZIP_STORED:  # of TorchScript's files, only the code is compressed
            raise FormatError("is a compressed archive, which torch.save does not write")
        header = content[entry.header_offset : entry.header_offset + 30]  # the lengths of name and extra field end it
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if entry.file_size > len(content) - start:
            raise FormatError(f"is no complete PyTorch file ({name} is cut off)")
        return content[start : start + entry.file_size]

    is_swapped = f"{root}byteorder" in entries and bytes(read("byteorder")) == b"big"
    storages: dict[str, Storage] = {}

    def get_storage(pid: tuple[Any, ...]) -> tuple[str, Storage]:
        key = str(pid[2])
        if key not in storages:
            storages[key] = Storage(read(f"data/{key}"), is_swapped)
        return pid[1], storages[key]

    return _Reader(_limit(read("data.pkl")), get_storage).load()


def _read_legacy(content: memoryview) -> Any:
    """Read magic number, protocol and machine; then the object, the keys of its storages, and these in their order."""
    stream = io.BytesIO(content[:_MAX_PICKLE_BYTES])
    storages: dict[str, tuple[int, Storage]] = {}

    def get_storage(pid: tuple[Any, ...]) -> tuple[str, Storage]:
        if len(pid) > 5 and pid[5] is not None:
            raise FormatError("was written by a PyTorch older than 0.4; save it again with a newer one")
        item_size = StoredTensor(pid[1], ()).item_size
        return pid[1], storages.setdefault(str(pid[2]), (item_size, Storage()))[1]

    def load() -> Any:
        return _Reader(stream, get_storage).load()

    if load() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("its magic number is missing")
    load()
    machine = load()
    is_swapped = isinstance(machine, dict) and machine.get("little_endian") is False
    result, keys = load(), load()
    start = stream.tell()
    for key in keys:
        item_size, storage = storages[str(key)]
        (count,) = struct.unpack(">q" if is_swapped else "<q", content[start : start + 8])
        start, size = start + 8, count * item_size
        if not 0 <= size <= len(content) - start:
            raise FormatError("is no complete PyTorch file (its end is missing)")
        storage.content, storage.is_swapped = content[start : start + size], is_swapped
        start += size
    return result


def _limit(content: memoryview) -> io.BytesIO:
    if len(content) > _MAX_PICKLE_BYTES:
        raise FormatError(f"holds a pickle of {len(content)} bytes, far more than describes a ResNet")
    return io.BytesIO(content)


def _makes_values(module: str, name: str) -> bool:
    """Tell whether calling something, by its name, only makes a value: no more than an instance to be dropped.

    Nothing is called in any case. A file is refused where its author meant something to run.
    """
    package = module.partition(".")[0]
    if name in _VALUES.get(package, ()):
        return True
    is_class = name.lstrip("_")[:1].isupper() and "." not in name
    return is_class and (package in _VALUE_MODULES or package not in sys.stdlib_module_names)


def _rebuild_tensor(
    storage: tuple[str, Storage], offset: Any, shape: Any, strides: Any, *_: Any, dtype: str | None = None
) -> StoredTensor:
    name, memory = storage
    sizes = (tuple(shape), tuple(strides), (offset,))
    if not all(isinstance(size, int) for part in sizes for size in part) or len(sizes[0]) > _MAX_DIMENSIONS:
        raise pickle.UnpicklingError("a tensor is described in an unknown way")
    return StoredTensor(dtype or name, sizes[0], memory, offset, sizes[1])


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    return _rebuild_tensor(storage, offset, shape, strides, dtype=str(rest[2]))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    if function not in _REBUILDERS.values():
        return _rebuild_foreign()
    return function(*arguments)


def _rebuild_foreign(*arguments: Any) -> StoredTensor:
    """Stand in for a tensor without plain memory: sparse, quantized, nested, on the meta device."""
    parts = [part for argument in arguments for part in (argument if isinstance(argument, tuple) else ())]
    shapes = [part for part in (*arguments, *parts) if isinstance(part, tuple) and 0 < len(part) <= _MAX_DIMENSIONS]
    shape = next((part for part in shapes if all(isinstance(size, int) for size in part)), ())
    return StoredTensor("no plain tensor", shape)


def _drop(*_: Any) -> None:
    """Stand in for the lists of TorchScript, which are no weights."""


_REBUILDERS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
    "_rebuild_from_type": _rebuild_from_type,
    "_rebuild_from_type_v2": _rebuild_from_type,
}
