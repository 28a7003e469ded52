"""ImageNet weights as torchvision publishes them: kept where torch keeps its downloads, and fetched without torch."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from resnetkit.machine.files import atomic_path, get_ikomia_root
from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.errors import WeightsError

#: Where torchvision's weights are published; a test compares the addresses with torchvision's.
ADDRESS = "https://download.pytorch.org/models"

_CHUNK_BYTES = 1 << 20
#: Without a byte for so long, the connection is given up.
_TIMEOUT_S = 60


def fetch_imagenet_weights(model_name: str, weights_name: str = "DEFAULT") -> Path:
    """Return the file of torchvision's ImageNet weights, downloaded first where it is not in torch's cache folder.

    Args:
        model_name: Architecture.
        weights_name: DEFAULT, IMAGENET1K_V1 or IMAGENET1K_V2.

    Raises:
        WeightsError: There are no such weights, or the download failed or has the wrong hash.
    """
    weights = ARCHITECTURES[model_name].get_weights(weights_name)
    path = _get_download_folder() / weights.file_name
    if not path.is_file():
        _download(f"{ADDRESS}/{weights.file_name}", path)
    return path


def _get_download_folder() -> Path:
    """Return the folder that `torch.hub` keeps weights in, so that both find what the other one has fetched."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    root = Path(os.path.expanduser(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))))  # noqa: PTH111, PTH118
    if not root.is_absolute():  # "~" of a user without a home folder
        return get_ikomia_root() / "Models" / "torch" / "checkpoints"
    return root / "hub" / "checkpoints"


def _download(url: str, path: Path) -> None:
    """Download a file whose name ends in the first digits of its SHA-256; it appears whole and right, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            digest = _copy(url, temporary)
            expected = path.stem.rsplit("-", 1)[-1]
            if not digest.startswith(expected):
                raise OSError(f"invalid hash value, expected {expected}, got {digest[: len(expected)]}")
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise WeightsError(
            f"ImageNet weights '{path.name}' are not in '{path.parent}' and could not be downloaded from {url} "
            f"({error}); without network, put the file there, or set 'model_weight_file' to weights of your own"
        ) from error


def _copy(url: str, target: Path) -> str:
    """Write what an address gives into a file; return its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with urlopen(url, timeout=_TIMEOUT_S) as answer, target.open("wb") as stream:
        while chunk := answer.read(_CHUNK_BYTES):
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()
