"""Where training starts: the network before its first step, and the preprocessing that belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.machine.files import resolve_path
from resnetkit.parameters.training import TrainParameters
from resnetkit.sources.names import enumerate_names
from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.checkpoint import WeightsFile, open_weights
from resnetkit.weights.class_names import CLASSES_NAME, read_class_file
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.models import initialize_head, initialize_model
from resnetkit.weights.published import fetch_imagenet_weights


@dataclass(frozen=True)
class Start:
    """The network before its first step.

    Attributes:
        state_dict: With one output a class, on the CPU; not to be written to.
        preprocessing: How an image becomes its input.
        content_hash: SHA-256 of the file that the weights come from; empty for random ones.
        head: Which classes kept their rows of the last layer, in words; empty where all did, or there were none.
    """

    state_dict: Mapping[str, torch.Tensor]
    preprocessing: Preprocessing
    content_hash: str
    head: str = ""


def initialize(parameters: TrainParameters, classes: Sequence[str]) -> Start:
    """Take the weights from a file, from ImageNet's or from the seed.

    The head's rows stay where the file names their classes; those of other classes are drawn from the seed.

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
    known = _find_classes(weights, len(state_dict["fc.weight"])) if parameters.model_weight_file else ()
    head = ""
    if tuple(known) != tuple(classes):
        state_dict |= _adapt_head(state_dict, known, classes, parameters.seed)
        head = _describe_head(known, classes)
    return Start(state_dict, preprocessing, weights.content_hash, head)


def _find_classes(weights: WeightsFile, num_outputs: int) -> tuple[str, ...]:
    """Return the classes that a file, or the one beside it, names; empty where neither does."""
    if weights.metadata is not None:
        return weights.metadata.classes
    beside = weights.path.with_name(CLASSES_NAME)
    names = read_class_file(beside) if beside.is_file() else ()
    return names if len(names) == num_outputs else ()


def _adapt_head(
    state_dict: Mapping[str, torch.Tensor], known: Sequence[str], classes: Sequence[str], seed: int
) -> dict[str, torch.Tensor]:
    """Return a head for other classes: the rows of those that have their names in both, and new ones.

    Each new row has draws of its own, from the seed and the class's name, so that no other class has a part in it.

    Args:
        state_dict: Of the network, with `fc.weight` (len(known), features) and `fc.bias`.
        known: The classes of its outputs; empty where they have no names.
        classes: The classes wanted.
        seed: Start of the draws.
    """
    features = state_dict["fc.weight"].shape[1]
    rows = {name: row for row, name in enumerate(known) if name in set(classes)}
    if not rows:
        return initialize_head(features, len(classes), seed)
    weight, bias = torch.empty(len(classes), features), torch.empty(len(classes))
    for place, name in enumerate(classes):
        if name in rows:
            weight[place], bias[place] = state_dict["fc.weight"][rows[name]], state_dict["fc.bias"][rows[name]]
        else:
            drawn = initialize_head(features, 1, _derive_seed(seed, name))
            weight[place], bias[place] = drawn["fc.weight"][0], drawn["fc.bias"][0]
    return {"fc.weight": weight, "fc.bias": bias}


def _describe_head(known: Sequence[str], classes: Sequence[str]) -> str:
    """Say what `_adapt_head` does."""
    kept = set(known) & set(classes)
    if not kept:
        return f"new head for {len(classes)} classes"
    new = enumerate_names([name for name in classes if name not in kept]) or "none"
    dropped = enumerate_names([name for name in known if name not in kept]) or "none"
    return f"the head keeps the rows of {len(kept)} classes by their names; new: {new}; dropped: {dropped}"


def _derive_seed(seed: int, name: str) -> int:
    """Return a seed for one class, from 0 to 2**63 - 1."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


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
