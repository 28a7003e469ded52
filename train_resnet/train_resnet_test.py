"""The hub's test of train_resnet: `test(t, data_dict)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ikomia.utils.tests import run_for_test

if TYPE_CHECKING:
    from train_resnet.train_resnet_process import TrainResnet

logger = logging.getLogger(__name__)

#: What the task is run with, one after the other.
CASES: tuple[dict[str, Any], ...] = (
    {"epochs": 1, "batch_size": 2},
    {"epochs": 1, "batch_size": 2, "feature_extract": False, "use_pretrained": False, "input_size": 64},
)


def test(t: TrainResnet, data_dict: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Train on a data set of the hub for an epoch: the head alone, then a whole network from scratch.

    Yields:
        The parameters, and "OK" or a traceback.
    """
    for values in CASES:
        logger.info("train_resnet with %s", values)
        t.set_parameters(values)
        t.get_input(0).set_path(data_dict["datasets"]["classification"]["dataset_classification"])
        yield run_for_test(t)
