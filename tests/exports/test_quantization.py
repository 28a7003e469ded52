"""Quantization: what it refuses, what it leaves alone, and the example that quantizes any weights."""

from __future__ import annotations

import builtins
import logging
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from resnetkit.exports.agreement import measure_agreement
from resnetkit.exports.quantization import MAX_CALIBRATION_IMAGES, QuantizationError, quantize_graph
from resnetkit.machine.progress import Progress, TrainingStopped

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "quantize.py"


@pytest.fixture(scope="module")
def graph(checkpoint_path):
    from resnetkit.runtimes.network import NetworkSource
    from resnetkit.runtimes.openvino_graph import build_graph
    from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
    from resnetkit.weights.checkpoint import open_weights

    read = open_weights(checkpoint_path).read_state_dict
    return build_graph(NetworkSource("resnet18", 3, False, IMAGENET_MEAN, IMAGENET_STD, "", 64, read))


def test_no_images_are_an_error(graph):
    with pytest.raises(QuantizationError, match="int8 calibration: there are no images"):
        quantize_graph(graph, [])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 32, 32), np.uint8), ((64, 64, 3), np.uint8), ((1, 3, 64, 64), np.uint8), ((3, 64, 64), np.float32)],
    ids=["size", "channels last", "batch", "float"],
)
def test_images_of_another_shape_are_an_error_that_says_both(graph, shape, dtype):
    with pytest.raises(QuantizationError, match=r"images must be \(3, 64, 64\) uint8, got \(.*\) (uint8|float32)"):
        quantize_graph(graph, [np.zeros(shape, dtype)])


def test_nncf_missing_is_an_error_that_says_what_to_install(graph, monkeypatch):
    real_import = builtins.__import__

    def fail(name, *arguments, **named):
        if name == "nncf":
            raise ModuleNotFoundError("No module named 'nncf'")
        return real_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(QuantizationError, match=r"needs NNCF.*No module named 'nncf'.*pip install nncf"):
        quantize_graph(graph, [np.zeros((3, 64, 64), np.uint8)])


def test_quantization_is_quiet_and_leaves_the_graph_and_the_process_as_they_were(graph, capfd):
    pytest.importorskip("nncf")
    num_nodes, logger_class = len(graph.get_ops()), logging.getLoggerClass()
    images = (np.random.default_rng(index).integers(0, 256, (3, 64, 64), dtype=np.uint8) for index in range(10_000))
    images = (image for image, _ in zip(images, range(4), strict=False))
    quantized = quantize_graph(graph, images)
    assert capfd.readouterr() == ("", "")
    assert len(graph.get_ops()) == num_nodes
    assert [output.get_any_name() for output in quantized.outputs] == ["logits", "feature_map", "pooled"]
    assert logging.getLoggerClass() is logger_class
    assert "NNCF_CI" not in os.environ


def test_no_more_images_are_read_than_are_used(graph, monkeypatch):
    seen = []

    class StopError(Exception):
        pass

    def stop(*_, **__):
        raise StopError

    def make_images():
        for index in range(10_000):
            seen.append(index)
            yield np.zeros((3, 64, 64), np.uint8)

    nncf = pytest.importorskip("nncf")
    monkeypatch.setattr(nncf, "quantize", stop)
    with pytest.raises(StopError):
        quantize_graph(graph, make_images())
    assert len(seen) == MAX_CALIBRATION_IMAGES


# --- The example ---


def test_a_stop_ends_calibration_between_two_images(graph):
    pytest.importorskip("nncf")
    asked = []

    def is_stop_requested():
        asked.append(1)
        return len(asked) > 6  # four images are collected, then NNCF asks for them

    with Progress(is_stop_requested).is_current(), pytest.raises(TrainingStopped):
        quantize_graph(graph, [np.zeros((3, 64, 64), np.uint8)] * 4)
    assert len(asked) == 7


def test_a_stop_ends_the_check_of_an_export_within_few_images():
    seen = []

    def network(images):
        seen.append(len(images))
        return np.zeros((len(images), 3), np.float32)

    with Progress(lambda: len(seen) >= 4).is_current(), pytest.raises(TrainingStopped):
        measure_agreement(network, network, [torch.zeros(64, 3, 8, 8)])
    assert sum(seen) <= 32  # of 128
    assert measure_agreement(network, network, [torch.zeros(20, 3, 8, 8)]).num_images == 20


def run_example(run_script, *arguments):
    return run_script(EXAMPLE, [str(argument) for argument in arguments])


def test_the_example_writes_a_network_that_infer_resnet_runs(
    run_script, checkpoint_path, photograph_folder, photographs, tmp_path, workflow
):
    pytest.importorskip("nncf")
    output = tmp_path / "model_int8.xml"
    result = run_example(run_script, checkpoint_path, photograph_folder, "--output", output)
    assert f"quantize: {output}" in result.output
    assert f"calibrated on {len(photographs)} images" in result.output
    assert len(result.output.splitlines()) == 2

    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(output)})
    workflow.run_on(array=photographs["china"])
    (prediction,) = task.get_predictions()
    assert prediction.label in ("cat", "dog", "fish")
    assert task.get_model_info()["precision"] == "int8"


def test_the_example_quantizes_bare_state_dicts_and_leaves_out_broken_images(
    run_script, checkpoint_path, photographs, tmp_path
):
    pytest.importorskip("nncf")
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    from resnetkit.weights.checkpoint import read_metadata

    folder = tmp_path / "images" / "inner"
    folder.mkdir(parents=True)
    Image.fromarray(photographs["china"]).save(folder / "good.jpg")
    (folder / "broken.jpg").write_bytes((folder / "good.jpg").read_bytes()[:300])
    weights = tmp_path / "weights.pth"
    torch.save(load_file(checkpoint_path), weights)
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n")
    result = run_example(run_script, weights, tmp_path / "images")
    assert "left out: " in result.output
    assert "broken.jpg" in result.output
    assert "calibrated on 1 images" in result.output
    metadata = read_metadata(tmp_path / "weights_int8.xml")
    assert metadata.classes == ("cat", "dog", "fish")


def test_the_example_names_what_is_wrong(checkpoint_path, photograph_folder, tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLE))["main"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    cases = [
        ((tmp_path / "no.pth", photograph_folder), "does not exist"),
        ((checkpoint_path, tmp_path / "nowhere"), "is no folder; expected a folder of images"),
        ((checkpoint_path, tmp_path / "empty"), "holds no images; expected files such as"),
        ((checkpoint_path, tmp_path / "broken"), "none of the 1 images in"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == 1
        assert message in capsys.readouterr().err
