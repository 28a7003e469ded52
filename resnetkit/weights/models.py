"""The networks themselves: built without wasted work, frozen, given a new head."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn


def build_model(model_name: str, num_classes: int, small_input_stem: bool = False) -> nn.Module:
    """Build torchvision's ResNet without memory for its weights (on the meta device).

    Args:
        model_name: resnet18, resnet34, resnet50, resnet101 or resnet152.
        num_classes: Number of outputs.
        small_input_stem: Replace the 7x7 stride-2 convolution and the max pooling by a 3x3 convolution, as He et al.
            (2015), section 4.2, do for CIFAR's 32x32 images.

    Returns:
        The network; its state dict has the names of torchvision's.
    """
    from torchvision import models

    with torch.device("meta"):
        model: nn.Module = models.get_model(model_name, weights=None, num_classes=num_classes)
        if small_input_stem:
            _replace_stem(model)
    return model


def load_model(
    model_name: str, state_dict: Mapping[str, torch.Tensor | np.ndarray], small_input_stem: bool = False
) -> nn.Module:
    """Build a network around the tensors or arrays of a state dict, without copying them; in evaluation mode."""
    model = build_model(model_name, state_dict["fc.weight"].shape[0], small_input_stem)
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in state_dict.items()
    }
    model.load_state_dict(add_counters(tensors), assign=True)
    return model.eval()


def add_counters(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with batch normalization's counters of batches; those that are missing are zero."""
    norms = [name.removesuffix("running_mean") for name in state_dict if name.endswith("running_mean")]
    return {
        **{f"{norm}num_batches_tracked": torch.zeros((), dtype=torch.long, device="cpu") for norm in norms},
        **state_dict,
    }


def initialize_model(model_name: str, num_classes: int, seed: int, small_input_stem: bool = False) -> nn.Module:
    """Build a network with the weights that torchvision draws after `torch.manual_seed(seed)`.

    They come from a generator of their own, so that no other thread has a part in them. Torchvision draws twice: each
    layer initializes itself as it is made, the downsampling of a stage before its first block, and then all
    convolutions anew, in the order of their names.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    model = build_model(model_name, num_classes).to(torch.float32).to_empty(device="cpu")
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    for name in sorted(convolutions, key=_find_place_of_making):
        _discard(convolutions[name].weight, generator)
    head = initialize_head(model.fc.in_features, num_classes, generator)  # type: ignore[arg-type, union-attr]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    model.load_state_dict(head, strict=False)
    if small_input_stem:
        with torch.device("meta"):  # which draws nothing
            stem = _replace_stem(model)
        stem.to(torch.float32).to_empty(device="cpu")
        _discard(stem.weight, generator)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return model


def initialize_head(feature_size: int, num_classes: int, seed: int | torch.Generator) -> dict[str, torch.Tensor]:
    """Return a new last layer: `fc.weight` (num_classes, feature_size) and `fc.bias`, drawn as `nn.Linear` does.

    Args:
        feature_size: Inputs.
        num_classes: Outputs.
        seed: Start of the draws, or what is drawn from.
    """
    generator = torch.Generator("cpu").manual_seed(seed) if isinstance(seed, int) else seed
    bound = 1 / math.sqrt(feature_size)
    weight, bias = (
        torch.empty(shape, dtype=torch.float32, device="cpu") for shape in ((num_classes, feature_size), (num_classes,))
    )
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    nn.init.uniform_(bias, -bound, bound, generator=generator)
    return {"fc.weight": weight, "fc.bias": bias}


def _find_place_of_making(name: str) -> tuple[int, ...]:
    """Return what a convolution's name is sorted by: the order in which torchvision makes them."""
    if name == "conv1":
        return (0,)
    stage, block, layer = name.split(".")[:3]
    return int(stage.removeprefix("layer")), int(block), 0 if layer == "downsample" else int(layer.removeprefix("conv"))


def _discard(weight: torch.Tensor, generator: torch.Generator) -> None:
    """Draw what a layer initializes its weights with."""
    torch.empty(weight.shape, dtype=torch.float32, device="cpu").uniform_(generator=generator)


def skip_padding(model: nn.Module) -> None:
    """Let the 3x3 convolutions of a network leave out what sees nothing but padding, where their output is one pixel.

    That is so in the last stage for images of 32 pixels, which holds three quarters of all weights. The outputs are the
    same but for rounding, and a step of ResNet-18 takes two thirds of the time; weights keep their names and shapes.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and (module.kernel_size, module.padding) == ((3, 3), (1, 1)):
            module.__class__ = _PaddingSkipper


class _PaddingSkipper(nn.Conv2d):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (N, channels, rows, columns), of maps of other channels."""
        rows, columns = maps.shape[2:]
        if max(rows, columns) > min(self.stride):  # more than one pixel comes out
            return super().forward(maps)
        return F.conv2d(maps, self.weight[:, :, 1 : 1 + rows, 1 : 1 + columns])


def _replace_stem(model: nn.Module) -> nn.Conv2d:
    """Put the small-image stem into a network; return its convolution."""
    convolution = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.conv1, model.maxpool = convolution, nn.Identity()
    return convolution
