"""ResNet image classification: train on a folder of images, classify, explain; what both Ikomia plugins stand on.

from resnetkit import load_model

model = load_model("runs/latest")
print(model.predict("apple.jpg").label)
for answer in model.classify("photographs"):
    print(answer.path, answer.label, answer.confidence)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetkit.folders.classifier import Classifier

__version__ = "0.1.0"

__all__ = ["__version__", "load_model"]


def load_model(model: str | os.PathLike[str] = "", **parameters: Any) -> Classifier:
    """Load a model: `load_model("runs/latest", top_k=3)`.

    Args:
        model: A run folder of train_resnet, or any weights file that infer_resnet runs; empty means ImageNet.
        **parameters: Those of infer_resnet, such as `model_name`, `top_k`, `precision`, `embedding`.

    Raises:
        ParameterError: A parameter is unknown or wrong, or contradicts the weights file.
        WeightsError: Weights or class names are missing, damaged or do not fit.
    """
    from resnetkit.folders.classifier import Classifier  # Only who loads a model waits for what it needs.
    from resnetkit.parameters.inference import InferParameters

    given = {"model_weight_file": model} if os.fspath(model) else {}
    return Classifier(InferParameters().updated({**given, **parameters}))
