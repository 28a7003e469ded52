"""The network as an ONNX graph, traced from PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.weights.metadata import ModelMetadata


def trace_graph(model: nn.Module, metadata: ModelMetadata) -> Any:
    """Trace a network: `images` (N, 3, S, S) uint8 in; `logits`, `feature_map` and `pooled` out; any N.

    Args:
        model: torchvision's ResNet on the CPU, float32.
        metadata: What the graph carries about itself.

    Returns:
        A `torch.onnx.ONNXProgram`, to be saved.
    """
    size = metadata.preprocessing.input_size
    program = torch.onnx.export(
        _Graph(model, metadata.preprocessing).eval(),
        # Two images: a batch of one would be traced as a constant.
        (torch.zeros(2, 3, size, size, dtype=torch.uint8),),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits", "feature_map", "pooled"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
    )
    assert program is not None
    for graph in (program.model.graph, *program.model.functions.values()):
        _forget_places(graph)
    program.model.metadata_props.clear()
    program.model.metadata_props.update({**metadata.to_plain_strings(), **metadata.to_strings()})
    return program


def _forget_places(graph: Any) -> None:
    """Remove what PyTorch's exporter notes of each node: lines of source files, with their folders on this machine."""
    values = (*graph.inputs, *(value for node in graph for value in node.outputs))
    for part in (graph, *graph, *values):
        part.metadata_props.clear()
        part.doc_string = None


class _Graph(nn.Module):
    """torchvision's ResNet with normalization in front and three outputs."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(model.get_submodule(name) for name in ("conv1", "bn1", "relu", "maxpool")))
        self.stages = nn.Sequential(*(model.get_submodule(f"layer{index}") for index in (1, 2, 3, 4)))
        self.head = model.get_submodule("fc")
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute logits (N, num_classes), feature map (N, C, h, w) and pooled vector (N, C)."""
        normalized = (images.to(torch.float32) - self.mean) / self.std  # (N, 3, S, S)
        feature_map = self.stages(self.stem(normalized))
        pooled = feature_map.mean(dim=(2, 3))
        return self.head(pooled), feature_map, pooled
