"""PyTorch, on CPUs and GPUs: channels last, batch normalization folded, no autograd."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnetkit.machine.forks import run_apart
from resnetkit.machine.threads import count_cores, fix_thread_count, use_threads
from resnetkit.runtimes.devices import choose_device, list_precisions, use_default_settings, use_exact_products
from resnetkit.runtimes.network import NetworkOutput, NetworkSource, RuntimeOptions, choose_precision
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
        run_apart(self._open, source, options)

    @use_default_settings()
    def _open(self, source: NetworkSource, options: RuntimeOptions) -> None:
        device = choose_device(options.device)
        self.device = str(device)
        self.precision = choose_precision(options.precision, list_precisions(device), f"PyTorch on {device}")
        self._threads = options.threads or count_cores()
        self._dtype = _DTYPES[self.precision]
        # `Any`, because torch declares a module's children to be tensors or modules.
        model: Any = load_model(source.model_name, source.read_state_dict(), source.small_input_stem)
        self._head_weights: np.ndarray = model.fc.weight.detach().numpy().copy()
        _fold_batch_norms(model)
        self._model = model.requires_grad_(False).to(device, self._dtype, memory_format=torch.channels_last)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in (source.mean, source.std)
        )

    def run(self, images: np.ndarray, with_features: bool = False) -> NetworkOutput:
        """Run the network on images, (N, 3, input_size, input_size) uint8, N at least 1."""
        return run_apart(self._run, images, with_features)

    def _run(self, images: np.ndarray, with_features: bool) -> NetworkOutput:
        model = self._model
        # The caller's autocast would round, and so would matrix products of the precision that the caller has set.
        with (
            torch.autocast(self._mean.device.type, enabled=False),
            torch.inference_mode(),
            use_exact_products(),
            self._settings(),
        ):
            pixels = (
                torch.from_numpy(np.asarray(images))
                .to(self._mean.device)
                .to(torch.float32, memory_format=torch.channels_last)
            )
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
