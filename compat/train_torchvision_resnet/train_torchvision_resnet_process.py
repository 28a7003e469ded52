"""train_torchvision_resnet: the task of train_resnet under the name of an older plugin, for its workflow files."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

try:
    from resnetkit.parameters.old_names import OldFactory, OldParameters, OldParametersFactory
    from train_resnet.train_resnet_process import TrainResnetFactory, TrainResnetParam, TrainResnetParamFactory
except ModuleNotFoundError as error:
    raise ImportError(
        f"train_torchvision_resnet: is a second name of train_resnet, but '{error.name}' was not found "
        f"beside '{Path(__file__).absolute().parent}'; install or link train_resnet there"
    ) from error


class RenamedParam(OldParameters, TrainResnetParam):
    """The parameters of train_resnet; values that only the older plugin understood become defaults."""

    old_name = "train_torchvision_resnet"
    old_defaults = MappingProxyType(
        {"optimizer": "sgd", "augmentation": "basic", "epochs": 15, "batch_size": 8, "learning_rate": 0.001}
    )


class RenamedFactory(OldFactory, TrainResnetFactory):
    """Creates the task under its second name."""

    old_parameters = RenamedParam


class RenamedParamFactory(OldParametersFactory, TrainResnetParamFactory):
    """Creates the parameters."""

    old_parameters = RenamedParam
