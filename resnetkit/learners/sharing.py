"""What the processes of one training share out among them: images of a step, of a split, and the network itself."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import suppress
from importlib import metadata
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from resnetkit import __version__
from resnetkit.data.dataset import Dataset
from resnetkit.data.identity import hash_listing
from resnetkit.learners.initialization import Start
from resnetkit.learners.learner import Predictions
from resnetkit.learners.recipe import Recipe
from resnetkit.machine import ranks
from resnetkit.machine.ranks import JointError
from resnetkit.parameters.training import TrainParameters

#: Batch normalization needs two values a channel, and the last feature map of small images has one an image.
_MIN_IMAGES = 2
#: Parameters that may differ from machine to machine.
_LOCAL_PARAMETERS = ("dataset_folder", "model_weight_file", "num_workers")


def check_processes(parameters: TrainParameters, dataset: Dataset, start: Start, recipe: Recipe) -> None:
    """Refuse processes that would not train one network on one data set.

    Raises:
        JointError: Their parameters, data sets, first weights or versions differ, the batch size is no multiple of
            their number, or there are more than can share the images.
    """
    if (size := ranks.get_size()) == 1:
        return
    values = {name: value for name, value in parameters.model_dump().items() if name not in _LOCAL_PARAMETERS}
    check_agreement(
        **{f"parameter '{name}'": str(value) for name, value in values.items()},
        **{f"version of {name}": metadata.version(name) for name in ("torch", "numpy")},
        **{"version of resnetkit": __version__, "version of Python": ".".join(platform.python_version_tuple()[:2])},
        **{"first weights": start.content_hash or "none", "data set": hash_listing(dataset)},
    )
    if recipe.batch_size % size and not parameters.feature_extract:
        lower = recipe.batch_size // size * size
        raise JointError(
            f"'batch_size' must be a multiple of the {size} processes, which share each batch, got "
            f"{recipe.batch_size}; try {f'{lower} or ' if lower else ''}{lower + size}"
        )
    if len(dataset.train) < _MIN_IMAGES * size:
        raise JointError(
            f"{size} processes need at least {_MIN_IMAGES * size} training images, got {len(dataset.train)}; "
            "start fewer processes"
        )


def check_agreement(**facts: str) -> None:
    """Compare what must be the same everywhere.

    Raises:
        JointError: A fact differs; everybody raises it.
    """
    everyone = ranks.gather((socket.gethostname(), facts))
    for rank, (host, others) in enumerate(everyone):
        for name, value in others.items():
            first = everyone[0][1][name]
            if value != first:
                raise JointError(
                    f"the {len(everyone)} processes of a training must have the same {name}; process 0 has {first} "
                    f"and process {rank} on {host} has {value}; start all of them with the same command on the same "
                    "files"
                )


def check_folder_is_seen(state: Path) -> None:
    """Refuse a run folder whose state the first process sees, but some other does not.

    Raises:
        JointError: It is so; everybody raises it.
    """
    # A machine that has looked for a folder of a network before it was made goes on to miss it for half a minute,
    # unless it opens the folder around it.
    for folder in (state.parent.parent, state.parent):
        with suppress(OSError), os.scandir(folder):
            pass
    first, *others = ranks.gather(state.is_file())
    blind = [rank for rank, seen in enumerate(others, start=1) if first and not seen]
    if blind:
        raise JointError(
            f"the run folder '{state.parent}' is not seen by process {blind[0]}; give a 'run_folder' or an "
            "'output_folder' on a file system that all machines share"
        )


def share_out(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, int]:
    """Return the images of an epoch that are this process' own, and how many of them a step has.

    Each batch is dealt out in turn, so that together the processes take the steps of one. A last batch too small for
    all of them is left out, as that of a single image is by one process; the order changes with the epoch.
    """
    size = ranks.get_size()
    if size == 1:
        return order, batch_size
    rest = len(order) % batch_size
    if rest and (rest < _MIN_IMAGES * size) and batch_size >= _MIN_IMAGES * size:
        order = order[: len(order) - rest]
    return order[ranks.get_rank() :: size], batch_size // size


def gather_predictions(own: Predictions) -> Predictions:
    """Return the predictions of all processes, in the order of the images."""
    if ranks.get_size() == 1:
        return own
    everyone = ranks.gather((own.indices, own.labels, own.logits))
    indices, labels, logits = (np.concatenate(parts) for parts in zip(*everyone, strict=True))
    order = np.argsort(indices)
    return Predictions(indices[order], labels[order], logits[order])


def average_statistics(module: nn.Module) -> None:
    """Let every process have the mean of all running statistics of batch normalization."""
    if ranks.get_size() > 1:
        ranks.average([buffer for buffer in module.buffers() if buffer.is_floating_point()])


def connect(module: nn.Module) -> nn.Module:
    """Return the network with gradients that are the mean over all processes; alone, the network itself.

    All processes begin with the weights of the first one. Running statistics stay apart until `average_statistics`.
    """
    if ranks.get_size() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    names = signature(DistributedDataParallel).parameters
    apart: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False
    }  # torch 2.13
    return DistributedDataParallel(module, process_group=ranks.get_step_group(), **apart)
