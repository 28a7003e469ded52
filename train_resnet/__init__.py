"""Train ResNet image classifiers in Ikomia workflows; needs the plugin infer_resnet beside it."""

from importlib.util import find_spec
from pathlib import Path

if find_spec("infer_resnet") is None:
    raise ImportError(
        "train_resnet: needs the plugin infer_resnet beside it, which was not found in "
        f"'{Path(__file__).absolute().parent.parent}'; install or link infer_resnet there, too"
    )
