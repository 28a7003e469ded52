"""The trained model in other formats, each compared with PyTorch on images before it is kept.

Graphs (.onnx, .xml) take `images` (N, 3, S, S) uint8, normalize them inside, give `logits`, `feature_map` and
`pooled`, and carry classes and preprocessing in their metadata; infer_resnet runs every file that is written here.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import nn

from resnetkit.exports.agreement import Agreement, Network, measure_agreement, wrap_model
from resnetkit.machine.files import atomic_path
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, RuntimeOptions, summarize_error
from resnetkit.weights.checkpoint import read_metadata
from resnetkit.weights.metadata import ModelMetadata
from resnetkit.weights.models import load_model

if TYPE_CHECKING:
    from resnetkit.data.loading import Batch

#: Largest difference of a probability from PyTorch's that an export may have.
MAX_DIFFERENCE = 1e-3
#: Images that are worth comparing: more find no more.
MAX_CHECKED_IMAGES = 64
#: Of these, enough for weights that read back bit for bit the same.
CHECKED_IF_SAME = 4

_BATCH_SIZE = 16

Weights: TypeAlias = Mapping[str, torch.Tensor]


class ExportError(RuntimeError):
    """A model could not be exported, or answered differently from PyTorch; no file was left."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and has passed its check.

    Attributes:
        path: The file; an OpenVINO model has a .bin file beside its .xml.
        format: What it is, for readers.
        size_bytes: Of all its files.
        num_checked: Images on which it was compared with PyTorch.
        max_difference: Largest difference of any probability.
        same_top1: Share of images with the same most probable class, 0..1.
        accuracy: Accuracy on the validation images, where it was measured (int8).
        accuracy_change: That accuracy minus PyTorch's, where it was measured (int8).
    """

    path: Path
    format: str
    size_bytes: int
    num_checked: int
    max_difference: float
    same_top1: float = 1.0
    accuracy: float | None = None
    accuracy_change: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; the path without its folder."""
        return {**vars(self), "path": self.path.name}


def export_pth(folder: Path, model: nn.Module, metadata: ModelMetadata, images: torch.Tensor) -> ExportedFile:
    """Write `<model>.pth`, a bare state dict of torchvision's names, float32 on the CPU.

    Args:
        folder: Where the file is written.
        model: The trained network; neither it nor its mode is changed.
        metadata: Architecture, classes and preprocessing.
        images: Prepared validation images, (N, 3, S, S) uint8, N at least 1. The first 64 are used; of a file whose
            weights read back bit for bit the same, 4 are enough.

    Raises:
        ExportError: The file cannot be written, or differs from the model; none is left.
    """
    state_dict = _copy_weights(model)
    path = folder / f"{metadata.model_name}.pth"
    with _replace_file(path) as temporary:
        # By way of memory: torch would write the temporary name into the file, and hide why a disk refuses.
        buffer = io.BytesIO()
        torch.save(state_dict, buffer)
        temporary.write_bytes(buffer.getbuffer())
        written = torch.load(temporary, map_location="cpu", weights_only=True)
        network = wrap_model(
            load_model(metadata.model_name, written, metadata.small_input_stem), metadata.preprocessing
        )
        is_same = all(torch.equal(written[name], tensor) for name, tensor in state_dict.items())
        images = images[:CHECKED_IF_SAME] if is_same else images
        agreement = _check(network, _load_reference(state_dict, metadata), images)
    return _describe(path, "PyTorch state dict", agreement)


def export_onnx(folder: Path, model: nn.Module, metadata: ModelMetadata, images: torch.Tensor) -> ExportedFile:
    """Write `<model>.onnx`; arguments and errors as `export_pth`."""
    from resnetkit.exports.onnx_graph import trace_graph

    state_dict = _copy_weights(model)
    path = folder / f"{metadata.model_name}.onnx"
    with _replace_file(path) as temporary:
        program = trace_graph(load_model(metadata.model_name, state_dict, metadata.small_input_stem), metadata)
        program.save(temporary)
        network = _open_graph(temporary, state_dict, metadata)
        agreement = _check(network, _load_reference(state_dict, metadata), images)
    return _describe(path, "ONNX", agreement)


def export_openvino(folder: Path, model: nn.Module, metadata: ModelMetadata, images: torch.Tensor) -> ExportedFile:
    """Write `<model>.xml` and `<model>.bin`; arguments and errors as `export_pth`."""
    from resnetkit.runtimes.openvino_graph import build_graph, save_graph

    state_dict = _copy_weights(model)
    path = folder / f"{metadata.model_name}.xml"
    with _replace_pair(path) as temporary:
        save_graph(build_graph(_make_source(state_dict, metadata)), temporary, metadata)
        network = _open_graph(temporary, state_dict, metadata)
        agreement = _check(network, _load_reference(state_dict, metadata), images)
    return _describe(path, "OpenVINO", agreement)


def export_int8(
    folder: Path,
    model: nn.Module,
    metadata: ModelMetadata,
    calibration: Iterable[torch.Tensor],
    validation: Iterable[Batch],
) -> ExportedFile:
    """Write `<model>_int8.xml` and `.bin`, quantized by NNCF, and measure what that costs.

    Args:
        folder: Where the files are written.
        model: The trained network; neither it nor its mode is changed.
        metadata: Architecture, classes and preprocessing.
        calibration: Prepared training images, (3, S, S) uint8 each; the first 300 are used.
        validation: All validation images with their labels; each is run in PyTorch and in int8.

    Returns:
        The file with its accuracy and the change against PyTorch; answers may differ, that is no error.

    Raises:
        ExportError: The files cannot be written, NNCF is missing, or there are no images; none is left.
    """
    from resnetkit.exports.quantization import quantize_graph
    from resnetkit.runtimes.openvino_graph import build_graph, save_graph

    state_dict = _copy_weights(model)
    path = folder / f"{metadata.model_name}_int8.xml"
    with _replace_pair(path) as temporary:
        graph = quantize_graph(build_graph(_make_source(state_dict, metadata)), calibration)
        save_graph(graph, temporary, metadata)
        network = _open_graph(temporary, state_dict, metadata)
        agreement = measure_agreement(network, _load_reference(state_dict, metadata), validation)
        if not np.isfinite(agreement.max_difference):
            raise ExportError("its answers are not finite")
    return _describe(path, "OpenVINO int8", agreement)


def _copy_weights(model: nn.Module) -> Weights:
    """Return the weights as float32 on the CPU; whole numbers (batch norm's counters) stay as they are."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _load_reference(state_dict: Weights, metadata: ModelMetadata) -> Network:
    model = load_model(metadata.model_name, state_dict, metadata.small_input_stem)
    return wrap_model(model, metadata.preprocessing)


def _make_source(state_dict: Weights, metadata: ModelMetadata, graph_path: Path | None = None) -> NetworkSource:
    return NetworkSource.from_metadata(metadata, lambda: state_dict, graph_path)


def _open_graph(path: Path, state_dict: Weights, metadata: ModelMetadata) -> Network:
    """Open a file that was just written with the runtime that infer_resnet runs it with."""
    if read_metadata(path) != metadata:
        raise ExportError("its metadata reads back as something else")
    source = _make_source(state_dict, metadata, path)
    runtime = open_runtime(source, RuntimeOptions(runtime="openvino", device="cpu"), cache_folder=None)
    return lambda images: runtime.run(images.numpy()).logits


def _check(network: Network, reference: Network, images: torch.Tensor) -> Agreement:
    """Insist on the same classes, ties apart, and on probabilities within `MAX_DIFFERENCE`."""
    agreement = measure_agreement(network, reference, images[:MAX_CHECKED_IMAGES].split(_BATCH_SIZE))
    if agreement.num_changed or agreement.max_difference > MAX_DIFFERENCE:
        raise ExportError(
            f"it differs from PyTorch: expected the same classes and probabilities within {MAX_DIFFERENCE}, got "
            f"another class for {agreement.num_changed} of {agreement.num_images} images and a difference of "
            f"{agreement.max_difference:.2g}; use best.safetensors, or other versions of torch, onnx and openvino"
        )
    return agreement


def _describe(path: Path, format_name: str, agreement: Agreement) -> ExportedFile:
    sizes = (file.stat().st_size for file in _list_files(path))
    exported = ExportedFile(
        path=path,
        format=format_name,
        size_bytes=sum(sizes),
        num_checked=agreement.num_images,
        max_difference=agreement.max_difference,
        same_top1=agreement.num_same / agreement.num_images,
    )
    if not agreement.num_labelled:
        return exported
    accuracy = agreement.num_right / agreement.num_labelled
    change = (agreement.num_right - agreement.num_reference_right) / agreement.num_labelled
    return replace(exported, accuracy=accuracy, accuracy_change=change)


@contextmanager
def _replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on an error nothing is left under `path`, not even an older export."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except Exception as error:
        for file in _list_files(path):
            file.unlink(missing_ok=True)
        if isinstance(error, (OSError, ValueError, RuntimeError, ImportError)):
            raise ExportError(
                f"export of '{path.name}' failed, no file was written: {summarize_error(error)}"
            ) from error
        raise


@contextmanager
def _replace_pair(path: Path) -> Iterator[Path]:
    """Yield a temporary path for an OpenVINO model; its .bin file, written beside it, gets its name first."""
    with _replace_file(path) as xml:
        written = xml.with_suffix(".bin")
        try:
            yield xml
            with atomic_path(path.with_suffix(".bin")) as binary:
                written.replace(binary)
        finally:
            written.unlink(missing_ok=True)


def _list_files(path: Path) -> list[Path]:
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
