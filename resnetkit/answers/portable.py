"""What of a model has to travel with it: all its files, the one that names it first."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from resnetkit.machine.files import resolve_path
from resnetkit.runtimes.known_files import KnownFiles, get_cache_folder
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, open_weights
from resnetkit.weights.class_names import CLASSES_NAME
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import PREPROCESSING_NAME


def list_model_files(text: str) -> tuple[Path, ...]:
    """Return the files of a model, absolute: the weights file itself, then what it is read with.

    The others are an OpenVINO model's .bin, an ONNX model's external data, and the class names and preprocessing beside
    a file that says nothing of itself. All lie in the folder of the first or below it.

    Args:
        text: A parameter's value: a weights file or a run folder, `~` and `file://` included.

    Returns:
        The files; none where there is no weights file, or where it cannot be read.
    """
    try:
        path = resolve_path(text)
        path = path / BEST_CHECKPOINT if path.is_dir() else path
        status = path.stat()
        return _list_files(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, WeightsError):
        return ()


@lru_cache(maxsize=8)
def _list_files(path: Path, _modified_ns: int, _size: int) -> tuple[Path, ...]:
    """Look at a file once, not whenever the engine asks for the parameters."""
    file = open_weights(path, KnownFiles(get_cache_folder()).recall)
    beside: list[Path] = []
    if file.metadata is None:
        beside = [path.with_name(name) for name in (PREPROCESSING_NAME, CLASSES_NAME)]
    return (
        path,
        *(Path(os.path.abspath(each)) for each in file.side_files),
        *(each for each in beside if each.is_file()),
    )
