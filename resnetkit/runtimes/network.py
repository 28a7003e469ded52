"""A network and what runs it, as every runtime and every user of one sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

    from resnetkit.weights.metadata import ModelMetadata

    Weight: TypeAlias = np.ndarray | torch.Tensor


class RuntimeOptionError(ValueError):
    """This machine lacks the runtime, device or precision that was asked for, or they contradict each other."""


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how a network runs: see the parameters of the same names.

    Attributes:
        is_for_batches: Whether many images are to be run in the least time, instead of each as soon as may be; to
            PyTorch it is the same.
    """

    runtime: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    is_for_batches: bool = False


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
        read_state_dict: Reads the weights: torchvision's names, float32; arrays or tensors of torch.
        graph_path: File of a whole network (.onnx, .xml) that takes the place of the state dict.
        check_unchanged: Raises WeightsError where the files are no longer what `content_hash` was made from.
    """

    model_name: str
    num_classes: int
    small_input_stem: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    content_hash: str
    input_size: int
    read_state_dict: Callable[[], Mapping[str, Weight]]
    graph_path: Path | None = None
    check_unchanged: Callable[[], None] | None = None

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Read the weights as arrays; torch is not imported."""
        return {
            name: value if isinstance(value, np.ndarray) else value.detach().numpy()
            for name, value in self.read_state_dict().items()
        }

    @classmethod
    def from_metadata(
        cls,
        metadata: ModelMetadata,
        read_state_dict: Callable[[], Mapping[str, Weight]],
        graph_path: Path | None = None,
    ) -> NetworkSource:
        """Describe a network by what its file says about itself; no compiled copy of it is kept."""
        return cls(
            model_name=metadata.model_name,
            num_classes=len(metadata.classes),
            small_input_stem=metadata.small_input_stem,
            mean=metadata.preprocessing.mean,
            std=metadata.preprocessing.std,
            content_hash="",
            input_size=metadata.preprocessing.input_size,
            read_state_dict=read_state_dict,
            graph_path=graph_path,
        )


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

    def run(self, images: np.ndarray, with_features: bool = False) -> NetworkOutput:
        """Run the network on images, (N, 3, input_size, input_size) uint8, N at least 1."""

    def read_head_weights(self) -> np.ndarray:
        """Return the weights of the last layer, (num_classes, channels) float32."""


def choose_precision(precision: str, available: Sequence[str], where: str) -> str:
    """Return the precision that a `precision` parameter means.

    Args:
        precision: fp32, bf16 or fp16; auto means the fastest.
        available: What runs natively, fastest first.
        where: Runtime and device, for the error.

    Raises:
        RuntimeOptionError: It does not run natively there.
    """
    if precision == "auto":
        return available[0]
    if precision not in available:
        raise RuntimeOptionError(
            f"'precision' {precision} does not run natively in {where}, which has {', '.join(available)}; "
            "set 'precision' to one of them, or to auto"
        )
    return precision


def summarize_error(error: Exception) -> str:
    """Return the last line of an error, which is where OpenVINO's many-lined ones say what is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
