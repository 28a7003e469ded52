"""Fixtures for the tests of infer_resnet's modules: networks whose answers are of a sensible size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest


@pytest.fixture(scope="session")
def calibrate_model(photographs: Mapping[str, np.ndarray]) -> Callable:
    """`calibrate_model(model_name, num_classes=1000, small_input_stem=False)`: a seeded network in evaluation mode.

    Its batch-norm statistics are estimated on photographs: with torchvision's initial ones the values of resnet152
    grow to 1e8.
    """
    import torch

    from infer_resnet.architectures import IMAGENET_MEAN, IMAGENET_STD
    from infer_resnet.model import initialize_model
    from infer_resnet.preprocessing import Preprocessing, normalize

    preprocessing = Preprocessing(128, 146, "crop", IMAGENET_MEAN, IMAGENET_STD)
    images = [photographs[name] for name in ("china", "flower", "portrait", "astronaut")]
    images += [image[::-1, ::-1] for image in images]
    batch = normalize(torch.stack([preprocessing.prepare(image) for image in images]), IMAGENET_MEAN, IMAGENET_STD)

    def calibrate(model_name: str, num_classes: int = 1000, small_input_stem: bool = False) -> torch.nn.Module:
        model = initialize_model(model_name, num_classes, seed=1, small_input_stem=small_input_stem).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average of all batches, here of one
        with torch.no_grad():
            model(batch)
        return model.eval().requires_grad_(False)

    return calibrate
