"""State dicts: read without running code, recognized by names and shapes, and checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.errors import WeightsError

if TYPE_CHECKING:
    import torch

#: Keys under which training programs put the state dict into a checkpoint, and what they put before its names.
_WRAPPER_KEYS = ("state_dict", "model_state", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
#: Counters of batch normalization and of weight averaging, without a part in the answer.
_COUNTERS = ("num_batches_tracked", "n_averaged")


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


def read_tensors(path: Path, is_safetensors: bool) -> dict[str, torch.Tensor]:
    """Read a file's tensors as they are stored, by their names in torchvision's network.

    Raises:
        WeightsError: The file is damaged, would run code, or holds no state dict.
    """
    return _clean_names(_read_safetensors(path) if is_safetensors else _read_torch(path))


def identify_architecture(state_dict: Mapping[str, torch.Tensor]) -> Identity:
    """Tell from names and shapes which ResNet a state dict is of.

    Raises:
        WeightsError: It is none of the five.
    """
    block = "bottleneck" if "layer1.0.conv3.weight" in state_dict else "basic"
    depths = tuple(_count_blocks(state_dict, stage) for stage in (1, 2, 3, 4))
    has_ends = all(_has_shape(state_dict, name, rank) for name, rank in (("conv1.weight", 4), ("fc.weight", 2)))
    for architecture in ARCHITECTURES.values():
        if has_ends and (architecture.block, architecture.depths) == (block, depths):
            has_small_stem = state_dict["conv1.weight"].shape[-1] == 3
            return Identity(architecture.name, state_dict["fc.weight"].shape[0], has_small_stem)
    found = ", ".join(list(state_dict)[:3]) or "nothing"
    raise WeightsError(
        f"holds no ResNet of torchvision ({', '.join(ARCHITECTURES)}); expected names such as conv1.weight, "
        f"layer1.0.conv1.weight, fc.weight, got {found}"
    )


def check_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Compare names and shapes with those of the architecture, before anything is converted or allocated.

    Returns:
        The tensors that the network needs.

    Raises:
        WeightsError: A tensor is missing, superfluous, or of another shape or type.
    """
    model_name, num_classes, small_input_stem = identify_architecture(state_dict)
    expected = ARCHITECTURES[model_name].list_shapes(num_classes, small_input_stem)
    for name, shape in expected.items():
        if name not in state_dict:
            raise WeightsError(f"lacks {name} of {model_name}")
        tensor = state_dict[name]
        if tuple(tensor.shape) != shape or not _is_plain(tensor):
            found = f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")
            raise WeightsError(f"{name} of {model_name} must be plain floats {shape}, got {found}")
    extra = [name for name in state_dict if name not in expected and not name.endswith(_COUNTERS)]
    if extra:
        raise WeightsError(f"has {extra[0]}, which no {model_name} of torchvision has; it is another network")
    return {name: state_dict[name] for name in expected}


def to_float32(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert to float32, without a copy where it is.

    Raises:
        WeightsError: A value is NaN or infinite.
    """
    import torch

    converted = {name: tensor.to(torch.float32) for name, tensor in state_dict.items()}
    for name, tensor in converted.items():
        # The sum of squares is finite only if every value is; reading it once is all that this costs.
        if not torch.isfinite(torch.linalg.vector_norm(tensor)):
            raise WeightsError(f"{name} holds values that are NaN, infinite or absurdly large")
    return converted


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, MemoryError, KeyError) as error:
        raise WeightsError(f"is no complete safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    """Read a `.pth` or `.pt` file of the zip or the legacy format with torch's weights-only reader."""
    import pickle
    import warnings
    import zipfile

    import torch

    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities that are refused here or in `check_state_dict`
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "is no pure state dict: it holds objects that would run code when loaded, or is no PyTorch file; "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch raises many types here, none of them its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"is no complete PyTorch file ({reason})") from error


def _check_archive(path: Path) -> None:
    """Refuse archives that would unpack to more than they are: torch.save never compresses."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"is no complete PyTorch file ({error})") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError("is a compressed archive, which torch.save does not write")


def _clean_names(content: Any) -> dict[str, torch.Tensor]:
    """Unwrap {'state_dict': ...} and the like, and drop the prefixes of DataParallel and torch.compile."""
    import torch

    for _ in range(3):
        inner = [content[key] for key in _WRAPPER_KEYS if isinstance(content, Mapping) and key in content]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise WeightsError(f"holds a {type(content).__name__}; expected a state dict")
    return {_strip_prefixes(str(name)): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def _strip_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _count_blocks(state_dict: Mapping[str, Any], stage: int) -> int:
    count = 0
    while f"layer{stage}.{count}.conv1.weight" in state_dict:
        count += 1
    return count


def _has_shape(state_dict: Mapping[str, torch.Tensor], name: str, rank: int) -> bool:
    return name in state_dict and state_dict[name].ndim == rank


def _is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is made of floats in memory, each stored once: a crafted one claims any size."""
    import torch

    return (
        tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
