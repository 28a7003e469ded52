"""Weights files: what they know about themselves, and how they are read and written safely.

Nothing here runs code from a file: pickles are read by torch's weights-only reader, everything else as safetensors
or by OpenVINO. A file that train_resnet wrote carries a `ModelMetadata` in its header, as JSON under one key.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from infer_resnet.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD
from infer_resnet.files import atomic_path
from infer_resnet.preprocessing import RESIZE_MODES, Preprocessing

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

#: The key of our JSON in the metadata of safetensors, ONNX and OpenVINO files.
METADATA_KEY = "resnet_for_ikomia"
#: The file that a run folder of train_resnet is read by.
BEST_CHECKPOINT = "best.safetensors"

_FORMATS = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".onnx": "onnx",
    ".xml": "openvino",
}
#: The limit of the safetensors format itself.
_MAX_HEADER_BYTES = 100_000_000
_WRAPPER_KEYS = ("state_dict", "model_state", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


class WeightsError(ValueError):
    """A weights file is missing, damaged, foreign, or does not fit."""


@dataclass(frozen=True)
class ModelMetadata:
    """What a weights file says about itself.

    Attributes:
        model_name: Architecture.
        classes: Class names in the order of the outputs; empty where the file carries none.
        preprocessing: How an image becomes the network's input.
        small_input_stem: Whether the first convolution is 3x3 and there is no max pooling.
        metrics: Figures measured at training, such as accuracy.
        versions: Versions of the libraries that wrote the file.
        training: Parameters of the training and other facts for a reader; JSON values only.
    """

    model_name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    small_input_stem: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_strings(self) -> dict[str, str]:
        """Return the map of strings that is stored in a file's header."""
        return {METADATA_KEY: json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> ModelMetadata | None:
        """Parse a file's header; None where it is not ours.

        Raises:
            WeightsError: The header is ours but damaged.
        """
        if METADATA_KEY not in strings:
            return None
        try:
            content = json.loads(strings[METADATA_KEY])
            content["preprocessing"] = _parse_preprocessing(content["preprocessing"])
            content["classes"] = tuple(str(name) for name in content["classes"])
            metadata = cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"its metadata cannot be read ({error})") from error
        if metadata.model_name not in ARCHITECTURES:
            names = ", ".join(ARCHITECTURES)
            raise WeightsError(f"its metadata names the model {metadata.model_name!r}; expected one of {names}")
        return metadata


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that exists and is of a known format; its content is read when it is needed.

    Attributes:
        path: The file itself, never a folder.
        format: safetensors, torch, onnx or openvino.
        metadata: What the file says about itself; None for a bare state dict.
    """

    path: Path
    format: str
    metadata: ModelMetadata | None

    @property
    def is_graph(self) -> bool:
        """Whether the file is a whole network (ONNX, OpenVINO) rather than a state dict."""
        return self.format in ("onnx", "openvino")

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the content, in hexadecimal; of both files for an OpenVINO model."""
        digest = hashlib.sha256()
        for path in (self.path, self.path.with_suffix(".bin")) if self.format == "openvino" else (self.path,):
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    def identify(self) -> tuple[str, int, bool]:
        """Return architecture, number of outputs and kind of stem of a state dict, from names and shapes alone.

        Raises:
            WeightsError: The file is damaged, foreign, or holds no ResNet.
        """
        return self._explain(lambda: identify_architecture(self._read_tensors()))

    def read_state_dict(self) -> dict[str, torch.Tensor]:
        """Read the weights: names without wrappers' prefixes, float32, shapes checked, all values finite.

        Raises:
            WeightsError: The file is damaged, foreign, or holds no ResNet.
        """
        return self._explain(lambda: _to_float32(_check_shapes(self._read_tensors(), self.metadata)))

    def _read_tensors(self) -> dict[str, torch.Tensor]:
        return _clean_names(_read_safetensors(self.path) if self.format == "safetensors" else _read_torch(self.path))

    def _explain(self, read: Callable[[], Result]) -> Result:
        """Name the file in every error that reading it raises."""
        try:
            return read()
        except WeightsError as error:
            raise WeightsError(f"weights file '{self.path}': {error}") from error


def open_weights(path: Path) -> WeightsFile:
    """Look at a weights file or a run folder of train_resnet; only the header is read.

    Raises:
        WeightsError: It is missing, empty, of an unknown format, or its header is damaged.
    """
    file = _find_file(path)
    if file.stat().st_size == 0:
        raise WeightsError(f"weights file '{file}' is empty")
    try:
        return WeightsFile(file, _FORMATS[file.suffix.lower()], ModelMetadata.from_strings(_read_header(file)))
    except WeightsError as error:
        raise WeightsError(f"weights file '{file}': {error}") from error


def read_metadata(path: Path) -> ModelMetadata | None:
    """Return what a weights file or run folder says about itself, without importing torch; None if nothing.

    Raises:
        WeightsError: It is missing, empty, of an unknown format, or its header is damaged.
    """
    return open_weights(path).metadata


def write_checkpoint(path: Path, state_dict: Mapping[str, torch.Tensor], metadata: ModelMetadata) -> None:
    """Write a self-describing safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata.to_strings())


def identify_architecture(state_dict: Mapping[str, torch.Tensor]) -> tuple[str, int, bool]:
    """Tell from names and shapes which ResNet a state dict is of.

    Returns:
        The architecture's name, its number of outputs, and whether it has the small-image stem.

    Raises:
        WeightsError: It is none of the five.
    """
    block = "bottleneck" if "layer1.0.conv3.weight" in state_dict else "basic"
    depths = tuple(_count_blocks(state_dict, stage) for stage in (1, 2, 3, 4))
    missing = [name for name in ("conv1.weight", "fc.weight", "fc.bias") if name not in state_dict]
    for architecture in ARCHITECTURES.values():
        if not missing and (architecture.block, architecture.depths) == (block, depths):
            return architecture.name, state_dict["fc.weight"].shape[0], state_dict["conv1.weight"].shape[-1] == 3
    found = ", ".join(list(state_dict)[:3]) or "nothing"
    raise WeightsError(
        f"holds no ResNet of torchvision ({', '.join(ARCHITECTURES)}); expected names such as conv1.weight, "
        f"layer1.0.conv1.weight, fc.weight, got {found}"
    )


def _count_blocks(state_dict: Mapping[str, Any], stage: int) -> int:
    count = 0
    while f"layer{stage}.{count}.conv1.weight" in state_dict:
        count += 1
    return count


def _find_file(path: Path) -> Path:
    if path.is_dir():
        file = path / BEST_CHECKPOINT
        if not file.is_file():
            raise WeightsError(f"'{path}' is a folder without {BEST_CHECKPOINT}; expected a run folder of train_resnet")
        return file
    if not path.is_file():
        raise WeightsError(f"weights file '{path}' does not exist")
    if path.suffix.lower() not in _FORMATS:
        raise WeightsError(f"weights file '{path}' has an unknown ending; expected one of {', '.join(_FORMATS)}")
    return path


def _read_header(path: Path) -> dict[str, str]:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors_header(path)
    if suffix in (".onnx", ".xml"):
        return _read_graph_header(path)
    return {}


def _read_safetensors_header(path: Path) -> dict[str, str]:
    """Read the `__metadata__` map; format: 8 bytes little-endian length, then that many bytes of JSON."""
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise WeightsError("is no safetensors file, or was cut off")
        try:
            header = json.loads(stream.read(length))
            metadata = header.get("__metadata__", {})
            return {str(key): str(value) for key, value in metadata.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise WeightsError("is no safetensors file: its header is no JSON object") from error


def _read_graph_header(path: Path) -> dict[str, str]:
    """Read the metadata of an ONNX or OpenVINO file; OpenVINO keeps ONNX's under 'framework'."""
    try:
        import openvino
    except ImportError as error:
        raise WeightsError("needs OpenVINO to be read; pip install openvino") from error
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(f"cannot be read by OpenVINO ({reason})") from error
    for keys in ([METADATA_KEY], ["framework", METADATA_KEY]):
        if model.has_rt_info(keys):
            return {METADATA_KEY: model.get_rt_info(keys).astype(str)}
    return {}


def _parse_preprocessing(content: Mapping[str, Any]) -> Preprocessing:
    preprocessing = Preprocessing(
        input_size=int(content["input_size"]),
        resize_size=int(content["resize_size"]),
        resize_mode=str(content["resize_mode"]),
        mean=_parse_triple(content.get("mean", IMAGENET_MEAN)),
        std=_parse_triple(content.get("std", IMAGENET_STD)),
    )
    sizes = (preprocessing.input_size, preprocessing.resize_size)
    if preprocessing.resize_mode not in RESIZE_MODES or not all(1 <= size <= 8192 for size in sizes):
        raise WeightsError(f"its preprocessing makes no sense: {dict(content)}")
    return preprocessing


def _parse_triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(-1e6 < value < 1e6 for value in (red, green, blue)):
        raise WeightsError(f"its mean or deviation makes no sense: {values}")
    return red, green, blue


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, MemoryError) as error:
        raise WeightsError(f"is no complete safetensors file ({error})") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Read a `.pth` or `.pt` file of the zip or the legacy format with torch's weights-only reader."""
    import pickle
    import zipfile

    import torch

    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "is no pure state dict: it holds objects that would run code when loaded, or is no PyTorch file; "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch raises many types here, none of them its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"is no complete PyTorch file ({reason})") from error


def _check_archive(path: Path) -> None:
    """Refuse archives that would unpack to more than they are: torch.save never compresses."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"is no complete PyTorch file ({error})") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError("is a compressed archive, which torch.save does not write")


def _clean_names(content: Any) -> dict[str, torch.Tensor]:
    """Unwrap {'state_dict': ...} and the like, and drop the prefixes of DataParallel and torch.compile."""
    for _ in range(3):
        inner = [content[key] for key in _WRAPPER_KEYS if isinstance(content, Mapping) and key in content]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise WeightsError(f"holds a {type(content).__name__}; expected a state dict")
    return {_strip_prefixes(str(name)): tensor for name, tensor in content.items() if _is_tensor(tensor)}


def _strip_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _check_shapes(state_dict: dict[str, torch.Tensor], metadata: ModelMetadata | None) -> dict[str, torch.Tensor]:
    """Compare names and shapes with the architecture's, before anything is converted or allocated."""
    from infer_resnet.model import build_model

    model_name, num_classes, small_input_stem = identify_architecture(state_dict)
    if metadata is not None and metadata.model_name != model_name:
        raise WeightsError(f"says it is a {metadata.model_name}, but holds a {model_name}")
    if metadata is not None and metadata.classes and len(metadata.classes) != num_classes:
        raise WeightsError(f"names {len(metadata.classes)} classes, but has {num_classes} outputs")
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in build_model(model_name, num_classes, small_input_stem).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    for name, shape in expected.items():
        if name not in state_dict:
            raise WeightsError(f"lacks {name} of {model_name}")
        tensor = state_dict[name]
        if tuple(tensor.shape) != shape or tensor.is_sparse or not tensor.is_floating_point():
            raise WeightsError(f"{name} of {model_name} must be floats {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
    return {name: state_dict[name] for name in expected}


def _to_float32(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    converted = {name: tensor.to(torch.float32) for name, tensor in state_dict.items()}
    for name, tensor in converted.items():
        # The sum of squares is finite only if every value is; reading it once is all that this costs.
        if not torch.isfinite(torch.linalg.vector_norm(tensor)):
            raise WeightsError(f"{name} holds values that are NaN, infinite or absurdly large")
    return converted
