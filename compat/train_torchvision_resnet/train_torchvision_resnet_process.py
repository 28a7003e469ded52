"""train_torchvision_resnet: the task of train_resnet under the name of an older plugin, for its workflow files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from resnetkit.parameters.old_names import forget_plugin_paths
    from train_resnet.train_resnet_process import (
        TrainResnet,
        TrainResnetFactory,
        TrainResnetParam,
        TrainResnetParamFactory,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        f"train_torchvision_resnet: is a second name of train_resnet, but '{error.name}' was not found "
        f"beside '{Path(__file__).absolute().parent}'; install or link train_resnet and infer_resnet there"
    ) from error

NAME = "train_torchvision_resnet"


class RenamedParam(TrainResnetParam):
    """The parameters of train_resnet; values that only the older plugin understood become defaults."""

    def set_values(self, strings: Mapping[str, str]) -> None:
        """Take the engine's strings."""
        super().set_values(forget_plugin_paths(strings, NAME))

    def update(self, values: Mapping[str, Any]) -> None:
        """Change some parameters."""
        super().update(forget_plugin_paths(values, NAME))


class RenamedFactory(TrainResnetFactory):
    """Creates the task under its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.info.name = NAME
        self.info.short_description = f"Second name of train_resnet. {self.info.short_description}"

    def create(self, param: TrainResnetParam | None = None) -> TrainResnet:
        """Create a task; its parameters may be ready already."""
        return TrainResnet(NAME, param or RenamedParam())


class RenamedParamFactory(TrainResnetParamFactory):
    """Creates the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.name = NAME

    def create(self) -> RenamedParam:
        """Create parameters with their default values."""
        return RenamedParam()
