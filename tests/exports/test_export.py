"""Exports: loaded back by those who will use them, equal to PyTorch, and never left behind when they are not."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from resnetkit.data.loading import Batch
from resnetkit.exports import export as export_module
from resnetkit.exports.export import ExportedFile, ExportError, export_int8, export_onnx, export_openvino, export_pth
from resnetkit.images.preprocessing import Preprocessing, normalize
from resnetkit.images.reading import read_image
from resnetkit.weights import checkpoint
from resnetkit.weights.checkpoint import open_weights
from resnetkit.weights.metadata import METADATA_KEY, ModelMetadata
from resnetkit.weights.models import initialize_model

Export = Callable[[Path, nn.Module, ModelMetadata, torch.Tensor], ExportedFile]

METADATA = ModelMetadata(
    model_name="resnet18",
    classes=("apple", 'pear "ä"', "<plum>"),
    preprocessing=Preprocessing(64, 73, "letterbox", (0.4, 0.45, 0.5), (0.2, 0.22, 0.24)),
    metrics={"accuracy": 0.5},
    versions={"torch": "2"},
    training={"epochs": 3},
)
EXPORTS = [
    pytest.param(export_pth, id="pth"),
    pytest.param(export_onnx, id="onnx"),
    pytest.param(export_openvino, id="openvino"),
]

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images(photographs: Mapping[str, np.ndarray]) -> torch.Tensor:
    """Six photographs, (6, 3, 64, 64) uint8."""
    return torch.from_numpy(np.stack([METADATA.preprocessing.prepare(image) for image in photographs.values()]))


@pytest.fixture(scope="module")
def model(images: torch.Tensor) -> nn.Module:
    """A seeded network with batch-norm statistics of the photographs, whose answers differ from image to image."""
    network = initialize_model("resnet18", 3, seed=0).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(normalize(images, METADATA.preprocessing.mean, METADATA.preprocessing.std))
        network.get_submodule("fc").get_parameter("weight").mul_(20)
    return network.eval()


@pytest.fixture(scope="module")
def expected(model: nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    """What torchvision's own modules answer."""
    features: list[torch.Tensor] = []
    hook = model.get_submodule("layer4").register_forward_hook(lambda *call: features.append(call[2]))
    with torch.inference_mode():
        logits = model(normalize(images, METADATA.preprocessing.mean, METADATA.preprocessing.std))
    hook.remove()
    return {
        "logits": logits.numpy(),
        "feature_map": features[0].numpy(),
        "pooled": features[0].mean(dim=(2, 3)).numpy(),
    }


@pytest.fixture(scope="module")
def exports(
    model: nn.Module, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ExportedFile]:
    folder = tmp_path_factory.mktemp("exports")
    made = [export(folder, model, METADATA, images) for export in (export_pth, export_onnx, export_openvino)]
    names = {"resnet18.pth", "resnet18.onnx", "resnet18.xml", "resnet18.bin"}
    assert {path.name for path in folder.iterdir()} == names
    return {exported.path.suffix: exported for exported in made}


def test_pth_loads_in_plain_torchvision(
    exports: Mapping[str, ExportedFile], images: torch.Tensor, expected: Mapping[str, np.ndarray]
) -> None:
    network = models.resnet18(num_classes=3)
    network.load_state_dict(torch.load(exports[".pth"].path, weights_only=True))
    with torch.inference_mode():
        logits = network.eval()(normalize(images, METADATA.preprocessing.mean, METADATA.preprocessing.std))
    assert np.array_equal(logits.numpy(), expected["logits"])


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("batch_size", [1, 6])
def test_graph_gives_pytorchs_answers_for_any_batch(
    exports: Mapping[str, ExportedFile],
    images: torch.Tensor,
    expected: Mapping[str, np.ndarray],
    suffix: str,
    batch_size: int,
) -> None:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(exports[suffix].path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [value.get_any_name() for value in compiled.inputs] == ["images"]
    answers = compiled(images[:batch_size].numpy())
    for name, array in expected.items():
        tolerance = 1e-4 * max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(answers[name], array[:batch_size], rtol=0, atol=tolerance)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_graph_carries_its_metadata(exports: Mapping[str, ExportedFile], suffix: str) -> None:
    assert open_weights(exports[suffix].path).metadata == METADATA


def test_onnx_answers_without_torch(
    exports: Mapping[str, ExportedFile],
    photograph_folder: Path,
    model: nn.Module,
    classify_without_torch: Callable[..., dict[str, list[float]]],
) -> None:
    path = photograph_folder / "china.png"
    image = torch.from_numpy(METADATA.preprocessing.prepare(read_image(path)))[None]
    with torch.inference_mode():
        logits = model(normalize(image, METADATA.preprocessing.mean, METADATA.preprocessing.std))
    for answer in classify_without_torch(path, [exports[".onnx"].path]).values():
        np.testing.assert_allclose(answer, logits[0].softmax(0).numpy(), atol=1e-4)


def test_no_file_names_a_folder_of_this_machine(exports: Mapping[str, ExportedFile]) -> None:
    for export in exports.values():
        content = export.path.read_bytes()
        assert not [
            text for text in (str(REPOSITORY), str(export.path.parent), "site-packages") if text.encode() in content
        ]


def test_onnx_file_is_valid_and_whole(exports: Mapping[str, ExportedFile]) -> None:
    import onnx

    graph = onnx.load(exports[".onnx"].path, load_external_data=False)
    onnx.checker.check_model(graph)
    assert METADATA_KEY in {entry.key for entry in graph.metadata_props}
    assert not any(tensor.external_data for tensor in graph.graph.initializer)


def test_result_tells_what_was_checked(exports: Mapping[str, ExportedFile]) -> None:
    for suffix, exported in exports.items():
        size = exported.path.stat().st_size + (
            exported.path.with_suffix(".bin").stat().st_size if suffix == ".xml" else 0
        )
        assert exported.size_bytes == size
        assert exported.num_checked == (4 if suffix == ".pth" else 6)
        assert exported.same_top1 == 1.0
        assert exported.max_difference < 1e-4
        assert exported.accuracy is None
    assert exports[".pth"].max_difference == 0
    assert exports[".xml"].to_dict()["path"] == "resnet18.xml"


def test_model_stays_as_it_is(model: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    half = initialize_model("resnet18", 3, seed=0).to(torch.bfloat16).train()
    before = {name: value.clone() for name, value in half.state_dict().items()}
    exported = export_pth(tmp_path, half, METADATA, images)
    assert half.training
    assert all(value.dtype == before[name].dtype for name, value in half.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in half.state_dict().items())
    assert torch.load(exported.path, weights_only=True)["fc.weight"].dtype == torch.float32


def test_small_image_stem(images: torch.Tensor, tmp_path: Path) -> None:
    network = initialize_model("resnet18", 3, seed=0, small_input_stem=True)
    preprocessing = dataclasses.replace(METADATA.preprocessing, input_size=32, resize_size=32)
    metadata = dataclasses.replace(METADATA, preprocessing=preprocessing, small_input_stem=True)
    for export in (export_pth, export_openvino):
        assert export(tmp_path, network, metadata, images[:2, :, :32, :32]).same_top1 == 1.0


@pytest.mark.parametrize("export", EXPORTS)
def test_failing_check_leaves_no_file_not_even_an_older_one(
    export: Export, model: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_suffix = {".pth", ".onnx", ".xml", ".bin"}
    for suffix in every_suffix:
        (tmp_path / f"resnet18{suffix}").write_bytes(b"of an earlier epoch")
    # A reference with other weights stands for a conversion that went wrong.
    other = export_module.wrap_model(initialize_model("resnet18", 3, seed=1).eval(), METADATA.preprocessing)
    monkeypatch.setattr(export_module, "_load_reference", lambda *_: other)
    message = r"^export of 'resnet18\.\w+' failed, no file was written: it differs from PyTorch"
    with pytest.raises(ExportError, match=message):
        export(tmp_path, model, METADATA, images)
    own = {"export_pth": {".pth"}, "export_onnx": {".onnx"}, "export_openvino": {".xml", ".bin"}}[export.__name__]
    assert {path.suffix for path in tmp_path.iterdir()} == every_suffix - own


def test_weights_that_are_not_finite_are_refused(images: torch.Tensor, tmp_path: Path) -> None:
    network = initialize_model("resnet18", 3, seed=0)
    with torch.no_grad():
        network.get_submodule("fc").get_parameter("bias")[0] = float("nan")
    with pytest.raises(ExportError, match="it differs from PyTorch"):
        export_pth(tmp_path, network, METADATA, images)
    assert list(tmp_path.iterdir()) == []


def test_no_images_is_an_error(model: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there are no images to compare it with"):
        export_pth(tmp_path, model, METADATA, images[:0])
    assert list(tmp_path.iterdir()) == []


def test_size_is_that_of_its_own_files(model: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "resnet18.bin").write_bytes(bytes(1000))  # of an earlier OpenVINO export
    assert export_pth(tmp_path, model, METADATA, images).size_bytes == (tmp_path / "resnet18.pth").stat().st_size


@pytest.mark.parametrize("export", [export_pth, export_openvino], ids=["pth", "openvino"])
def test_full_disk_is_said_and_leaves_nothing(
    export: Export, model: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("resnetkit.machine.files._flush_to_disk", refuse)
    with pytest.raises(ExportError, match="No space left on device"):
        export(tmp_path, model, METADATA, images)
    assert list(tmp_path.iterdir()) == []


def test_damaged_metadata_is_noticed(
    model: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint.ModelMetadata, "to_strings", lambda _: {METADATA_KEY: "{}"})
    with pytest.raises(ExportError):
        export_openvino(tmp_path, model, METADATA, images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_is_written_with_its_measured_accuracy(
    model: nn.Module, images: torch.Tensor, expected: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    labels = torch.from_numpy(expected["logits"].argmax(axis=1))
    labels[0] = (labels[0] + 1) % 3  # PyTorch is right for 5 of 6
    batches = [Batch(np.arange(4), images[:4], labels[:4]), Batch(np.arange(4, 6), images[4:], labels[4:])]
    exported = export_int8(tmp_path, model, METADATA, images, batches)

    assert exported.path == tmp_path / "resnet18_int8.xml"
    assert {path.name for path in tmp_path.iterdir()} == {"resnet18_int8.xml", "resnet18_int8.bin"}
    assert open_weights(exported.path).metadata == METADATA
    assert exported.num_checked == 6
    assert exported.accuracy is not None
    assert exported.accuracy_change == pytest.approx(exported.accuracy - 5 / 6)
    assert exported.size_bytes < 15_000_000
    assert exported.max_difference > 0


def test_int8_without_nncf_says_what_to_install(
    model: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match="pip install nncf"):
        export_int8(tmp_path, model, METADATA, images, [])
    assert list(tmp_path.iterdir()) == []
