"""Answers: equal to torchvision's networks on torchvision's transforms; named, limited and explained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision import models

from resnetkit.answers.heatmaps import class_activation_map
from resnetkit.answers.model import UNKNOWN, AnswerOptions, Model
from resnetkit.answers.probabilities import softmax
from resnetkit.images.pixels import ImageError
from resnetkit.images.preprocessing import Preprocessing, normalize
from resnetkit.runtimes.choice import NetworkSource, RuntimeOptions, open_runtime
from resnetkit.weights.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD

PHOTOGRAPHS = ("china", "portrait", "small")
PRESETS = {"V1": models.ResNet50_Weights.IMAGENET1K_V1, "V2": models.ResNet50_Weights.IMAGENET1K_V2}


def make_preprocessing(preset: str) -> Preprocessing:
    return Preprocessing(224, PRESETS[preset].transforms().resize_size[0], "crop", IMAGENET_MEAN, IMAGENET_STD)


def make_model(model: torch.nn.Module, model_name: str, preset: str, runtime: str = "auto") -> Model:
    num_classes = model.fc.out_features
    source = NetworkSource(model_name, num_classes, False, IMAGENET_MEAN, IMAGENET_STD, "", 224, model.state_dict, None)
    classes = [f"class {index}" for index in range(num_classes)]
    return Model(open_runtime(source, RuntimeOptions(runtime), None), make_preprocessing(preset), classes)


@pytest.fixture(scope="module")
def resnet18(calibrate_model):
    return calibrate_model("resnet18")


@pytest.fixture(scope="module")
def model(resnet18):
    return make_model(resnet18, "resnet18", "V1")


@pytest.mark.parametrize("model_name", ARCHITECTURES)
def test_answers_are_torchvisions(photographs, calibrate_model, model_name):
    network = calibrate_model(model_name)
    runtime = make_model(network, model_name, "V1").runtime  # the presets differ in preprocessing alone
    for preset, weights in PRESETS.items():
        model = Model(runtime, make_preprocessing(preset), [f"class {index}" for index in range(1000)])
        for name in PHOTOGRAPHS:
            tensor = weights.transforms()(torch.from_numpy(photographs[name].copy()).permute(2, 0, 1))
            expected = network(tensor[None]).numpy()
            scale = float(np.abs(expected).max())
            assert 1 < scale < 50
            pixels = model.preprocessing.prepare(photographs[name])[None]
            found = runtime.run(pixels).logits
            same = network(normalize(torch.from_numpy(pixels), IMAGENET_MEAN, IMAGENET_STD)).numpy()
            np.testing.assert_allclose(found, same, rtol=0, atol=1e-4 * max(1, scale))
            # A gray level in ten thousand is rounded otherwise; a deep network of random weights makes much of it.
            np.testing.assert_allclose(found, expected, rtol=0, atol=4e-3 * max(1, scale))
            (prediction,) = model.predict([photographs[name]])
            np.testing.assert_allclose(prediction.probabilities, softmax(expected)[0], atol=1e-3)
            assert prediction.index == int(expected.argmax())


def test_a_batch_of_many_sizes_is_answered_in_order(model, photographs):
    images = [photographs[name] for name in ("china", "tiny", "portrait")] * 12  # more than one batch
    together = model.predict(images)
    alone = [model.predict([image])[0] for image in images[:3]] * 12
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert model.predict([]) == []


def test_top_k_is_sorted_and_named(model, photographs):
    (prediction,) = model.predict([photographs["china"]], AnswerOptions(top_k=7))
    order = np.argsort(-prediction.probabilities, kind="stable")[:7]
    assert [score.index for score in prediction.top_k] == order.tolist()
    assert [score.label for score in prediction.top_k] == [f"class {index}" for index in order]
    confidences = [score.confidence for score in prediction.top_k]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences == [float(prediction.probabilities[index]) for index in order]
    assert (prediction.label, prediction.index, prediction.confidence) == tuple(vars(prediction.top_k[0]).values())
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_more_top_k_than_classes_gives_all_of_them(calibrate_model, photographs):
    model = make_model(calibrate_model("resnet18", 3), "resnet18", "V1")
    (prediction,) = model.predict([photographs["china"]], AnswerOptions(top_k=5))
    assert len(prediction.top_k) == 3


def test_below_the_threshold_the_answer_is_unknown_and_the_list_is_not(model, photographs):
    (sure,) = model.predict([photographs["china"]])
    (prediction,) = model.predict([photographs["china"]], AnswerOptions(confidence_threshold=1.0))
    assert (prediction.label, prediction.index) == (UNKNOWN, -1)
    assert prediction.confidence == sure.confidence
    assert prediction.top_k == sure.top_k
    (prediction,) = model.predict([photographs["china"]], AnswerOptions(confidence_threshold=sure.confidence))
    assert prediction.index == sure.index  # exactly on the threshold is not below it


def test_predictions_are_json(model, photographs):
    options = AnswerOptions(embedding=True, heatmap=True)
    (prediction,) = model.predict([photographs["china"]], options)
    content = json.loads(json.dumps(prediction.to_dict()))
    assert content["label"] == prediction.label
    assert content["top_k"][1] == vars(prediction.top_k[1])
    assert content["box"] is None
    np.testing.assert_allclose(content["embedding"], prediction.embedding, rtol=1e-6)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_the_activation_map_is_grad_cam(resnet18, photographs, runtime):
    model = make_model(resnet18, "resnet18", "V1", runtime)
    (prediction,) = model.predict([photographs["china"]], AnswerOptions(heatmap=True, embedding=True))

    tensor = PRESETS["V1"].transforms()(torch.from_numpy(photographs["china"].copy()).permute(2, 0, 1))
    kept = []

    def keep(module, given, made):
        kept.append(made.requires_grad_())

    hook = resnet18.layer4.register_forward_hook(keep)
    with torch.enable_grad():
        logits = resnet18(tensor[None])
        logits[0, prediction.index].backward(inputs=kept[0])
    hook.remove()
    feature_map, gradient = kept[0].detach()[0], kept[0].grad[0]
    grad_cam = torch.relu((gradient.mean((1, 2), keepdim=True) * feature_map).sum(0)).numpy()

    height, width = prediction.activation.shape
    assert grad_cam.max() > 0
    np.testing.assert_allclose(prediction.activation / (height * width), grad_cam, atol=1e-4 * grad_cam.max())
    np.testing.assert_allclose(prediction.embedding, feature_map.mean((1, 2)).numpy(), atol=1e-4)


def test_the_map_of_an_adjusted_answer_is_that_of_its_class(model, photographs):
    options = AnswerOptions(heatmap=True)

    def prefer_class_7(probabilities: np.ndarray) -> np.ndarray:
        return np.eye(len(probabilities), dtype=np.float32)[7]

    (prediction,) = model.predict([photographs["china"]], options, prefer_class_7)
    assert (prediction.index, prediction.confidence) == (7, 1.0)
    prepared = model.preprocessing.prepare(photographs["china"])[None]
    feature_map = model.runtime.run(prepared, with_features=True).feature_map[0]
    expected = class_activation_map(feature_map, model.runtime.read_head_weights()[7])
    np.testing.assert_allclose(prediction.activation, expected, atol=1e-5)


def test_features_are_there_only_if_asked_for(model, photographs):
    (prediction,) = model.predict([photographs["china"]])
    assert prediction.embedding is None
    assert prediction.activation is None


def test_an_answer_that_is_not_finite_is_an_error(model, photographs, monkeypatch):
    run = model.runtime.run

    def overflow(images, with_features=False):
        output = run(images, with_features)
        output.logits[0, 0] = np.inf
        return output

    monkeypatch.setattr(model.runtime, "run", overflow)
    with pytest.raises(RuntimeError, match="not finite in precision fp32"):
        model.predict([photographs["china"]])


def test_files_are_answered_in_order_and_bad_ones_are_named(model, photographs, photograph_folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    names = ["china", "tiny", "flower"]
    paths = [photograph_folder / f"{name}.png" for name in names]
    paths.insert(1, tmp_path / "broken.jpg")
    answers = list(model.predict_files(iter(paths * 20)))
    assert [path for path, _ in answers] == paths * 20
    assert isinstance(answers[1][1], ImageError)
    assert "broken.jpg" in str(answers[1][1])
    expected = model.predict([photographs[name] for name in names])
    found = [answer for _, answer in answers if not isinstance(answer, ImageError)]
    for one, other in zip(found, expected * 20, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_only_bad_files_and_none_at_all(model, tmp_path):
    (tmp_path / "empty.png").touch()
    ((_, answer),) = model.predict_files([tmp_path / "empty.png"])
    assert isinstance(answer, ImageError)
    assert list(model.predict_files([])) == []


def test_softmax_of_large_logits_sums_to_one():
    logits = np.array([[1e4, 1e4 - 1, -1e4], [0, 0, 0]], np.float32)
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities[0], [0.7310586, 0.26894143, 0], atol=1e-6)
