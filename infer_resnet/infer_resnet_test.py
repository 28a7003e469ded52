"""The hub's test of infer_resnet: `test(t, data_dict)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ikomia.utils.tests import run_for_test

from resnetkit.images.reading import read_image
from resnetkit.machine.files import resolve_path

if TYPE_CHECKING:
    from infer_resnet.infer_resnet_process import InferResnet

logger = logging.getLogger(__name__)

#: What the task is run with, one after the other.
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 3, "heatmap": True, "embedding": True},
    {"runtime": "torch", "resize_mode": "letterbox", "input_size": 128},
)


def test(t: InferResnet, data_dict: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Classify a photograph of the hub's data with several parameters.

    Yields:
        The parameters, and "OK" or a traceback.
    """
    image = read_image(resolve_path(data_dict["images"]["detection"]["coco"]))
    for values in CASES:
        logger.info("infer_resnet with %s", values or "its defaults")
        t.set_parameters(values)
        t.get_input(0).set_image(image)
        yield run_for_test(t)
