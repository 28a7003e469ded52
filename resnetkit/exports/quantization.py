"""Static int8 quantization of an OpenVINO graph by NNCF, which is an optional requirement."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.machine.imports import without_telemetry
from resnetkit.machine.progress import check_stop

if TYPE_CHECKING:
    import openvino as ov

#: Images beyond it change the ranges of the activations no more; NNCF's own default.
MAX_CALIBRATION_IMAGES = 300


class QuantizationError(ValueError):
    """A graph cannot be quantized: NNCF is missing, there are no images, or they have another shape."""


def quantize_graph(graph: ov.Model, images: Iterable[Any]) -> ov.Model:
    """Return the graph in int8: weights a channel, activations by the ranges that the images give.

    The last layer stays in float32: it is a thousandth of the work, and heat maps are made from its weights.

    Args:
        graph: A graph of `resnetkit.runtimes.openvino_graph`; it is not changed.
        images: Prepared images, (3, S, S) uint8 each; the first 300 are used.

    Returns:
        The quantized graph, with the same input and outputs.

    Raises:
        QuantizationError: NNCF is not installed, there is no image, or one has the wrong shape.
    """
    calibration = _collect_images(images, int(graph.input().get_partial_shape()[2].get_length()))
    with _imported_quietly():
        nncf = _import_nncf()
    with _silenced():
        quantized: ov.Model = nncf.quantize(
            graph,
            nncf.Dataset(calibration, _prepare),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(types=["MatMul"]),
        )
    return quantized


def _collect_images(images: Iterable[Any], size: int) -> list[np.ndarray]:
    collected: list[np.ndarray] = []
    for image in images:
        check_stop()
        array = np.asarray(image)
        if array.shape != (3, size, size) or array.dtype != np.uint8:
            raise QuantizationError(
                f"int8 calibration: images must be (3, {size}, {size}) uint8, got {array.shape} {array.dtype}"
            )
        collected.append(array)
        if len(collected) == MAX_CALIBRATION_IMAGES:
            break
    if not collected:
        raise QuantizationError("int8 calibration: there are no images; give at least one, better 100 to 300")
    return collected


def _prepare(image: np.ndarray) -> np.ndarray:
    """Return an image as a batch; NNCF asks for each when it is its turn, so that a stop need not wait for all."""
    check_stop()
    return image[None]


def _import_nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise QuantizationError(
            f"int8 quantization needs NNCF, which cannot be imported ({error}); pip install nncf"
        ) from error
    return nncf


@contextlib.contextmanager
def _imported_quietly() -> Iterator[None]:
    """Keep NNCF's import from reporting over the network, warning, and changing Python's logging."""
    logger_class = logging.getLoggerClass()
    previous = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # no telemetry
    try:
        with warnings.catch_warnings(), without_telemetry():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.setLoggerClass(logger_class)
        if previous is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = previous


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep NNCF's progress bars, messages and warnings from the terminal."""
    # The second one speaks of CUDA where there is none.
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("nncf", "torch.utils.cpp_extension")}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
