"""Weights files: found, looked at by their header, read safely, written whole.

Nothing here runs code from a file, and nothing stays open or mapped of one: what is used was read into memory, and is
of the content that `content_hash` names. torch is needed for none of it. A file that train_resnet wrote carries a
`ModelMetadata` in its header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from resnetkit.formats.foreign_files import explain_foreign_file
from resnetkit.formats.graph_file import read_graph_file
from resnetkit.formats.safetensors_file import is_safetensors, list_tensors, read_header, read_tensors
from resnetkit.formats.tensors import FormatError
from resnetkit.formats.torch_file import is_torch_file, read_torch_file
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.machine.files import atomic_path, hash_files, read_file
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import ModelMetadata, find_preprocessing
from resnetkit.weights.state_dict import Identity, check_state_dict, find_state_dict, identify_architecture, to_arrays

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
#: Returns a fact of that name about the content of files: what the function finds out, or found out earlier.
Recall: TypeAlias = Callable[[str, Sequence[Path], Callable[[], Any]], Any]

#: The file that a run folder of train_resnet is read by.
BEST_CHECKPOINT = "best.safetensors"

#: By the ending of a name; `.tar` is that of `checkpoint.pth.tar`, which is no tar archive.
_FORMATS = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
    ".tar": "torch",
    ".onnx": "onnx",
    ".xml": "openvino",
}
#: A checkpoint of the largest network with optimizer and averages has half of it.
_MAX_BYTES = 2 << 30


def find_out_anew(_what: str, _paths: Sequence[Path], find_out: Callable[[], Any]) -> Any:
    """Recall nothing; see `Recall`."""
    return find_out()


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that exists and is of a known format; its content is read when it is needed.

    Attributes:
        path: The file itself, never a folder.
        format: safetensors, torch, onnx or openvino.
        metadata: What the file says about itself; None for a bare state dict.
        side_files: Other files that belong to it: an OpenVINO model's .bin, an ONNX model's external data.
        recall: What may know the content already.
    """

    path: Path
    format: str
    metadata: ModelMetadata | None
    side_files: tuple[Path, ...] = ()
    recall: Recall = field(default=find_out_anew, compare=False, repr=False)

    @property
    def is_graph(self) -> bool:
        """Whether the file is a whole network (ONNX, OpenVINO) rather than a state dict."""
        return self.format in ("onnx", "openvino")

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the content, in hexadecimal; of all its files where it has several.

        Raises:
            WeightsError: It cannot be read.
        """
        paths = (self.path, *self.side_files)
        return self._explain(lambda: self.recall("SHA-256", paths, lambda: hash_files(paths)))

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How an image becomes the network's input, from the file or one beside it; None where neither says it.

        Raises:
            WeightsError: The file beside it is damaged.
        """
        if self.metadata is not None:
            return self.metadata.preprocessing
        return self._explain(lambda: find_preprocessing(self.path))

    def identify(self) -> Identity:
        """Return architecture, number of outputs and kind of stem of a state dict, from names and shapes alone.

        Raises:
            WeightsError: The file is damaged, foreign, or holds no ResNet.
        """
        return self._explain(self._identify)

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Read the weights: torchvision's names, float32, shapes checked, all values finite; each array a copy.

        Raises:
            WeightsError: The file is damaged, foreign, holds no ResNet, or is no longer what was hashed.
        """
        return self._explain(self._read_arrays)

    def read_state_dict(self) -> dict[str, torch.Tensor]:
        """Read the weights as `read_arrays` does, for PyTorch."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.read_arrays().items()}

    def check_unchanged(self) -> None:
        """Compare the content with `content_hash`, after something else has read it.

        Raises:
            WeightsError: It is another one by now.
        """
        self._explain(lambda: self._take_hash(hash_files((self.path, *self.side_files))))

    def _identify(self) -> Identity:
        if self.format == "safetensors":
            return identify_architecture(find_state_dict(list_tensors(*read_header(self.path))))
        *identity, content_hash = self.recall("identity and SHA-256", (self.path,), self._identify_content)
        self._take_hash(content_hash)
        return Identity(*identity)

    def _identify_content(self) -> list[Any]:
        identity = identify_architecture(find_state_dict(read_torch_file(self._read())))
        return [*identity, self.content_hash]

    def _read_arrays(self) -> dict[str, np.ndarray]:
        if self.format == "safetensors":
            # Before any more is read: what the header says may be far more than a ResNet.
            check_state_dict(find_state_dict(list_tensors(*read_header(self.path))))
            tensors = find_state_dict(read_tensors(self._read()))
        else:
            tensors = find_state_dict(read_torch_file(self._read()))
        if self.metadata is not None:
            _check_against_metadata(identify_architecture(tensors), self.metadata)
        return to_arrays(check_state_dict(tensors))

    def _read(self) -> bytes:
        content = read_file(self.path, _MAX_BYTES)
        self._take_hash(hashlib.sha256(content).hexdigest())
        return content

    def _take_hash(self, content_hash: str) -> None:
        """Keep the hash of what was read, which is that of what was read before."""
        if vars(self).setdefault("content_hash", content_hash) != content_hash:
            raise WeightsError("was replaced while it was being loaded; load it again")

    def _explain(self, read: Callable[[], Result]) -> Result:
        """Name the file in every error that reading it raises, and say where it is something else altogether."""
        try:
            return read()
        except (WeightsError, FormatError) as error:
            raise WeightsError(f"weights file '{self.path}' {explain_foreign_file(self.path) or error}") from error
        except (OSError, MemoryError) as error:
            raise WeightsError(f"weights file '{self.path}' cannot be read ({_get_reason(error)})") from error


def open_weights(path: Path, recall: Recall = find_out_anew) -> WeightsFile:
    """Look at a weights file or a run folder of train_resnet; of a state dict, only the header is read.

    Args:
        path: Where it is.
        recall: What may know the content already.

    Raises:
        WeightsError: It is missing, empty, of an unknown format, or its header is damaged.
    """
    file = path
    try:
        file = _find_file(path)
        if file.stat().st_size == 0:
            raise WeightsError("is empty")
        return _open(file, recall)
    except (WeightsError, FormatError) as error:
        raise WeightsError(f"weights file '{path}' {explain_foreign_file(file) or error}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"weights file '{path}' cannot be read ({_get_reason(error)})") from error


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


def _open(file: Path, recall: Recall) -> WeightsFile:
    kind = _FORMATS[file.suffix.lower()]
    if kind in ("onnx", "openvino"):
        return _open_graph(file, kind, recall)
    if kind == "torch" and is_safetensors(file):  # as `.bin` files and renamed ones may be
        kind = "safetensors"
    elif kind == "torch" and not is_torch_file(file):
        raise WeightsError("is no PyTorch file; expected one that torch.save wrote")
    texts = read_header(file)[0].get("__metadata__", {}) if kind == "safetensors" else {}
    if not isinstance(texts, dict):
        raise WeightsError("is no safetensors file: its header is no JSON object")
    metadata = ModelMetadata.from_strings({key: str(value) for key, value in texts.items()})
    return WeightsFile(file, kind, metadata, recall=recall)


def _open_graph(file: Path, kind: str, recall: Recall) -> WeightsFile:
    def look() -> Any:
        graph = read_graph_file(file)
        return None if graph.side_files else graph.metadata

    # Of a network with its weights; where these are elsewhere, the file is small, and they are looked for each time.
    texts = recall("metadata", (file,), look) if kind == "onnx" else None
    if texts is not None:
        return WeightsFile(file, kind, ModelMetadata.from_strings(texts), recall=recall)
    graph = read_graph_file(file)
    return WeightsFile(file, kind, ModelMetadata.from_strings(graph.metadata), graph.side_files, recall)


def _find_file(path: Path) -> Path:
    if path.is_dir():
        path /= BEST_CHECKPOINT
        if not path.is_file():
            raise WeightsError(f"is a folder without {BEST_CHECKPOINT}; expected a run folder of train_resnet")
    if not path.is_file():
        raise WeightsError("is no file, but a pipe or device" if path.exists() else "does not exist")
    if path.suffix.lower() not in _FORMATS:
        raise WeightsError(f"has an unknown ending; expected one of {', '.join(_FORMATS)}")
    if path.suffix.lower() == ".xml" and not path.with_suffix(".bin").is_file():
        raise WeightsError(f"lacks its other half, {path.stem}.bin, beside it")
    return path


def _get_reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is too little memory for it"
    return str(getattr(error, "strerror", None) or error)


def _check_against_metadata(identity: Identity, metadata: ModelMetadata) -> None:
    if metadata.model_name != identity.model_name:
        raise WeightsError(f"says that it holds a {metadata.model_name}, but holds a {identity.model_name}")
    if len(metadata.classes) != identity.num_classes:
        raise WeightsError(f"names {len(metadata.classes)} classes, but has {identity.num_classes} outputs")
    if metadata.small_input_stem != identity.small_input_stem:
        raise WeightsError("says another kind of first convolution than it holds")
