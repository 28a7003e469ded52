"""The choice between OpenVINO and PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from resnetkit.machine.imports import lean_openvino
from resnetkit.machine.speaking import get_logger
from resnetkit.runtimes.network import NetworkSource, Runtime, RuntimeOptionError, RuntimeOptions, summarize_error

logger = get_logger()


def open_runtime(source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> Runtime:
    """Load a network into the runtime that the options and the machine ask for.

    Runtime `auto` is PyTorch on a GPU, and on a CPU OpenVINO; where OpenVINO is missing or refuses the network,
    PyTorch takes over and a line in the log says so.

    Args:
        source: The network.
        options: Runtime, device, precision and threads.
        cache_folder: Where compiled networks are kept between processes; None keeps none.

    Raises:
        RuntimeOptionError: The machine lacks the runtime, device or precision, or they contradict each other.
        WeightsError: The weights or the graph cannot be read.
    """
    if source.graph_path is not None:
        return _open_graph_file(source, options, cache_folder)
    if options.runtime == "openvino":
        _require_cpu("'runtime' openvino", options.device)
        _require_openvino("'runtime' openvino")
        return _open_openvino(source, options, cache_folder)
    if options.runtime == "torch":
        _require_torch("'runtime' torch")
        return _open_torch(source, options)
    if not _is_cpu(options.device):
        _require_torch(f"'device' {options.device}")
        return _open_torch(source, options)
    try:
        return _open_openvino(source, options, cache_folder)
    except (ImportError, OSError) as error:
        if find_spec("torch") is None:
            _require_openvino("'runtime' auto on a CPU")
        logger.warning("OpenVINO cannot be loaded (%s); PyTorch runs the network, slower", error)
    except RuntimeError as error:
        if find_spec("torch") is None:
            raise
        logger.warning("OpenVINO refused the network (%s); PyTorch runs it, slower", summarize_error(error))
    return _open_torch(source, options)


def _open_graph_file(source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> Runtime:
    what = f"'{source.graph_path}'"
    if options.runtime == "torch":
        raise RuntimeOptionError(
            f"'runtime' torch cannot run {what}; .onnx and .xml files need OpenVINO: set 'runtime' to auto"
        )
    _require_cpu(what, options.device)
    _require_openvino(what)
    return _open_openvino(source, options, cache_folder)


def _require_cpu(what: str, device: str) -> None:
    if device not in ("auto", "cpu"):
        raise RuntimeOptionError(f"{what} runs on the CPU, got 'device' {device}; set 'device' to auto or cpu")


def _require_openvino(what: str) -> None:
    try:
        with lean_openvino():
            import openvino  # noqa: F401 - only to see whether it can be
    except (ImportError, OSError) as error:
        raise RuntimeOptionError(
            f"{what} needs OpenVINO, which cannot be loaded here ({error}); pip install openvino"
        ) from error


def _require_torch(what: str) -> None:
    try:
        import torch  # noqa: F401 - only to see whether it can be
    except (ImportError, OSError) as error:
        raise RuntimeOptionError(
            f"{what} needs PyTorch, which cannot be loaded here ({error}); pip install 'resnet-for-ikomia[torch]'"
        ) from error


def _is_cpu(device: str) -> bool:
    """Tell whether a `device` parameter means the CPU on this machine."""
    if device != "auto":
        return device == "cpu"
    from resnetkit.runtimes.devices import list_devices

    return list_devices() == ["cpu"]


def _open_openvino(source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> Runtime:
    from resnetkit.runtimes.openvino_runtime import OpenVinoRuntime

    return OpenVinoRuntime(source, options, cache_folder)


def _open_torch(source: NetworkSource, options: RuntimeOptions) -> Runtime:
    from resnetkit.runtimes.torch_runtime import TorchRuntime

    return TorchRuntime(source, options)
