"""The exports that the parameters ask for, with the images that each is checked on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from resnetkit.data.dataset import DatasetError
from resnetkit.exports.export import (
    CHECKED_IF_SAME,
    ExportedFile,
    ExportError,
    export_int8,
    export_onnx,
    export_openvino,
    export_pth,
)
from resnetkit.machine.speaking import get_logger
from resnetkit.training.run import Run
from resnetkit.weights.metadata import ModelMetadata

logger = get_logger()

_BATCH_SIZE = 64


def export_model(run: Run, model: nn.Module, metadata: ModelMetadata) -> list[ExportedFile]:
    """Write the formats that the parameters ask for; a stop on request leaves those that are complete.

    Raises:
        ExportError: A file could not be written, or answers differently from PyTorch.
    """
    parameters, val = run.parameters, run.splits.open("val")
    exports = {
        "export_pth": export_pth,
        "export_onnx": export_onnx,
        "export_openvino": export_openvino,
    }
    wanted = [export for name, export in exports.items() if getattr(parameters, name)]
    written = []
    if wanted:
        # The images stand class after class: take some of every class.
        count = CHECKED_IF_SAME if wanted == [export_pth] else _BATCH_SIZE
        indices = np.unique(np.linspace(0, len(run.dataset.val) - 1, count).astype(int))
        try:
            batch = next(val.plain(_BATCH_SIZE, indices.tolist()))
        except (DatasetError, StopIteration) as error:
            raise ExportError("no export was written: the validation images can no longer be read") from error
        for export in wanted:
            run.progress.check()
            written.append(export(run.folder, model, metadata, batch.images))
    if parameters.export_pth and parameters.small_input_stem:
        logger.warning(
            "%s.pth has the small-image stem; plain torchvision cannot load it, infer_resnet can",
            parameters.model_name,
        )
    if parameters.export_int8:
        run.progress.check()
        written.append(export_int8(run.folder, model, metadata, _read_images(run), val.plain(_BATCH_SIZE)))
    return written


def _read_images(run: Run) -> Iterator[torch.Tensor]:
    """Yield training images, (3, S, S) uint8, in an order that mixes the classes."""
    order = torch.randperm(len(run.dataset.train), generator=torch.Generator().manual_seed(run.parameters.seed))
    for batch in run.splits.open("train").plain(_BATCH_SIZE, order.tolist()):
        yield from batch.images
