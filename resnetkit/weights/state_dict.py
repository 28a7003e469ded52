"""State dicts: found in what a file holds, recognized by names and shapes, and checked before they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from resnetkit.formats.tensors import FLOAT_TYPES, StoredTensor, Tensors, describe
from resnetkit.formats.torch_file import Inert
from resnetkit.machine.speaking import get_logger
from resnetkit.weights.architectures import ARCHITECTURES, Architecture
from resnetkit.weights.errors import WeightsError

logger = get_logger()

#: Under these names training programs put the weights into a checkpoint; the first that holds a ResNet is taken.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
#: Of two copies of a network, one with such a name is not the one that was trained by gradients.
_AVERAGES = re.compile(r"ema|swa|averag|teacher|momentum|target|encoder_k", re.IGNORECASE)
#: What wrappers of modules put into the middle of names.
_INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
#: Counters of batch normalization, of weight averaging and of profilers (thop), without a part in the answer.
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
#: torchvision's children by their places in `nn.Sequential(*list(resnet.children()))`.
_PLACES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_MAX_DEPTH = 4


class Identity(NamedTuple):
    """Which ResNet a state dict is of.

    Attributes:
        model_name: Architecture.
        num_classes: Number of outputs.
        small_input_stem: Whether the first convolution is 3x3 and there is no max pooling.
    """

    model_name: str
    num_classes: int
    small_input_stem: bool


def find_state_dict(content: Any) -> dict[str, StoredTensor]:
    """Find a ResNet's tensors in whatever a file holds, by their names in torchvision's network.

    Wrappers ({"state_dict": ...}), prefixes of names (module., model.backbone. ...) and heads of other names are
    understood; a line in the log says what was taken where there was a choice.

    Raises:
        WeightsError: It holds no mapping, a whole pickled model, or several networks that could be meant.
    """
    tables = dict(_list_tables(content, set()))
    found = {(place, prefix): table for place, table in tables.items() for prefix in _list_prefixes(table)}
    if not found:
        return _explain_nothing(content, tables)
    place, prefix = _choose(list(found))
    if len(found) > 1 or _AVERAGES.search(place + prefix):
        others = [_join(*key) for key in found if key != (place, prefix)]
        logger.info(
            "weights are taken from '%s'%s", _join(place, prefix), f", not from {', '.join(others)}" if others else ""
        )
    return _name_head(found[place, prefix], prefix)


def identify_architecture(state_dict: Tensors) -> Identity:
    """Tell from names and shapes which ResNet a state dict is of.

    Raises:
        WeightsError: It is none of the five.
    """
    block = "bottleneck" if "layer1.0.conv3.weight" in state_dict else "basic"
    depths = tuple(_count_blocks(state_dict, stage) for stage in (1, 2, 3, 4))
    has_stem = _has_rank(state_dict, "conv1.weight", 4)
    for architecture in ARCHITECTURES.values():
        if not has_stem or (architecture.block, architecture.depths) != (block, depths):
            continue
        if not _has_rank(state_dict, "fc.weight", 2):
            raise WeightsError(
                f"holds no ResNet with its last layer: a {architecture.name} without fc.weight (outputs, "
                f"{architecture.feature_size}), so that it cannot answer; train a head on it, or save the whole network"
            )
        has_small_stem = state_dict["conv1.weight"].shape[-1] == 3
        return Identity(architecture.name, state_dict["fc.weight"].shape[0], has_small_stem)
    found = ", ".join(list(state_dict)[:3]) or "nothing"
    raise WeightsError(
        f"holds no ResNet of torchvision ({', '.join(ARCHITECTURES)}); expected names such as conv1.weight, "
        f"layer1.0.conv1.weight, fc.weight, got {found}"
    )


def check_state_dict(state_dict: Tensors) -> dict[str, StoredTensor]:
    """Compare names and shapes with those of the architecture, before anything is converted or allocated.

    Returns:
        The tensors that the network needs.

    Raises:
        WeightsError: A tensor is missing, superfluous, or of another shape or type.
    """
    model_name, num_classes, small_input_stem = identify_architecture(state_dict)
    expected = ARCHITECTURES[model_name].list_shapes(num_classes, small_input_stem)
    relative = _name_relative(state_dict, ARCHITECTURES[model_name])
    for name, shape in expected.items():
        if name not in state_dict:
            raise WeightsError(f"{relative}lacks {name} of {model_name}")
        tensor = state_dict[name]
        if tuple(tensor.shape) != shape or tensor.dtype not in FLOAT_TYPES or not tensor.is_plain:
            raise WeightsError(f"{relative}{name} of {model_name} must be plain floats {shape}, got {describe(tensor)}")
    extra = [name for name in state_dict if name not in expected and not name.endswith(_COUNTERS)]
    if extra:
        raise WeightsError(f"{relative}has {extra[0]}, which no {model_name} of torchvision has; it is another network")
    return {name: state_dict[name] for name in expected}


def to_arrays(state_dict: Tensors) -> dict[str, np.ndarray]:
    """Read checked tensors as float32; each array is a copy of its own.

    Raises:
        WeightsError: A value is NaN or infinite, or a variance is negative.
    """
    arrays = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name, tensor in state_dict.items():
            array = np.asarray(tensor.to_array(), np.float32)
            flat = array.reshape(-1)
            # The sum of squares is finite only if every value is; reading it once is all that this costs.
            if not np.isfinite(np.dot(flat, flat)):
                raise WeightsError(f"{name} holds values that are NaN, infinite or absurdly large")
            if name.endswith("running_var") and flat.min() < 0:
                raise WeightsError(f"{name} holds negative values, which no variance has")
            arrays[name] = array
    return arrays


def _list_tables(
    content: Any, seen: set[int], place: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, StoredTensor]]]:
    """Yield the place (keys joined by dots) and the tensors of each mapping in what a file holds.

    Each is listed once: a hostile file of some kilobytes holds the same ones in 10^12 places.
    """
    if id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Inert) and content.class_name.startswith("__torch__."):
        yield place, dict(_list_module(content, seen))  # TorchScript: instances of modules with tensors as attributes
        return
    if not isinstance(content, Mapping) or depth == _MAX_DEPTH:
        return
    tensors = {_strip(name): value for name, value in content.items() if isinstance(value, StoredTensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _list_tables(value, seen, f"{place}.{key}" if place else str(key), depth + 1)


def _list_module(module: Inert, seen: set[int], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    attributes = module.attributes if isinstance(module.attributes, dict) else {}
    for name, value in attributes.items():
        if isinstance(value, StoredTensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Inert) and depth < 2 * _MAX_DEPTH and id(value) not in seen:
            seen.add(id(value))
            yield from _list_module(value, seen, f"{prefix}{name}.", depth + 1)


def _strip(name: Any) -> str:
    text = str(name)
    for infix in _INFIXES:
        text = text.replace(infix, "")
    return text


def _list_prefixes(table: Mapping[str, StoredTensor]) -> list[str]:
    """Return what stands before torchvision's names, once for each ResNet in a table of tensors."""
    prefixes = [name.removesuffix("layer1.0.conv1.weight") for name in table if name.endswith("layer1.0.conv1.weight")]
    places = [name.removesuffix("4.0.conv1.weight") for name in table if re.search(r"(^|\.)4\.0\.conv1\.weight$", name)]
    return [prefix for prefix in prefixes if not prefix or prefix.endswith(".")] + [
        prefix for prefix in places if f"{prefix}0.weight" in table
    ]


def _choose(keys: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Choose between several networks: by the usual names, and what was trained before its averages.

    Raises:
        WeightsError: Two are as likely.
    """

    def rank(key: tuple[str, str]) -> tuple[bool, int]:
        first = key[0].partition(".")[0]
        return bool(_AVERAGES.search(_join(*key))), _WRAPPERS.index(first) if first in _WRAPPERS else len(_WRAPPERS)

    ordered = sorted(keys, key=rank)
    if len(ordered) > 1 and rank(ordered[0]) == rank(ordered[1]):
        names = ", ".join(f"'{_join(*key)}'" for key in ordered)
        raise WeightsError(f"holds {len(ordered)} networks, {names}; save the one that is meant by itself")
    return ordered[0]


def _join(place: str, prefix: str) -> str:
    return ".".join(part for part in (place, prefix.removesuffix(".")) if part) or "the top"


def _name_head(table: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """Return a network's tensors without their prefix; a last layer of any name is called fc."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in table.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in table.items() if not name.startswith(prefix)}
    if "layer1.0.conv1.weight" not in inside:
        inside = {_name_place(name): tensor for name, tensor in inside.items()}
    if "fc.weight" in inside or "layer4.0.conv1.weight" not in inside:
        return inside
    features = max(tensor.shape[0] for name, tensor in inside.items() if re.match(r"layer4\.0\.bn\d\.weight", name))
    # Without the names of torchvision: a last layer beside the backbone, or one behind a dropout in a Sequential.
    linear = [
        (part, name)
        for part in (inside, outside)
        for name, tensor in part.items()
        if len(tensor.shape) == 2 and name.endswith(".weight") and not _is_of_backbone(name)
    ]
    if not linear:
        return inside
    if len(linear) > 1 or linear[0][0][linear[0][1]].shape[1] != features:
        names = ", ".join(name.removesuffix(".weight") for _, name in linear)
        raise WeightsError(
            f"has a head of its own ({names}); expected one linear layer behind {features} features, as torchvision has"
        )
    part, name = linear[0]
    return _rename_head(inside, part, name)


def _rename_head(
    inside: Mapping[str, StoredTensor], part: Mapping[str, StoredTensor], name: str
) -> dict[str, StoredTensor]:
    stem = name.removesuffix(".weight")
    weight, bias = part[name], part.get(f"{stem}.bias")
    renamed = {key: tensor for key, tensor in inside.items() if key not in (name, f"{stem}.bias")}
    logger.info("'%s' is taken as the last layer, fc%s", stem, "" if bias is not None else "; it has no bias")
    if bias is None:
        bias = StoredTensor.from_array(np.zeros(weight.shape[0], np.float32))
    return {**renamed, "fc.weight": weight, "fc.bias": bias}


def _name_place(name: str) -> str:
    first, dot, rest = name.partition(".")
    return f"{_PLACES.get(first, first)}{dot}{rest}"


def _is_of_backbone(name: str) -> bool:
    return name.startswith(("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4."))


def _explain_nothing(content: Any, tables: Mapping[str, dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """Return what stands where a state dict would, for the error that names it.

    Raises:
        WeightsError: There is no mapping at all, or a whole pickled model.
    """
    for _ in range(_MAX_DEPTH):
        if isinstance(content, Inert) and not isinstance(content.attributes, type(None)):
            break
        inner = [content[key] for key in _WRAPPERS if isinstance(content, Mapping) and key in content]
        if not inner:
            break
        content = inner[0]
    if isinstance(content, Inert):
        raise WeightsError(
            f"holds a whole {content.class_name}, of which only its code could make a network; "
            "save it again with torch.save(model.state_dict(), path)"
        )
    if not isinstance(content, Mapping):
        name = "Tensor" if isinstance(content, StoredTensor) else type(content).__name__
        raise WeightsError(f"holds a {name}; expected a state dict")
    return max(tables.values(), key=len, default={})


def _name_relative(state_dict: Tensors, architecture: Architecture) -> str:
    """Name the relatives of ResNet-50 and -101 that only the widths of their blocks tell apart.

    ResNeXt: Xie et al. (2017); Wide ResNet: Zagoruyko and Komodakis (2016).
    """
    name = "layer1.0.conv2.weight"
    if architecture.block == "basic" or not _has_rank(state_dict, name, 4):
        return ""
    width, inputs = state_dict[name].shape[:2]
    if width == inputs == 128:
        return f"is a wide_resnet{architecture.name.removeprefix('resnet')}_2, which is not among those supported: "
    if 0 < inputs < width:
        kind = f"resnext{architecture.name.removeprefix('resnet')}_{width // inputs}x{inputs}d"
        return f"is a {kind}, which is not among those supported: "
    return ""


def _count_blocks(state_dict: Tensors, stage: int) -> int:
    count = 0
    while f"layer{stage}.{count}.conv1.weight" in state_dict:
        count += 1
    return count


def _has_rank(state_dict: Tensors, name: str, rank: int) -> bool:
    return name in state_dict and len(state_dict[name].shape) == rank
