"""Where training starts: the network before its first step, and the preprocessing that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.machine.files import resolve_path
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.training import TrainParameters
from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.checkpoint import WeightsFile, open_weights
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.models import fetch_imagenet_weights, initialize_head, initialize_model

logger = get_logger()


@dataclass(frozen=True)
class Start:
    """The network before its first step.

    Attributes:
        state_dict: With one output a class, on the CPU; not to be written to.
        preprocessing: How an image becomes its input.
        content_hash: SHA-256 of the file that the weights come from; empty for random ones.
    """

    state_dict: Mapping[str, torch.Tensor]
    preprocessing: Preprocessing
    content_hash: str


def initialize(parameters: TrainParameters, classes: Sequence[str]) -> Start:
    """Take the weights from a file, from ImageNet's or from the seed.

    The head stays only where the file names the same classes in the same order.

    Raises:
        WeightsError: The file is missing, damaged, or of another architecture or stem than the parameters say.
    """
    preprocessing = _get_preprocessing(parameters)
    if not parameters.model_weight_file and not parameters.use_pretrained:
        model = initialize_model(
            parameters.model_name, len(classes), parameters.seed, small_input_stem=parameters.small_input_stem
        )
        return Start(model.state_dict(), preprocessing, "")
    if parameters.model_weight_file:
        weights = open_weights(resolve_path(parameters.model_weight_file))
        _check_architecture(weights, parameters)
    else:
        weights = open_weights(fetch_imagenet_weights(parameters.model_name))
    if weights.preprocessing is not None:
        kept = weights.preprocessing.at_size(parameters.input_size)
        preprocessing = replace(kept, resize_mode=parameters.resize_mode)
    state_dict = weights.read_state_dict()
    if weights.metadata is None or tuple(weights.metadata.classes) != tuple(classes):
        state_dict |= initialize_head(state_dict["fc.weight"].shape[1], len(classes), parameters.seed)
        logger.info("new head for %d classes", len(classes))
    return Start(state_dict, preprocessing, weights.content_hash)


def _get_preprocessing(parameters: TrainParameters) -> Preprocessing:
    """Return that of the architecture's published weights; its proportions serve random weights as well."""
    preprocessing = ARCHITECTURES[parameters.model_name].get_weights().preprocessing
    return replace(preprocessing.at_size(parameters.input_size), resize_mode=parameters.resize_mode)


def _check_architecture(weights: WeightsFile, parameters: TrainParameters) -> None:
    if weights.is_graph:
        raise WeightsError(
            f"'{weights.path}' is a {weights.format} graph, which cannot be trained; "
            "expected a state dict (.safetensors, .pth, .pt)"
        )
    identity = weights.identify()
    if identity.model_name != parameters.model_name:
        raise WeightsError(
            f"'{weights.path}' holds a {identity.model_name}, but 'model_name' is {parameters.model_name}; "
            f"set model_name={identity.model_name}"
        )
    if identity.small_input_stem != parameters.small_input_stem:
        raise WeightsError(
            f"'{weights.path}' was trained with small_input_stem={identity.small_input_stem}, but "
            f"'small_input_stem' is {parameters.small_input_stem}; set it to {identity.small_input_stem}"
        )
