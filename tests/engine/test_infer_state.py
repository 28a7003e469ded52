"""What infer_resnet keeps from one run to the next, and what it must not: frames, models, parameters of old files."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest


def answer(workflow, task, **source) -> np.ndarray:
    """Run a workflow; return the probabilities."""
    workflow.run_on(**source)
    return task.get_predictions()[0].probabilities


# --- Smoothing ---


def test_smoothing_averages_frames_of_one_source_and_size(workflow, classifier, photographs, photograph_folder):
    china, flower = photographs["china"], photographs["flower"]
    plain = {name: answer(workflow, classifier, array=photographs[name]) for name in ("china", "flower", "small")}
    assert not np.allclose(plain["china"], plain["flower"], atol=1e-3)
    classifier.set_parameters({"smoothing": 0.75})

    def check(found, expected) -> None:
        np.testing.assert_allclose(found, expected, atol=1e-5)

    check(answer(workflow, classifier, array=china), plain["china"])
    average = 0.75 * plain["china"] + 0.25 * plain["flower"]
    check(answer(workflow, classifier, array=flower), average)
    assert classifier.get_predictions()[0].confidence == pytest.approx(average.max(), abs=1e-5)
    classifier.reset_smoothing()
    check(answer(workflow, classifier, array=flower), plain["flower"])
    check(answer(workflow, classifier, array=photographs["small"]), plain["small"])  # another size
    check(answer(workflow, classifier, array=china), plain["china"])
    check(answer(workflow, classifier, path=str(photograph_folder / "flower.png")), plain["flower"])  # another source
    classifier.set_parameters({"smoothing": 0.0})
    check(answer(workflow, classifier, array=china), plain["china"])
    classifier.set_parameters({"smoothing": 0.75})
    check(answer(workflow, classifier, array=flower), plain["flower"])  # nothing is left from before


def test_frames_of_a_video_are_smoothed_together(workflow, classifier, video_path, monkeypatch):
    seen = []
    run = type(classifier).run
    monkeypatch.setattr(
        type(classifier), "run", lambda task: (run(task), seen.append(task.get_predictions()[0].probabilities))[0]
    )
    workflow.run_on(path=str(video_path))
    frames, average = seen[:], seen[0]
    seen.clear()
    classifier.set_parameters({"smoothing": 0.5})
    workflow.run_on(path=str(video_path))
    assert len(frames) == len(seen) == 5
    for frame, found in zip(frames, seen, strict=True):
        average = 0.5 * average + 0.5 * frame
        np.testing.assert_allclose(found, average, atol=1e-5)


def test_a_new_run_over_a_video_begins_anew(workflow, classifier, video_path, monkeypatch):
    seen = []
    run = type(classifier).run
    monkeypatch.setattr(
        type(classifier), "run", lambda task: (run(task), seen.append(task.get_predictions()[0].probabilities))[0]
    )
    classifier.set_parameters({"smoothing": 0.9})
    for _ in range(2):
        workflow.run_on(path=str(video_path))
    assert len(seen) == 10
    np.testing.assert_allclose(seen[5:], seen[:5], atol=1e-6)
    assert not np.allclose(seen[4], seen[0], atol=1e-4)


def test_a_further_run_over_the_same_video_input_begins_anew(workflow, classifier, video_path, monkeypatch):
    seen = []
    run = type(classifier).run
    monkeypatch.setattr(
        type(classifier), "run", lambda task: (run(task), seen.append(task.get_predictions()[0].probabilities))[0]
    )
    classifier.set_parameters({"smoothing": 0.9})
    workflow.set_video_input(path=str(video_path), index=0)
    workflow.set_cfg_entry("WholeVideo", "1")
    for _ in range(2):
        workflow.run()
    assert len(seen) == 10
    np.testing.assert_allclose(seen[5:], seen[:5], atol=1e-6)


# --- Models ---


def test_the_model_is_loaded_ahead_of_the_first_image(workflow, classifier, photographs, monkeypatch):
    import resnetkit.answers.loader as loader

    opened = []
    open_runtime = loader.open_runtime
    monkeypatch.setattr(loader, "open_runtime", lambda *args: (opened.append(args), open_runtime(*args))[1])
    workflow.init_long_process()
    assert len(opened) == 1
    workflow.run_on(array=photographs["china"])
    assert len(opened) == 1


def test_a_change_takes_effect_at_the_next_run(workflow, classifier, checkpoint_path, photographs, tmp_path):
    import torch

    from resnetkit.weights.models import initialize_model

    first = answer(workflow, classifier, array=photographs["portrait"])
    classifier.set_parameters({"resize_mode": "squash", "top_k": 1})
    assert not np.allclose(answer(workflow, classifier, array=photographs["portrait"]), first, atol=1e-4)
    assert len(classifier.get_predictions()[0].top_k) == 1
    torch.save(initialize_model("resnet18", 2, seed=1).state_dict(), tmp_path / "two.pth")
    (tmp_path / "classes.txt").write_text("left\nright\n", encoding="utf-8")
    classifier.set_parameters({"model_weight_file": tmp_path / "two.pth", "input_size": 64})
    assert len(answer(workflow, classifier, array=photographs["portrait"])) == 2
    assert list(classifier.get_names()) == ["left", "right"]
    classifier.set_parameters(
        {"model_weight_file": checkpoint_path, "resize_mode": "auto", "input_size": 224, "top_k": 5}
    )
    np.testing.assert_allclose(answer(workflow, classifier, array=photographs["portrait"]), first, atol=1e-6)


def test_an_error_leaves_the_workflow_usable(workflow, classifier, checkpoint_path, photographs, tmp_path):
    before = answer(workflow, classifier, array=photographs["china"])
    classifier.set_parameters({"model_weight_file": tmp_path / "none.pth"})
    with pytest.raises(RuntimeError, match=r"infer_resnet: .*none\.pth"):
        workflow.run_on(array=photographs["china"])
    assert classifier.get_predictions() == []
    classifier.set_parameters({"model_weight_file": checkpoint_path})
    np.testing.assert_allclose(answer(workflow, classifier, array=photographs["china"]), before, atol=1e-6)


@pytest.mark.parametrize(
    "source",
    [
        {"path": "none.png"}, {"path": "none.mp4"}, {"path": "none.gif"}, {"folder": "none"}, {"path": "damaged.png"},
        {"url": "http://127.0.0.1:9/none.png"}, {"array": np.zeros(3, np.uint8)}, {},
    ],
    ids=["image", "video", "GIF", "folder", "damaged image", "address", "array", "nothing"],
)  # fmt: skip
def test_what_is_not_there_leaves_no_answers_of_the_image_before(workflow, classifier, photographs, tmp_path, source):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    workflow.run_on(array=photographs["small"])
    assert len(classifier.get_predictions()) == 1
    workflow.clear_inputs()
    places = {name: str(tmp_path / value) for name, value in source.items() if name in ("path", "folder")}
    with suppress(RuntimeError, OSError):
        workflow.run_on(**{**source, **places})
    assert classifier.get_predictions() == []
    assert not classifier.get_output(3).get_all_label_list()


def test_two_tasks_of_one_workflow_do_not_spoil_each_other(workflow, classifier, checkpoint_path, photographs):
    from ikomia.dataprocess.workflow import Workflow

    other = workflow.add_task(name="infer_resnet", auto_connect=True)
    other.set_parameters({"model_weight_file": checkpoint_path, "input_size": 96, "runtime": "torch", "threads": 1})
    before = answer(workflow, classifier, array=photographs["china"])
    others = other.get_predictions()[0].probabilities
    assert not np.allclose(before, others, atol=1e-4)
    other.set_parameters({"resize_mode": "squash", "smoothing": 0.5, "confidence_threshold": 1.0, "top_k": 1})
    np.testing.assert_allclose(answer(workflow, classifier, array=photographs["china"]), before, atol=1e-6)
    assert (len(classifier.get_predictions()[0].top_k), len(other.get_predictions()[0].top_k)) == (3, 1)
    assert "unknown" not in classifier.get_names()

    alone = Workflow()
    lone_task = alone.add_task(name="infer_resnet", auto_connect=True)
    lone_task.set_parameters({"model_weight_file": checkpoint_path, "input_size": 96, "runtime": "torch"})
    np.testing.assert_allclose(answer(alone, lone_task, array=photographs["china"]), others, atol=1e-6)


def test_every_kind_of_file_that_training_writes_gives_the_same_answers(
    workflow, classifier, trained_run, digits_folder
):
    paths = sorted((digits_folder / "test").rglob("*.png"))[::10]
    expected = None
    for name in ("best.safetensors", "resnet18.pth", "resnet18.onnx", "resnet18.xml", ""):
        path = trained_run / name
        # A bare state dict says neither its size nor its names.
        bare = {"input_size": 32} if name.endswith(".pth") else {"input_size": 224}
        classifier.set_parameters({"model_weight_file": path, **bare})
        found = np.stack([answer(workflow, classifier, path=str(image)) for image in paths])
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=name)
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1), err_msg=name)
        assert classifier.get_predictions()[0].label in set("0123456789")


# --- Old files ---


def test_the_retired_dataset_is_dropped(workflow, classifier, photographs, tmp_path, caplog):
    from ikomia.dataprocess.workflow import Workflow

    before = classifier.get_parameters()
    classifier.set_parameters({"dataset": "Custom"})
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "infer_resnet: parameter 'dataset' is no longer used and has no effect"
    ]
    assert classifier.get_parameters() == before
    workflow.save(str(tmp_path / "saved.json"))
    text = (tmp_path / "saved.json").read_text(encoding="utf-8")
    assert '"dataset"' not in text

    content = json.loads(text)
    content["tasks"][0]["task_data"]["parameters"].append({"name": "dataset", "value": "Custom"})
    (tmp_path / "old.json").write_text(json.dumps(content), encoding="utf-8")
    loaded = Workflow()
    loaded.load(str(tmp_path / "old.json"))
    (task,) = loaded.find_task("infer_resnet")
    assert task.get_parameters() == before
    np.testing.assert_allclose(
        answer(loaded, task, array=photographs["china"]),
        answer(workflow, classifier, array=photographs["china"]),
        atol=1e-6,
    )


def test_a_class_file_is_not_read_while_imagenet_weights_are_used(
    workflow, classifier, imagenet_weights, photographs, tmp_path
):
    imagenet_weights("resnet18")
    classifier.set_parameters({"model_weight_file": "", "class_file": tmp_path / "missing.txt"})
    assert len(answer(workflow, classifier, array=photographs["china"])) == 1000
