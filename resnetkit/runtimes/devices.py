"""What PyTorch finds on this machine: devices, and the precisions that they run natively.

PyTorch is asked only where it is installed and a driver of a GPU is there; where none is, nobody waits for its import.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetkit.machine.ranks import get_local_rank
from resnetkit.machine.threads import SharedSetting
from resnetkit.runtimes.network import RuntimeOptionError

if TYPE_CHECKING:
    import torch

#: CUDA's driver, and on Windows ROCm's; Linux has ROCm's as a device.
_GPU_DRIVERS = {"linux": ("libcuda.so.1",), "win32": ("nvcuda.dll", "amdhip64.dll", "amdhip64_6.dll", "amdhip64_7.dll")}
_ROCM_DEVICE = Path("/dev/kfd")


def list_devices() -> list[str]:
    """Return the devices of this machine that PyTorch can use, fastest first."""
    if "torch" not in sys.modules and not _can_have_gpu():
        return ["cpu"]
    import torch

    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def list_precisions(device: torch.device) -> list[str]:
    """Return the precisions that a device runs natively, fastest first."""
    import torch

    if device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere is the first with bf16 units.
        return ["bf16", "fp16", "fp32"] if has_bf16 or torch.version.hip else ["fp16", "fp32"]
    if device.type == "mps":
        return ["fp16", "fp32"]
    return ["bf16", "fp32"] if _has_bf16_cpu() else ["fp32"]


def choose_device(device: str) -> torch.device:
    """Return the device that a `device` parameter means.

    Raises:
        RuntimeOptionError: This machine does not have it.
    """
    import torch

    devices = list_devices()
    local = f"cuda:{get_local_rank()}"  # of several processes on a machine, each takes a GPU of its own
    if device == "auto":
        return torch.device(local if local in devices else devices[0])
    wanted = local if device == "cuda" else device
    if wanted not in devices:
        raise RuntimeOptionError(
            f"'device' {device} does not exist for PyTorch on this machine, which has {', '.join(devices)}; "
            "set 'device' to one of them, or to auto"
        )
    return torch.device(wanted)


@contextmanager
def use_default_settings() -> Iterator[None]:
    """Compute as PyTorch does by itself, whatever the process has set: autocast, default type and device, gradients.

    The default type and the precision of matrix products are the process's: other threads share them meanwhile, where
    they are not PyTorch's own.
    """
    import torch

    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        stack.enter_context(use_exact_products())
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        yield


def use_exact_products() -> AbstractContextManager[None]:
    """Multiply float32 matrices in float32, also after `torch.set_float32_matmul_precision("medium")`."""
    return _products.hold(tuple("ieee" for _ in _read_products()))


def _read_products() -> tuple[str, ...]:
    import torch

    if hasattr(torch.backends.mkldnn, "matmul"):
        kinds: tuple[str, ...] = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    else:  # before torch 2.9
        kinds = (torch.get_float32_matmul_precision(),)
    return tuple("ieee" if kind in ("none", "highest") else kind for kind in kinds)


def _write_products(kinds: tuple[str, ...]) -> None:
    import torch

    if not hasattr(torch.backends.mkldnn, "matmul"):
        torch.set_float32_matmul_precision("highest" if kinds == ("ieee",) else kinds[0])
        return
    backends: tuple[Any, ...] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)
    for backend, kind in zip(backends, kinds, strict=True):
        backend.fp32_precision = kind


_products = SharedSetting(_read_products, _write_products)


def _has_bf16_cpu() -> bool:
    """Tell whether the CPU multiplies in bf16; torch emulates it elsewhere, slower than float32."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in probes)


def _can_have_gpu() -> bool:
    """Tell whether PyTorch is installed and might find a GPU: whether the driver of one can be loaded."""
    if find_spec("torch") is None:
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return _ROCM_DEVICE.exists() or any(_can_be_loaded(name) for name in _GPU_DRIVERS.get(sys.platform, ()))


def _can_be_loaded(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
