"""The networks themselves: built without wasted work, frozen, given a new head, fetched from torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import torch
from torch import nn

from resnetkit.machine.files import get_ikomia_root
from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.errors import WeightsError


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
    """Build a network with torchvision's random initialization; torch's global random state stays as it was."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = models.get_model(model_name, weights=None, num_classes=num_classes)
        if small_input_stem:
            nn.init.kaiming_normal_(_replace_stem(model).weight, mode="fan_out", nonlinearity="relu")
    return model


def initialize_head(feature_size: int, num_classes: int, seed: int) -> dict[str, torch.Tensor]:
    """Return a new last layer, initialized from the seed: `fc.weight` (num_classes, feature_size) and `fc.bias`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(feature_size, num_classes)
    return {f"fc.{name}": tensor for name, tensor in head.state_dict().items()}


def fetch_imagenet_weights(model_name: str, weights_name: str = "DEFAULT") -> Path:
    """Return the file of torchvision's ImageNet weights, downloaded first where it is not in torch's cache folder.

    Args:
        model_name: Architecture.
        weights_name: DEFAULT, IMAGENET1K_V1 or IMAGENET1K_V2.

    Raises:
        WeightsError: There are no such weights, or the download failed or has the wrong hash.
    """
    weights = ARCHITECTURES[model_name].get_weights(weights_name)
    folder = Path(torch.hub.get_dir())
    if not folder.is_absolute():  # "~" of a user without a home folder
        folder = get_ikomia_root() / "Models" / "torch"
    path = folder / "checkpoints" / weights.file_name
    if not path.is_file():
        _download(_find_url(model_name, weights.name), path)
    return path


def _replace_stem(model: nn.Module) -> nn.Conv2d:
    """Put the small-image stem into a network; return its convolution."""
    convolution = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.conv1, model.maxpool = convolution, nn.Identity()
    return convolution


def _find_url(model_name: str, weights_name: str) -> str:
    from torchvision import models

    return str(models.get_model_weights(model_name)[weights_name].url)


def _download(url: str, path: Path) -> None:
    """Download into torch's cache; the hash in the file name is checked, as torch's own loader does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_prefix, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise WeightsError(
            f"ImageNet weights '{path.name}' are not in '{path.parent}' and could not be downloaded from {url} "
            f"({error}); without network, put the file there, or set 'model_weight_file' to weights of your own"
        ) from error
