"""PyTorch, on CPUs and GPUs: channels last, batch normalization folded, no autograd."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnetkit.machine.openmp import fix_thread_count
from resnetkit.runtimes.network import NetworkOutput, NetworkSource, RuntimeOptionError, RuntimeOptions
from resnetkit.weights.models import load_model

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class TorchRuntime:
    """A network in PyTorch; see `Runtime`."""

    name = "torch"

    def __init__(self, source: NetworkSource, options: RuntimeOptions) -> None:
        """Load the network.

        Raises:
            RuntimeOptionError: The machine lacks the device, or the device the precision.
            WeightsError: The weights cannot be read.
        """
        device = _choose_device(options.device)
        self.device = str(device)
        self.precision = _choose_precision(options.precision, device)
        self._threads = options.threads or count_cores()
        self._dtype = _DTYPES[self.precision]
        # `Any`, because torch declares a module's children to be tensors or modules.
        model: Any = load_model(source.model_name, source.read_state_dict(), source.small_input_stem)
        self._head_weights: np.ndarray = model.fc.weight.detach().numpy().copy()
        _fold_batch_norms(model)
        self._model = model.requires_grad_(False).to(device, self._dtype, memory_format=torch.channels_last)
        self._mean = torch.tensor(source.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(source.std, device=device).view(1, 3, 1, 1)

    def run(self, images: torch.Tensor, with_features: bool = False) -> NetworkOutput:
        """Run the network on images, (N, 3, input_size, input_size) uint8, N at least 1."""
        model = self._model
        with torch.inference_mode(), self._settings():
            pixels = images.to(self._mean.device).to(torch.float32, memory_format=torch.channels_last)
            x = pixels.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)  # (N, 3, S, S)

            x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
            feature_map = model.layer4(model.layer3(model.layer2(model.layer1(x))))  # (N, C, h, w)
            pooled = torch.flatten(model.avgpool(feature_map), 1)  # (N, C)
            logits = model.fc(pooled)  # (N, classes)

            if not with_features:
                return NetworkOutput(_to_array(logits))
            return NetworkOutput(_to_array(logits), _to_array(feature_map), _to_array(pooled))

    def read_head_weights(self) -> np.ndarray:
        """Return the weights of the last layer, (num_classes, channels) float32."""
        return self._head_weights

    def _settings(self) -> AbstractContextManager[None]:
        """Return the process-wide settings of torch under which this network runs."""
        if self.device == "cpu":
            fix_thread_count()
            return use_threads(self._threads)
        if self.device.startswith("cuda") and self.precision == "fp32":
            # By default cuDNN rounds the inputs of float32 convolutions to 10 bits (TF32).
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return nullcontext()


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


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Give torch's CPU kernels `count` threads for a while; 0 leaves the setting as it is.

    The setting is the process's: whoever runs torch in another thread meanwhile shares it. The last to leave
    restores what the first one found.
    """
    if count == 0:
        yield
        return
    _thread_setting.enter(count)
    try:
        yield
    finally:
        _thread_setting.leave()


class _ThreadSetting:
    """How many users torch's thread setting has, and what it was before the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._original = 0

    def enter(self, count: int) -> None:
        with self._lock:
            if self._users == 0:
                self._original = torch.get_num_threads()
            self._users += 1
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and torch.get_num_threads() != self._original:
                torch.set_num_threads(self._original)


_thread_setting = _ThreadSetting()


def _choose_device(device: str) -> torch.device:
    devices = list_devices()
    if device == "auto":
        return torch.device(devices[0])
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in devices:
        raise RuntimeOptionError(
            f"'device' {device} does not exist for PyTorch on this machine, which has {', '.join(devices)}; "
            "set 'device' to one of them, or to auto"
        )
    return torch.device(wanted)


def _choose_precision(precision: str, device: torch.device) -> str:
    available = list_precisions(device)
    if precision == "auto":
        return available[0]
    if precision not in available:
        raise RuntimeOptionError(
            f"'precision' {precision} does not run natively in PyTorch on {device}, which has "
            f"{', '.join(available)}; set 'precision' to one of them, or to auto"
        )
    return precision


def _has_bf16_cpu() -> bool:
    """Tell whether the CPU multiplies in bf16; torch emulates it elsewhere, slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in probes)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch normalization into the convolution before it, and leave nothing in its place."""
    convolution = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), child))
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.Conv2d):
            convolution = name
        else:
            _fold_batch_norms(child)


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to("cpu", torch.float32).contiguous().numpy()
