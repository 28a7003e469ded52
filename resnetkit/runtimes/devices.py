"""What PyTorch finds on this machine: devices, and the precisions that they run natively."""

from __future__ import annotations

import torch

from resnetkit.machine.ranks import get_local_rank
from resnetkit.runtimes.network import RuntimeOptionError


def list_devices() -> list[str]:
    """Return the devices of this machine that PyTorch can use, fastest first."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def list_precisions(device: torch.device) -> list[str]:
    """Return the precisions that a device runs natively, fastest first."""
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


def _has_bf16_cpu() -> bool:
    """Tell whether the CPU multiplies in bf16; torch emulates it elsewhere, slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in probes)
