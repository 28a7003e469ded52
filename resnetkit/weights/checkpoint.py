"""Weights files: found, looked at by their header, read safely, written whole.

Nothing here runs code from a file: pickles are read by torch's weights-only reader, everything else as safetensors
or by OpenVINO. A file that train_resnet wrote carries a `ModelMetadata` in its header.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from resnetkit.machine.files import atomic_path
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import METADATA_KEY, ModelMetadata
from resnetkit.weights.state_dict import Identity, check_state_dict, identify_architecture, read_tensors, to_float32

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

#: The file that a run folder of train_resnet is read by.
BEST_CHECKPOINT = "best.safetensors"

_FORMATS = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".onnx": "onnx",
    ".xml": "openvino",
}
#: Room for the names of hundreds of thousands of classes; the format itself allows 100 MB.
_MAX_HEADER_BYTES = 16_000_000


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

    def identify(self) -> Identity:
        """Return architecture, number of outputs and kind of stem of a state dict, from names and shapes alone.

        Raises:
            WeightsError: The file is damaged, foreign, or holds no ResNet.
        """
        return self._explain(lambda: identify_architecture(read_tensors(self.path, self._is_safetensors)))

    def read_state_dict(self) -> dict[str, torch.Tensor]:
        """Read the weights: names without wrappers' prefixes, float32, shapes checked, all values finite.

        Raises:
            WeightsError: The file is damaged, foreign, or holds no ResNet.
        """
        return self._explain(self._read_state_dict)

    @property
    def _is_safetensors(self) -> bool:
        return self.format == "safetensors"

    def _read_state_dict(self) -> dict[str, torch.Tensor]:
        tensors = read_tensors(self.path, self._is_safetensors)
        if self.metadata is not None:
            _check_against_metadata(identify_architecture(tensors), self.metadata)
        return to_float32(check_state_dict(tensors))

    def _explain(self, read: Callable[[], Result]) -> Result:
        """Name the file in every error that reading it raises."""
        try:
            return read()
        except WeightsError as error:
            raise WeightsError(f"weights file '{self.path}' {error}") from error


def open_weights(path: Path) -> WeightsFile:
    """Look at a weights file or a run folder of train_resnet; only the header is read.

    Raises:
        WeightsError: It is missing, empty, of an unknown format, or its header is damaged.
    """
    try:
        file = _find_file(path)
        if file.stat().st_size == 0:
            raise WeightsError("is empty")
        return WeightsFile(file, _FORMATS[file.suffix.lower()], ModelMetadata.from_strings(_read_header(file)))
    except WeightsError as error:
        raise WeightsError(f"weights file '{path}' {error}") from error
    except OSError as error:
        raise WeightsError(f"weights file '{path}' cannot be read ({error.strerror or error})") from error


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
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata=metadata.to_strings())
        if temporary.stat().st_mode != mode:  # safetensors lets nobody but the owner read what it writes
            temporary.chmod(mode)


def _find_file(path: Path) -> Path:
    if path.is_dir():
        path /= BEST_CHECKPOINT
        if not path.is_file():
            raise WeightsError(f"is a folder without {BEST_CHECKPOINT}; expected a run folder of train_resnet")
    if not path.is_file():
        raise WeightsError("does not exist")
    if path.suffix.lower() not in _FORMATS:
        raise WeightsError(f"has an unknown ending; expected one of {', '.join(_FORMATS)}")
    if path.suffix.lower() == ".xml" and not path.with_suffix(".bin").is_file():
        raise WeightsError(f"lacks its other half, {path.stem}.bin, beside it")
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


def _check_against_metadata(identity: Identity, metadata: ModelMetadata) -> None:
    if metadata.model_name != identity.model_name:
        raise WeightsError(f"says that it holds a {metadata.model_name}, but holds a {identity.model_name}")
    if len(metadata.classes) != identity.num_classes:
        raise WeightsError(f"names {len(metadata.classes)} classes, but has {identity.num_classes} outputs")
    if metadata.small_input_stem != identity.small_input_stem:
        raise WeightsError("says another kind of first convolution than it holds")
