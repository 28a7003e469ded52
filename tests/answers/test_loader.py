"""From parameters to a model: what is found where, what contradicts what, and what is loaded again."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from resnetkit.answers.loader import Loader, choose_threshold, describe, summarize
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters
from resnetkit.runtimes.choice import RuntimeOptionError
from resnetkit.runtimes.openvino_graph import build_graph, save_graph
from resnetkit.weights.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, get_imagenet_classes
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, open_weights, write_checkpoint
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import ModelMetadata, write_preprocessing
from resnetkit.weights.models import initialize_model


@pytest.fixture
def counts(monkeypatch):
    """Counts the calls of the parts that cost something; they do their real work."""
    import resnetkit.answers.loader as loader

    counter: Counter[str] = Counter()

    def watch(name: str) -> None:
        function = getattr(loader, name)

        def call(*arguments):
            counter[name] += 1
            return function(*arguments)

        monkeypatch.setattr(loader, name, call)

    for name in ("open_weights", "find_class_names", "open_runtime"):
        watch(name)
    return counter


@pytest.fixture(scope="module")
def named_files(tmp_path_factory):
    """Bare weights: model.pth of a resnet18 with three outputs and classes.txt beside it; thousand.pth with 1000."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(initialize_model("resnet18", 3, seed=0).state_dict(), folder / "model.pth")
    torch.save(initialize_model("resnet18", 1000, seed=0).state_dict(), folder / "thousand.pth")
    (folder / "classes.txt").write_text("cat\ndog\nfish\n")
    (folder / "names.txt").write_text("a\nb\nc\n")
    return folder


def make_values(**changes) -> InferParameters:
    return InferParameters().updated({"input_size": 64, "runtime": "torch", **changes})


def predict(loader, values, photographs):
    return loader.load(values).predict([photographs["china"]])[0].probabilities


@pytest.mark.parametrize(
    ("change", "reloaded"),
    [
        ({"top_k": 2}, {}),
        ({"confidence_threshold": 0.5}, {}),
        ({"heatmap": True, "embedding": True}, {}),
        ({"box_margin": 0.5}, {}),
        ({"smoothing": 0.5}, {}),
        ({"resize_mode": "squash"}, {}),
        ({"pretrained_weights": "IMAGENET1K_V1"}, {}),
        ({"class_file": "names.txt"}, {"find_class_names": 1}),
        ({"input_size": 96}, {"open_runtime": 1}),
        ({"runtime": "openvino"}, {"open_runtime": 1}),
        ({"threads": 1}, {"open_runtime": 1}),
        ({"device": "cpu"}, {"open_runtime": 1}),
        ({"model_weight_file": "twin.pth"}, {"open_weights": 1, "find_class_names": 1, "open_runtime": 1}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_only_what_changed_is_loaded_again(named_files, tmp_path, counts, change, reloaded):
    for name in ("model.pth", "classes.txt", "names.txt"):
        shutil.copy(named_files / name, tmp_path)
    shutil.copy(tmp_path / "model.pth", tmp_path / "twin.pth")
    loader, values = Loader(), make_values(model_weight_file=tmp_path / "model.pth")
    before = loader.load(values)
    assert loader.load(values) is before
    counts.clear()
    paths = ("class_file", "model_weight_file")
    changed = values.updated({name: tmp_path / value if name in paths else value for name, value in change.items()})
    after = loader.load(changed)
    assert counts == reloaded
    assert (after.runtime is before.runtime) == ("open_runtime" not in reloaded)
    loader.load(changed)
    assert counts == reloaded
    # What takes effect without being loaded again:
    assert after.preprocessing.resize_mode == change.get("resize_mode", "crop")
    assert after.preprocessing.input_size == change.get("input_size", 64)
    assert after.classes == (("a", "b", "c") if "class_file" in change else ("cat", "dog", "fish"))


THRESHOLDS = ((0.9, 0.25, 1.0), (0.95, 0.75, 0.5), (0.99, 0.875, 0.25))


@pytest.fixture
def deciding(checkpoint_path, tmp_path):
    """A loader with a model that has thresholds, and the parameters for it."""
    file = open_weights(checkpoint_path)
    path = tmp_path / "deciding.safetensors"
    write_checkpoint(path, file.read_state_dict(), replace(file.metadata, thresholds=THRESHOLDS))
    loader, values = Loader(), make_values(model_weight_file=path)
    loader.load(values)
    return loader, values


@pytest.mark.parametrize(
    ("changes", "threshold"),
    [
        ({}, 0.0),
        ({"confidence_threshold": 0.4}, 0.4),
        ({"wanted_accuracy": 0.5}, 0.25),
        ({"wanted_accuracy": 0.95}, 0.75),
        ({"wanted_accuracy": 0.96}, 0.875),
    ],
    ids=["off", "a confidence", "less than the least", "as stored", "the next that promises it"],
)
def test_threshold_of_a_wanted_accuracy(deciding, changes, threshold):
    loader, values = deciding
    assert choose_threshold(values.updated(changes), loader.weights) == threshold


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wanted_accuracy": 0.995}, r"'wanted_accuracy' of 0.995 cannot be promised by '.*'; .* show 0.99 at most"),
        (
            {"wanted_accuracy": 0.9, "confidence_threshold": 0.1},
            r"expected a 'confidence_threshold' of 0 beside it, got 0.1",
        ),
    ],
    ids=["out of reach", "both"],
)
def test_a_wanted_accuracy_that_cannot_be_had(deciding, changes, message):
    loader, values = deciding
    with pytest.raises(ParameterError, match=message):
        choose_threshold(values.updated(changes), loader.weights)


def test_weights_without_thresholds_refuse_a_wanted_accuracy(checkpoint_path):
    loader, values = Loader(), make_values(model_weight_file=checkpoint_path)
    loader.load(values)
    with pytest.raises(ParameterError, match=r"needs a weights file with thresholds, .* has none"):
        choose_threshold(values.updated({"wanted_accuracy": 0.9}), loader.weights)


@pytest.mark.parametrize("was_enabled", [True, False])
@pytest.mark.parametrize("name", ["model.pth", "missing.pth"])
def test_loading_leaves_the_garbage_collector_as_it_was(named_files, monkeypatch, was_enabled, name):
    during = []

    def find_model(values):
        during.append(gc.isenabled())
        return find(values)

    import resnetkit.answers.loader as loader

    find = loader._find_weights
    monkeypatch.setattr(loader, "_find_weights", find_model)
    try:
        gc.enable() if was_enabled else gc.disable()
        if name == "missing.pth":
            with pytest.raises(WeightsError, match="does not exist"):
                Loader().load(make_values(model_weight_file=named_files / name))
        else:
            Loader().load(make_values(model_weight_file=named_files / name))
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
    assert during == [False]


def test_naming_the_architecture_that_a_file_has_loads_no_network(tmp_path, counts):
    path = tmp_path / "best.safetensors"
    preprocessing = Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD)
    weights = initialize_model("resnet34", 2, seed=0).state_dict()
    write_checkpoint(path, weights, ModelMetadata("resnet34", ("cat", "dog"), preprocessing))
    loader = Loader()
    before = loader.load(make_values(model_weight_file=path))
    after = loader.load(make_values(model_weight_file=path, model_name="resnet34"))
    assert after.runtime is before.runtime
    assert counts["open_runtime"] == 1


def test_a_file_that_was_replaced_is_seen(named_files, tmp_path, photographs, counts):
    path = tmp_path / "model.pth"
    for name in ("model.pth", "classes.txt"):
        shutil.copy(named_files / name, tmp_path)
    loader, values = Loader(), make_values(model_weight_file=path)
    before = predict(loader, values, photographs)
    torch.save(initialize_model("resnet18", 3, seed=9).state_dict(), tmp_path / "new.pth")
    (tmp_path / "new.pth").replace(path)
    after = predict(loader, values, photographs)
    assert not np.allclose(before, after)
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    assert loader.load(values).classes == ("one", "two", "three")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"^weights file .* is no complete PyTorch file"):
        loader.load(values)
    path.unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        loader.load(values)
    shutil.copy(named_files / "model.pth", path)
    np.testing.assert_allclose(predict(loader, values, photographs), before, atol=1e-6)


def test_a_checkpoint_that_was_replaced_in_its_run_folder_is_seen(tmp_path, photographs):
    metadata = ModelMetadata(
        "resnet18", ("cat", "dog", "fish"), Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD)
    )
    loader, values = Loader(), make_values(model_weight_file=tmp_path)
    answers = []
    for seed in (0, 9):
        write_checkpoint(tmp_path / BEST_CHECKPOINT, initialize_model("resnet18", 3, seed).state_dict(), metadata)
        answers.append(predict(loader, values, photographs))
    assert not np.allclose(*answers)


def test_weights_of_a_graph_that_were_replaced_beside_it_are_seen(make_network, tmp_path, photographs):
    preprocessing = Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD)
    metadata = ModelMetadata("resnet18", tuple(map(str, range(1000))), preprocessing)
    source = make_network("resnet18").source
    state_dict = source.read_state_dict()
    other = {**state_dict, "fc.bias": state_dict["fc.bias"] + torch.linspace(0, 9, 1000)}
    save_graph(build_graph(source), tmp_path / "model.xml", metadata)
    save_graph(build_graph(replace(source, read_state_dict=lambda: other)), tmp_path / "other.xml", metadata)
    loader, values = Loader(), make_values(model_weight_file=tmp_path / "model.xml", runtime="openvino")
    before = predict(loader, values, photographs)
    (tmp_path / "other.bin").replace(tmp_path / "model.bin")
    assert not np.allclose(before, predict(loader, values, photographs))


def test_two_loaders_share_nothing(named_files, photographs):
    first, second = Loader(), Loader()
    values = make_values(model_weight_file=named_files / "model.pth")
    before = predict(first, values, photographs)
    predict(second, values.updated({"input_size": 32, "threads": 1}), photographs)
    assert first.load(values).runtime is not second.load(values).runtime
    np.testing.assert_array_equal(predict(first, values, photographs), before)


def test_a_bare_state_dict_takes_imagenets_preprocessing(named_files):
    loader = Loader()
    model = loader.load(InferParameters().updated({"model_weight_file": named_files / "model.pth"}))
    preprocessing = model.preprocessing
    assert (preprocessing.input_size, preprocessing.resize_size, preprocessing.resize_mode) == (224, 256, "crop")
    assert (loader.weights.identity.num_classes, loader.weights.is_self_describing) == (3, False)


def test_preprocessing_beside_a_bare_state_dict_is_found(named_files, tmp_path, caplog):
    path = tmp_path / "model.pth"
    for name in (path.name, "classes.txt"):
        shutil.copy(named_files / name, tmp_path)
    loader, values = Loader(), InferParameters().updated({"model_weight_file": path, "runtime": "torch"})
    with caplog.at_level(logging.INFO):
        assert loader.load(values).preprocessing.input_size == 224
    assert "does not say how an image becomes its input, which is guessed" in caplog.text
    caplog.clear()

    own = Preprocessing(64, 70, "squash", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    write_preprocessing(tmp_path, own)
    with caplog.at_level(logging.INFO):
        model = loader.load(values)  # put there while a service runs
    assert model.preprocessing == own
    assert "guessed" not in caplog.text
    assert "as the preprocessing.json says" in summarize(loader.weights, model)
    assert loader.load(values) is model
    assert loader.load(values.updated({"input_size": 96})).preprocessing.input_size == 96
    (tmp_path / "preprocessing.json").write_text('{"input_size": 1000000}')
    with pytest.raises(WeightsError, match=r"has a '.*preprocessing.json' beside it that cannot be read"):
        loader.load(values)


def test_names_are_printable(tmp_path, checkpoint_path):
    names = ("\x1b[31mred", "two\nlines", "می\u200cخواهم 👩\u200d💻")
    metadata = ModelMetadata("resnet18", names, Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD))
    write_checkpoint(tmp_path / "best.safetensors", open_weights(checkpoint_path).read_state_dict(), metadata)
    classes = Loader().load(make_values(model_weight_file=tmp_path)).classes
    assert classes == ("\\x1b[31mred", "two\\nlines", names[2])


def test_a_state_dict_of_parameters_with_gradients_runs_in_openvino(named_files, tmp_path, photographs, caplog):
    weights = torch.load(named_files / "model.pth", weights_only=True)
    weights = {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in weights.items()}
    torch.save(weights, tmp_path / "model.pth")
    shutil.copy(named_files / "classes.txt", tmp_path)
    model = Loader().load(make_values(model_weight_file=tmp_path / "model.pth", runtime="auto", device="cpu"))
    assert model.runtime.name == "openvino"


def test_a_file_overwritten_in_place_with_its_time_kept_is_seen(named_files, tmp_path, photographs):
    for name in ("model.pth", "classes.txt"):
        shutil.copy(named_files / name, tmp_path)
    path, loader = tmp_path / "model.pth", Loader()
    values = make_values(model_weight_file=path, runtime="openvino", heatmap=True)
    before = predict(loader, values, photographs)
    times = path.stat()
    torch.save(initialize_model("resnet18", 3, seed=9).state_dict(), tmp_path / "new.pth")
    path.write_bytes((tmp_path / "new.pth").read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not np.allclose(before, predict(loader, values, photographs))


def test_a_self_describing_file_decides(checkpoint_path):
    loader = Loader()
    model = loader.load(InferParameters().updated({"model_weight_file": checkpoint_path.parent}))
    assert loader.weights.is_self_describing
    assert model.classes == ("cat", "dog", "fish")
    assert (model.preprocessing.input_size, model.preprocessing.resize_size) == (64, 73)
    content = json.loads(json.dumps(describe(loader.weights, model)))
    assert content["model_name"] == "resnet18"
    assert content["weights"] == str(checkpoint_path)
    assert content["input_size"] == 64


def test_another_size_and_mode_are_used_as_given(checkpoint_path):
    values = InferParameters().updated(
        {"model_weight_file": checkpoint_path, "input_size": 96, "resize_mode": "squash"}
    )
    preprocessing = Loader().load(values).preprocessing
    assert (preprocessing.input_size, preprocessing.resize_size, preprocessing.resize_mode) == (96, 110, "squash")


def test_addresses_and_the_home_folder_are_understood(checkpoint_path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(checkpoint_path, tmp_path / "my model.safetensors")
    for text in (
        "~/my model.safetensors",
        f"file://{tmp_path}/my%20model.safetensors",
        f"file://{tmp_path}/my model.safetensors",
    ):
        loader = Loader()
        loader.load(InferParameters().updated({"model_weight_file": text}))
        assert loader.weights.file.path == tmp_path / "my model.safetensors"


def test_names_come_from_the_class_file_then_from_beside_then_from_imagenet(named_files, tmp_path):
    def read_names(**changes):
        return Loader().load(make_values(**changes)).classes

    path = named_files / "model.pth"
    assert read_names(model_weight_file=path, class_file=named_files / "names.txt") == ("a", "b", "c")
    assert read_names(model_weight_file=path) == ("cat", "dog", "fish")
    shutil.copy(named_files / "thousand.pth", tmp_path)
    assert read_names(model_weight_file=tmp_path / "thousand.pth") == get_imagenet_classes()


def test_a_class_file_that_is_not_needed_is_reported_once(checkpoint_path, named_files, caplog):
    loader = Loader()
    values = make_values(model_weight_file=checkpoint_path, class_file=named_files / "names.txt")
    assert loader.load(values).classes == ("cat", "dog", "fish")
    loader.load(values)
    assert [record.getMessage() for record in caplog.records] == [
        f"'class_file' is not used: '{checkpoint_path}' names its classes"
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_weight_file": "missing.pth"}, WeightsError, r"weights file '.*missing\.pth' does not exist"),
        ({"class_file": "missing.txt"}, WeightsError, "does not exist"),
        ({"class_file": "short.txt"}, WeightsError, r"has 1 names, but weights file '.*' has 3 outputs"),
        (
            {"model_name": "resnet50"},
            ParameterError,
            "holds a resnet18, but 'model_name' is resnet50; set 'model_name'",
        ),
        ({"device": "cuda:7"}, RuntimeOptionError, "'device' cuda:7 does not exist"),
    ],
    ids=["no weights", "no class file", "too few names", "another architecture", "no such device"],
)
def test_what_does_not_fit_is_an_error_of_the_plugin(named_files, changes, error, message):
    (named_files / "short.txt").write_text("one\n")
    paths = ("class_file", "model_weight_file")
    changes = {name: named_files / value if name in paths else value for name, value in changes.items()}
    values = make_values(**{"model_weight_file": named_files / "model.pth", **changes})
    with pytest.raises(error, match=rf"^.*{message}") as caught:
        Loader().load(values)
    assert "\n" not in str(caught.value)


def test_a_self_describing_file_contradicts_another_name_than_the_default(tmp_path, checkpoint_path):
    with pytest.raises(ParameterError, match="holds a resnet18, but 'model_name' is resnet34"):
        Loader().load(make_values(model_weight_file=checkpoint_path, model_name="resnet34"))


def test_a_bare_file_of_another_architecture_names_both(tmp_path):
    weights = initialize_model("resnet34", 1000, seed=0).state_dict()
    save_file(dict(weights), tmp_path / "model.safetensors")
    with pytest.raises(ParameterError, match="holds a resnet34, but 'model_name' is resnet18"):
        Loader().load(make_values(model_weight_file=tmp_path / "model.safetensors"))


def test_a_foreign_graph_is_refused(tmp_path):
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([1, 3], np.float32, name="x")
    ov.save_model(ov.Model([ops.relu(given)], [given], "relu"), tmp_path / "relu.xml")
    with pytest.raises(WeightsError, match="does not say what it is; expected one that train_resnet wrote"):
        Loader().load(make_values(model_weight_file=tmp_path / "relu.xml"))


@pytest.fixture
def imagenet_cache(monkeypatch, tmp_path, named_files):
    """Torch's cache folder with seeded weights in the place of resnet18's."""
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(named_files / "thousand.pth", folder / ARCHITECTURES["resnet18"].get_weights().file_name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


def test_no_weights_file_means_imagenet_and_no_class_file_is_read(imagenet_cache, counts, caplog):
    loader = Loader()
    model = loader.load(make_values(class_file="/nowhere/names.txt"))
    assert model.classes == get_imagenet_classes()
    assert loader.weights.file.path.parent == imagenet_cache
    assert model.preprocessing.resize_size == 73  # 64 x 256 / 224
    assert counts["find_class_names"] == 0
    assert ["'class_file' is not used" in record.getMessage() for record in caplog.records] == [True]
    # DEFAULT and IMAGENET1K_V1 are the same for resnet18.
    same = loader.load(make_values(pretrained_weights="IMAGENET1K_V1"))
    assert same.runtime is model.runtime


def test_published_weights_that_do_not_exist(imagenet_cache):
    with pytest.raises(WeightsError, match=r"^'pretrained_weights' IMAGENET1K_V2 do not exist for resnet18"):
        Loader().load(make_values(pretrained_weights="IMAGENET1K_V2"))


def test_a_folder_that_gets_its_checkpoint_later(tmp_path, checkpoint_path):
    loader, values = Loader(), make_values(model_weight_file=tmp_path)
    with pytest.raises(WeightsError, match=r"folder without best\.safetensors"):
        loader.load(values)
    os.link(checkpoint_path, tmp_path / "best.safetensors")
    assert loader.load(values).classes == ("cat", "dog", "fish")
