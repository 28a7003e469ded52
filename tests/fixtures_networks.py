"""Fixtures for the tests of networks: seeded ones whose answers are of a sensible size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.runtimes.network import NetworkSource
from resnetkit.weights.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD

#: The batch normalization that ends a residual branch, by kind of block.
_LAST_NORMS = {"basic": ".bn2", "bottleneck": ".bn3"}


@pytest.fixture(scope="session")
def calibrate_model(photographs: Mapping[str, np.ndarray]) -> Callable:
    """`calibrate_model(model_name, num_classes=1000, small_input_stem=False)`: a seeded network in evaluation mode.

    Its batch-norm statistics are estimated on photographs: with torchvision's initial ones the values of resnet152
    grow to 1e8. And its residual branches are weaker than its trunk, as training makes them: else float32 itself,
    in torchvision's network against the same in float64, is off by more than 1e-4 of the logits of resnet152.
    """
    import torch

    from resnetkit.images.preprocessing import normalize
    from resnetkit.weights.models import initialize_model

    preprocessing = Preprocessing(128, 146, "crop", IMAGENET_MEAN, IMAGENET_STD)
    images = [photographs[name] for name in ("china", "flower", "portrait", "astronaut")]
    batch = normalize(
        torch.from_numpy(np.stack([preprocessing.prepare(image) for image in images])), IMAGENET_MEAN, IMAGENET_STD
    )

    def calibrate(model_name: str, num_classes: int = 1000, small_input_stem: bool = False) -> torch.nn.Module:
        model = initialize_model(model_name, num_classes, seed=1, small_input_stem=small_input_stem).train()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average of all batches, here of one
            if name.endswith(_LAST_NORMS[ARCHITECTURES[model_name].block]):
                torch.nn.init.constant_(module.weight, 0.25)
        with torch.no_grad():
            model.fc.weight *= 10  # for logits of about 10
            model(batch)
        return model.eval().requires_grad_(False)

    return calibrate


@dataclass(frozen=True)
class Network:
    """A torchvision network in evaluation mode, images for it, and itself as a source for a runtime.

    Attributes:
        model: The oracle: PyTorch as torchvision wrote it.
        images: Photographs, (N, 3, S, S) uint8.
        source: What a runtime is made of.
    """

    model: Any
    images: Any
    source: NetworkSource

    @cached_property
    def outputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits, feature map and pooled vector of the images, by torchvision's own modules."""
        import torch

        seen = {}
        for name in ("layer4", "avgpool"):
            module = getattr(self.model, name)
            module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        with torch.inference_mode():
            logits = self.model(_normalize(self.images))
        return logits.numpy(), seen["layer4"].numpy(), seen["avgpool"].flatten(1).numpy()


@pytest.fixture(scope="session")
def make_network(photographs: Mapping[str, np.ndarray]) -> Callable[..., Network]:
    """`make_network(model_name="resnet18", input_size=64, small_input_stem=False)`, each made once."""

    @cache
    def make(model_name: str = "resnet18", input_size: int = 64, small_input_stem: bool = False) -> Network:
        import torch

        from resnetkit.weights.models import initialize_model

        preprocessing = Preprocessing(input_size, input_size, "crop", IMAGENET_MEAN, IMAGENET_STD)
        images = torch.from_numpy(np.stack([preprocessing.prepare(image) for image in photographs.values()]))
        model = initialize_model(model_name, 1000, seed=0, small_input_stem=small_input_stem)
        # With torch's momentum a part of the initial statistics remains. Without it these untrained networks are
        # chaotic: float32 rounding alone, PyTorch against float64, reaches 1.5e-4 of the logits on resnet152.
        with torch.no_grad():
            for _ in range(3):
                model.train()(_normalize(images))
        state_dict = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("_tracked")}
        identity = hashlib.sha256(repr((model_name, input_size, small_input_stem)).encode()).hexdigest()
        source = NetworkSource(
            model_name, 1000, small_input_stem, IMAGENET_MEAN, IMAGENET_STD, identity, input_size, lambda: state_dict
        )
        return Network(model.eval(), images, source)

    return make


def _normalize(images: Any) -> Any:
    import torch
    from torchvision.transforms.v2.functional import normalize, to_dtype

    return normalize(to_dtype(images, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))


@pytest.fixture(scope="session")
def weights_files(
    checkpoint_path: Path, photographs: Mapping[str, np.ndarray], weights_folder: Path
) -> dict[str, Path]:
    """The seeded network of `checkpoint_path` in every form that is run, by kind.

    run folder, safetensors, pth (a state dict, with its classes and preprocessing beside it), onnx, openvino, int8.
    """
    folder = weights_folder / "forms"
    if not folder.exists():
        temporary = weights_folder / "forms.tmp"
        temporary.mkdir()
        _write_forms(checkpoint_path, photographs, temporary)
        temporary.rename(folder)
    return {
        "run folder": checkpoint_path.parent,
        "safetensors": checkpoint_path,
        "pth": folder / "weights.pth",
        "onnx": folder / "resnet18.onnx",
        "openvino": folder / "model.xml",
        "int8": folder / "int8.xml",
    }


def _write_forms(checkpoint_path: Path, photographs: Mapping[str, np.ndarray], folder: Path) -> None:
    import torch

    from resnetkit.exports.export import export_onnx
    from resnetkit.exports.quantization import quantize_graph
    from resnetkit.runtimes.openvino_graph import build_graph, save_graph
    from resnetkit.weights.checkpoint import open_weights
    from resnetkit.weights.metadata import write_preprocessing
    from resnetkit.weights.models import load_model

    file = open_weights(checkpoint_path)
    metadata = file.metadata
    assert metadata is not None
    state_dict = file.read_state_dict()
    torch.save(state_dict, folder / "weights.pth")
    (folder / "classes.txt").write_text("\n".join(metadata.classes) + "\n", encoding="utf-8")
    write_preprocessing(folder, metadata.preprocessing)
    graph = build_graph(NetworkSource.from_metadata(metadata, file.read_arrays))
    save_graph(graph, folder / "model.xml", metadata)
    images = np.stack([metadata.preprocessing.prepare(image) for image in photographs.values()])
    save_graph(quantize_graph(graph, images), folder / "int8.xml", metadata)
    export_onnx(folder, load_model("resnet18", state_dict, False), metadata, torch.from_numpy(images))


@pytest.fixture(scope="session")
def torch_answer(checkpoint_path: Path, photographs: Mapping[str, np.ndarray], weights_folder: Path) -> np.ndarray:
    """PyTorch's probabilities of the photograph china by `checkpoint_path`, (3,) float32."""
    path = weights_folder / "answer.npy"
    if not path.exists():
        from resnetkit import load_model

        np.save(path, load_model(checkpoint_path, runtime="torch").predict(photographs["china"]).probabilities)
    return np.load(path)
