"""infer_torchvision_resnet: the task of infer_resnet under the name of an older plugin, for its workflow files."""

from __future__ import annotations

from pathlib import Path

try:
    from infer_resnet.infer_resnet_process import InferResnetFactory, InferResnetParam, InferResnetParamFactory
    from resnetkit.parameters.old_names import OldFactory, OldParameters, OldParametersFactory
except ModuleNotFoundError as error:
    raise ImportError(
        f"infer_torchvision_resnet: is a second name of infer_resnet, but '{error.name}' was not found "
        f"beside '{Path(__file__).absolute().parent}'; install or link infer_resnet there"
    ) from error


class RenamedParam(OldParameters, InferResnetParam):
    """The parameters of infer_resnet; values that only the older plugin understood become defaults."""

    old_name = "infer_torchvision_resnet"


class RenamedFactory(OldFactory, InferResnetFactory):
    """Creates the task under its second name."""

    old_parameters = RenamedParam


class RenamedParamFactory(OldParametersFactory, InferResnetParamFactory):
    """Creates the parameters."""

    old_parameters = RenamedParam
