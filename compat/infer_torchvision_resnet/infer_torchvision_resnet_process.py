"""infer_torchvision_resnet: the task of infer_resnet under the name of an older plugin, for its workflow files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from infer_resnet.infer_resnet_process import (
        InferResnet,
        InferResnetFactory,
        InferResnetParam,
        InferResnetParamFactory,
    )
    from resnetkit.parameters.old_names import forget_plugin_paths
except ModuleNotFoundError as error:
    raise ImportError(
        f"infer_torchvision_resnet: is a second name of infer_resnet, but '{error.name}' was not found "
        f"beside '{Path(__file__).absolute().parent}'; install or link infer_resnet there"
    ) from error

NAME = "infer_torchvision_resnet"


class RenamedParam(InferResnetParam):
    """The parameters of infer_resnet; values that only the older plugin understood become defaults."""

    def get_values(self) -> dict[str, str]:
        """Return all parameters as strings, the retired ones empty: the engine makes `ik.NAME(...)` of these names."""
        return {**super().get_values(), **dict.fromkeys(self.parameters_class.retired, "")}

    def set_values(self, strings: Mapping[str, str]) -> None:
        """Take the engine's strings."""
        super().set_values(forget_plugin_paths(strings, NAME))

    def update(self, values: Mapping[str, Any]) -> None:
        """Change some parameters."""
        super().update(forget_plugin_paths(values, NAME))


class RenamedFactory(InferResnetFactory):
    """Creates the task under its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.info.name = NAME
        self.info.short_description = f"Second name of infer_resnet. {self.info.short_description}"

    def create(self, param: InferResnetParam | None = None) -> InferResnet:
        """Create a task; its parameters may be ready already."""
        return InferResnet(NAME, param or RenamedParam())


class RenamedParamFactory(InferResnetParamFactory):
    """Creates the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.name = NAME

    def create(self) -> RenamedParam:
        """Create parameters with their default values."""
        return RenamedParam()
