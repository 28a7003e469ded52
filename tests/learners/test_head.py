"""Training of the head alone: a backbone that stays what it was, features that are those of the images."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from contextlib import closing

import numpy as np
import openvino as ov
import pytest
import torch
from PIL import Image

from resnetkit.data.dataset import read_dataset
from resnetkit.images.preprocessing import Preprocessing, normalize
from resnetkit.images.reading import read_image
from resnetkit.learners.head import _NEEDED_LATER, HeadLearner
from resnetkit.learners.initialization import initialize
from resnetkit.learners.learner import ImageSplits, shuffle
from resnetkit.learners.recipe import choose_recipe
from resnetkit.machine.progress import Progress
from resnetkit.probing.features import FeatureStore
from resnetkit.runtimes.openvino_runtime import list_precisions
from resnetkit.training.loop import train
from resnetkit.training.state import read_state
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
from resnetkit.weights.checkpoint import open_weights
from resnetkit.weights.models import load_model

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def make_head(three_digits, make_parameters, backbone, tmp_path):
    """`make_head(**values)`: a learner on the three digits whose features are ready."""
    learners = []

    def make(**values):
        settings = {"feature_extract": True, "model_weight_file": str(backbone), "precision": "fp32", **values}
        parameters = make_parameters(**settings)
        dataset = read_dataset(three_digits, 0.2, 0)
        start = initialize(parameters, dataset.classes)
        recipe = choose_recipe(parameters, len(dataset.train))
        splits = ImageSplits(dataset, start.preprocessing, parameters, recipe)
        learner = HeadLearner(start, splits, parameters, recipe)
        learners.append(learner)
        learner.prepare(tmp_path, Progress())
        return learner, start

    yield make
    for learner in learners:
        learner.close()


def compute_pooled(model, preprocessing, images):
    """The reference: torchvision's own forward pass in float32, up to the last layer."""
    with torch.inference_mode():
        x = normalize(images, preprocessing.mean, preprocessing.std)
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        return model.avgpool(model.layer4(model.layer3(model.layer2(model.layer1(x))))).flatten(1)


def read_all(learner, epoch):
    """Features and labels of an epoch, in its order."""
    batches = list(learner.read_batches(epoch))
    return torch.cat([features for features, _ in batches]), torch.cat([labels for _, labels in batches])


def test_the_frozen_backbone_stays_frozen(three_digits, make_parameters, backbone):
    before = open_weights(backbone).read_state_dict()
    result = train(make_parameters(feature_extract=True, model_weight_file=str(backbone)), three_digits)
    after = open_weights(result.checkpoint).read_state_dict()
    changed = {
        name for name in before if before[name].shape != after[name].shape or not before[name].equal(after[name])
    }
    assert changed == {"fc.weight", "fc.bias"}
    assert backbone.is_file()


def test_the_whole_network_changes_otherwise(three_digits, make_parameters, backbone):
    content = backbone.read_bytes()
    before = open_weights(backbone).read_state_dict()
    result = train(make_parameters(model_weight_file=str(backbone), epochs=1), three_digits)
    after = open_weights(result.checkpoint).read_state_dict()
    assert {
        name for name in before if before[name].shape == after[name].shape and before[name].equal(after[name])
    } == set()
    assert backbone.read_bytes() == content


def test_a_backbone_of_some_digits_tells_the_others_apart(digits_folder, make_parameters, backbone, tmp_path):
    for part in ("train", "val"):
        for digit in "012":  # those that the backbone has never seen
            shutil.copytree(digits_folder / part / digit, tmp_path / "others" / part / digit)
    settings = {"resize_mode": "squash", "feature_extract": True, "model_weight_file": str(backbone)}
    result = train(make_parameters(**settings, epochs=15, learning_rate=0.01), tmp_path / "others")
    assert result.metrics["accuracy"] >= 0.92


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_cached_features_are_those_of_the_images(make_head, precision, tolerance):
    if precision not in list_precisions(ov.Core()):
        pytest.skip(f"this CPU has no {precision}")
    learner, start = make_head(precision=precision, augmentation="none", batch_size=33)
    ((features, _),) = learner.read_batches(0)
    ((again, _),) = learner.read_batches(0)
    assert features.equal(again)
    plain = next(learner._splits.open("train").plain(33)).images
    reference = compute_pooled(load_model("resnet18", start.state_dict), start.preprocessing, plain)
    reference = reference[shuffle(np.arange(33), seed=0, epoch=0)]
    difference = (features - reference).norm()
    assert difference / reference.norm() < tolerance


def test_images_are_forgotten_once_their_features_are_there(make_head):
    learner, _ = make_head(precision="fp32")
    memory = learner._splits._memory
    assert memory.is_full
    assert not memory._images


def test_threads_in_place_of_reading_processes_keep_images_too(three_digits, make_parameters, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/Ikomia/IkomiaStudio")
    shutil.copytree(three_digits, tmp_path / "data")
    dataset = read_dataset(tmp_path / "data", 0.2, 0)
    preprocessing = Preprocessing(32, 36, "crop", IMAGENET_MEAN, IMAGENET_STD)
    parameters = make_parameters(num_workers=2)
    splits = ImageSplits(dataset, preprocessing, parameters, choose_recipe(parameters, len(dataset.train)))
    with closing(splits):
        first = torch.cat([batch.images for batch in splits.open("train").plain(8)])
        shutil.rmtree(tmp_path / "data")
        assert torch.cat([batch.images for batch in splits.open("train").plain(8)]).equal(first)


@pytest.mark.parametrize("name", _NEEDED_LATER)
def test_what_is_preloaded_exists(name):
    assert importlib.import_module(name)


def test_a_cached_view_is_the_view_of_uncached_training(make_head):
    learner, start = make_head(augmentation="basic", cached_views=2)
    count = 33
    stored = learner._stores["train"].read().reshape(count, 3, -1)
    loader = learner._splits.open("train")
    order = np.random.default_rng(0).permutation(count)
    model = load_model("resnet18", start.state_dict)
    for epoch in range(2):
        for batch in loader.augmented(5, epoch, order):
            pooled = compute_pooled(model, start.preprocessing, batch.images).numpy()
            cached = stored[batch.indices, 1 + epoch]
            assert np.linalg.norm(cached - pooled) / np.linalg.norm(pooled) < 1e-4


def test_every_epoch_takes_each_image_once_in_another_view(make_head):
    learner, _ = make_head(augmentation="basic", cached_views=2)
    stored = learner._stores["train"].read().reshape(33, 3, -1)
    seen = np.zeros((33, 3), int)
    for epoch in range(3):
        features, labels = read_all(learner, epoch)
        assert sorted(labels.tolist()) == [0] * 11 + [1] * 11 + [2] * 11
        matches = (features.numpy()[:, None, None] == stored[None]).all(-1)  # (33, images, views)
        seen += matches.any(0)
    assert (seen == 1).all()


@pytest.mark.parametrize(("cached_views", "said"), [(0, "trained on plain views"), (1, "mixup and cutmix")])
def test_augmentation_that_is_left_out_is_said(make_head, caplog, cached_views, said):
    with caplog.at_level(logging.INFO):
        make_head(augmentation="strong", cached_views=cached_views)
    assert said in caplog.text


def test_the_head_is_kept_where_the_classes_are_the_same(digits_folder, make_parameters, three_digits):
    first = train(make_parameters(), three_digits)
    parameters = make_parameters(model_weight_file=str(first.folder), feature_extract=True)
    same, other = (initialize(parameters, ("0", "1", last)).state_dict["fc.weight"] for last in "27")
    assert same.equal(open_weights(first.folder).read_state_dict()["fc.weight"])
    assert not other.equal(same)


@pytest.mark.parametrize("cached_views", [0, 1])
def test_views_of_the_whole_split_are_shown(three_digits, make_parameters, backbone, cached_views):
    parameters = make_parameters(feature_extract=True, model_weight_file=str(backbone), cached_views=cached_views)
    folder = train(parameters, three_digits).folder
    sheet = np.array(Image.open(folder / "training_samples.png"))
    samples, preprocessing = read_dataset(three_digits, 0.2, 0).train, open_weights(folder).preprocessing
    step = -(-len(samples) * (1 + cached_views) // 32)
    side = preprocessing.input_size
    for number, sample in enumerate(samples[::step]):
        row, column = divmod(number * (1 + cached_views), 8)
        tile = sheet[row * (side + 2) :, column * (side + 2) :][:side, :side]
        seen = preprocessing.prepare(read_image(sample.path)).transpose(1, 2, 0)
        np.testing.assert_allclose(tile.astype(int), seen.astype(int), atol=1)


def test_it_is_said_which_classes_kept_their_rows(make_parameters, three_digits, tmp_path):
    first = train(make_parameters(epochs=1), three_digits)
    shutil.copytree(three_digits, tmp_path / "later")
    for split in ("train", "val", "test"):
        (tmp_path / "later" / split / "2").rename(tmp_path / "later" / split / "two")
    later = train(make_parameters(epochs=1, model_weight_file=str(first.folder)), tmp_path / "later")
    reasons = read_state(later.folder).recipe["reasons"]  # which the report shows
    assert reasons["classes"] == "the head keeps the rows of 2 classes by their names; new: 'two'; dropped: '2'"
    values = {"optimizer": "auto", "epochs": 1, "model_weight_file": str(first.folder)}
    solved = read_state(train(make_parameters(**values), tmp_path / "later").folder).recipe["reasons"]
    assert solved["head"].startswith("solved first") and "classes" not in solved  # no row was kept


def test_the_checkpoint_of_a_head_loads_as_a_whole_network(three_digits, make_parameters, backbone):
    result = train(
        make_parameters(feature_extract=True, model_weight_file=str(backbone), export_pth=True), three_digits
    )
    weights = open_weights(result.folder)
    assert load_model("resnet18", weights.read_state_dict()).fc.out_features == 3
    assert weights.metadata.classes == ("0", "1", "2")


@pytest.mark.parametrize("memory_bound", [0, 1 << 20], ids=["in a file", "in memory"])
def test_a_store_gives_back_what_was_written(tmp_path, memory_bound):
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    store = FeatureStore(8, 5, tmp_path, memory_bound)
    store.write(np.array([6, 0, 1, 2]), values[[6, 0, 1, 2]])
    store.write(np.array([3, 4, 5]), values[[3, 4, 5]])
    assert list(tmp_path.iterdir()) == []  # the file has no name
    np.testing.assert_array_equal(store.read()[:7], values)
    np.testing.assert_array_equal(store.read()[7], 0)
    store.close()


def test_parts_without_an_image_to_show_are_computed_again(make_head, monkeypatch, tmp_path):
    monkeypatch.setattr("resnetkit.probing.features.FeatureStore.__init__.__defaults__", (0,))
    monkeypatch.setattr("resnetkit.probing.feature_parts._BATCHES", 1)
    first, _ = make_head(cached_views=3, batch_size=8)
    parts = sorted((tmp_path / "features").glob("train-*.npz"))
    parts[-1].unlink()  # the last of 33 images, of which each fifth is shown
    again, _ = make_head(cached_views=3, batch_size=8)
    assert (len(first._shown), again._shown) == (len(parts) - 1, [])
    for (features, _), (other, _) in zip(first.read_batches(0), again.read_batches(0), strict=True):
        assert features.equal(other)


def test_a_mapped_file_changes_nothing(three_digits, make_parameters, backbone, monkeypatch):
    parameters = make_parameters(feature_extract=True, model_weight_file=str(backbone))
    in_memory = train(parameters, three_digits).checkpoint.read_bytes()
    monkeypatch.setattr("resnetkit.probing.features.FeatureStore.__init__.__defaults__", (0,))
    on_disk = train(parameters, three_digits)
    assert on_disk.checkpoint.read_bytes() == in_memory
    assert not [path for path in on_disk.folder.iterdir() if "features" in path.name]
