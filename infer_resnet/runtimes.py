"""What runs the network: the choice between OpenVINO and PyTorch, and what both have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class RuntimeOptionError(ValueError):
    """This machine lacks the runtime, device or precision that was asked for, or they contradict each other."""


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how a network runs: see the parameters of the same names."""

    runtime: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0


@dataclass(frozen=True)
class NetworkSource:
    """A network that has been found and is read only if no compiled copy of it is in the cache.

    Attributes:
        model_name: Architecture.
        num_classes: Number of outputs.
        small_input_stem: Whether the first convolution is 3x3 and there is no max pooling.
        mean: Mean of each channel, of values scaled to 0..1.
        std: Standard deviation of each channel, of values scaled to 0..1.
        content_hash: Identifies the weights in the cache; empty means that nothing is cached.
        input_size: Side in pixels of the images.
        read_state_dict: Reads the weights: torchvision's names, float32.
        graph_path: File of a whole network (.onnx, .xml) that takes the place of the state dict.
    """

    model_name: str
    num_classes: int
    small_input_stem: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    content_hash: str
    input_size: int
    read_state_dict: Callable[[], Mapping[str, torch.Tensor]]
    graph_path: Path | None = None


@dataclass(frozen=True)
class NetworkOutput:
    """What one run of the network gives; the arrays belong to the caller.

    Attributes:
        logits: (N, num_classes) float32.
        feature_map: Output of the last stage, (N, channels, h, w) float32, if asked for.
        pooled: Its mean over h and w, (N, channels) float32, if asked for.
    """

    logits: np.ndarray
    feature_map: np.ndarray | None = None
    pooled: np.ndarray | None = None


class Runtime(Protocol):
    """A network that is ready to run; normalization is part of it.

    Attributes:
        name: "openvino" or "torch".
        device: What it runs on, such as "cpu" or "cuda:0".
        precision: fp32, bf16 or fp16; int8 for a quantized network.
    """

    name: str
    device: str
    precision: str

    def run(self, images: torch.Tensor, with_features: bool = False) -> NetworkOutput:
        """Run the network on images, (N, 3, input_size, input_size) uint8, N at least 1."""

    def read_head_weights(self) -> np.ndarray:
        """Return the weights of the last layer, (num_classes, channels) float32."""


def open_runtime(source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> Runtime:
    """Load a network into the runtime that the options and the machine ask for.

    Runtime `auto` is PyTorch on a GPU, and on a CPU OpenVINO; where OpenVINO is missing or refuses the network,
    PyTorch takes over and a line in the log says so.

    Args:
        source: The network.
        options: Runtime, device, precision and threads.
        cache_folder: Where compiled networks are kept between processes; None keeps none.

    Raises:
        RuntimeOptionError: The machine lacks the runtime, device or precision, or they contradict each other.
        WeightsError: The weights or the graph cannot be read.
    """
    if source.graph_path is not None:
        return _open_graph_file(source, options, cache_folder)
    if options.runtime == "openvino":
        _require_cpu("'runtime' openvino", options.device)
        _require_openvino("'runtime' openvino")
        return _open_openvino(source, options, cache_folder)
    if options.runtime == "torch" or not _is_cpu(options.device):
        return _open_torch(source, options)
    try:
        return _open_openvino(source, options, cache_folder)
    except (ImportError, OSError) as error:
        logger.warning("OpenVINO cannot be loaded (%s); PyTorch runs the network, slower", error)
    except RuntimeError as error:
        logger.warning("OpenVINO refused the network (%s); PyTorch runs it, slower", summarize_error(error))
    return _open_torch(source, options)


def summarize_error(error: Exception) -> str:
    """Return the last line of an error, which is where OpenVINO's many-lined ones say what is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _open_graph_file(source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> Runtime:
    what = f"'{source.graph_path}'"
    if options.runtime == "torch":
        raise RuntimeOptionError(
            f"'runtime' torch cannot run {what}; .onnx and .xml files need OpenVINO: set 'runtime' to auto"
        )
    _require_cpu(what, options.device)
    _require_openvino(what)
    return _open_openvino(source, options, cache_folder)


def _require_cpu(what: str, device: str) -> None:
    if device not in ("auto", "cpu"):
        raise RuntimeOptionError(f"{what} runs on the CPU, got 'device' {device}; set 'device' to auto or cpu")


def _require_openvino(what: str) -> None:
    try:
        import openvino  # noqa: F401 - only to see whether it can be
    except (ImportError, OSError) as error:
        raise RuntimeOptionError(
            f"{what} needs OpenVINO, which cannot be loaded here ({error}); pip install openvino"
        ) from error


def _is_cpu(device: str) -> bool:
    """Tell whether a `device` parameter means the CPU on this machine."""
    if device != "auto":
        return device == "cpu"
    from infer_resnet.torch_runtime import list_devices

    return list_devices() == ["cpu"]


def _open_openvino(source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> Runtime:
    from infer_resnet.openvino_runtime import OpenVinoRuntime

    return OpenVinoRuntime(source, options, cache_folder)


def _open_torch(source: NetworkSource, options: RuntimeOptions) -> Runtime:
    from infer_resnet.torch_runtime import TorchRuntime

    return TorchRuntime(source, options)
