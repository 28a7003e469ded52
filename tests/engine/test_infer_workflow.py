"""infer_resnet in workflows of the real engine: every kind of input, a detector before it, files saved and loaded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

CLASSES = {"cat", "dog", "fish"}


def probabilities(task) -> np.ndarray:
    (prediction,) = task.get_predictions()
    assert prediction.label in CLASSES
    return prediction.probabilities


def test_both_plugins_load_through_links(ikomia_root, workflow):
    for name in ("infer_resnet", "train_resnet"):
        assert (ikomia_root / "Plugins" / "Python" / name).is_symlink()
        task = workflow.add_task(name=name)
        assert task.name == name
        assert task.get_parameters()["model_name"] == "resnet18"


@pytest.mark.parametrize("name", ["china", "portrait", "small", "tiny"])
def test_an_array(workflow, classifier, photographs, name):
    workflow.run_on(array=photographs[name])
    assert probabilities(classifier).sum() == pytest.approx(1, abs=1e-5)
    assert classifier.get_image_with_graphics().shape == photographs[name].shape


def test_a_path_gives_the_same_as_its_array(workflow, classifier, photographs, photograph_folder):
    workflow.run_on(array=photographs["china"])
    expected = probabilities(classifier)
    workflow.run_on(path=str(photograph_folder / "china.png"))
    np.testing.assert_allclose(probabilities(classifier), expected, atol=1e-6)


@pytest.mark.parametrize("query", ["", "?raw=true"])
def test_a_url(workflow, classifier, photographs, photograph_folder, local_server, query):
    shutil.copy(photograph_folder / "china.png", local_server.folder / "china.png")
    workflow.run_on(array=photographs["china"])
    expected = probabilities(classifier)
    workflow.run_on(url=f"{local_server.url}/china.png{query}")
    np.testing.assert_allclose(probabilities(classifier), expected, atol=1e-6)


def test_a_folder(workflow, classifier, photograph_folder, tmp_path, monkeypatch):
    for name in ("china", "tiny"):
        shutil.copy(photograph_folder / f"{name}.png", tmp_path)
    seen = []
    run = type(classifier).run
    monkeypatch.setattr(type(classifier), "run", lambda task: (run(task), seen.append(task.get_predictions()))[0])
    workflow.run_on(folder=str(tmp_path))
    assert len(seen) == 2
    assert not np.allclose(seen[0][0].probabilities, seen[1][0].probabilities)


def test_every_frame_of_a_video(workflow, classifier, video_path, monkeypatch):
    seen = []
    run = type(classifier).run
    monkeypatch.setattr(type(classifier), "run", lambda task: (run(task), seen.append(probabilities(task)))[0])
    workflow.run_on(path=str(video_path))
    assert len(seen) == 5
    np.testing.assert_allclose(seen[0], seen[2], atol=0.02)
    assert not np.allclose(seen[0], seen[4], atol=0.02)


def test_a_detector_first(workflow, detector, checkpoint_path, photographs):
    workflow.add_task(name=detector, auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(checkpoint_path)})
    workflow.run_on(array=photographs["china"])
    predictions = task.get_predictions()
    assert [prediction.box for prediction in predictions] == [
        pytest.approx((64, 42.7, 192, 256.2), abs=1e-3),
        pytest.approx((320, 85.4, 256, 298.9), abs=1e-3),
    ]
    assert len(task.get_output(1).get_objects()) == 2
    assert not np.allclose(predictions[0].probabilities, predictions[1].probabilities, atol=1e-4)


def test_a_box_is_classified_as_the_same_region_alone(workflow, detector, checkpoint_path, photographs):
    """The engine's own sub-image of an array is the whole image; ours must be the box."""
    from ikomia.dataprocess.workflow import Workflow

    finder = workflow.add_task(name=detector, auto_connect=True)
    finder.set_parameters({"boxes": "0.25 0.5 0.5 0.25"})
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(checkpoint_path)})
    image = photographs["astronaut"]
    workflow.run_on(array=image)

    alone = Workflow()
    lone_task = alone.add_task(name="infer_resnet", auto_connect=True)
    lone_task.set_parameters({"model_weight_file": str(checkpoint_path)})
    alone.run_on(array=np.ascontiguousarray(image[256:384, 128:384]))
    np.testing.assert_allclose(
        task.get_predictions()[0].probabilities, lone_task.get_predictions()[0].probabilities, atol=1e-5
    )


def test_a_detector_that_finds_nothing_gives_no_result(workflow, detector, checkpoint_path, photographs):
    finder = workflow.add_task(name=detector, auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(checkpoint_path)})
    workflow.run_on(array=photographs["china"])
    assert len(task.get_predictions()) == 2
    finder.set_parameters({"boxes": " "})
    workflow.run_on(array=photographs["china"])
    assert task.get_predictions() == []
    assert task.get_output(1).get_objects() == []


def test_a_workflow_file_gives_the_same_answers_when_loaded(workflow, detector, checkpoint_path, photographs, tmp_path):
    from ikomia.dataprocess.workflow import Workflow

    workflow.add_task(name=detector, auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(checkpoint_path), "top_k": 2, "box_margin": 0.1})
    workflow.run_on(array=photographs["china"])
    workflow.save(str(tmp_path / "saved.json"))

    loaded = Workflow()
    loaded.load(str(tmp_path / "saved.json"))
    loaded_task = loaded.find_task("infer_resnet")[0]
    assert loaded_task.get_parameters() == task.get_parameters()
    loaded.run_on(array=photographs["china"])
    for old, new in zip(task.get_predictions(), loaded_task.get_predictions(), strict=True):
        assert old.top_k == new.top_k
        np.testing.assert_allclose(old.probabilities, new.probabilities, atol=1e-6)


def test_a_workflow_file_with_missing_and_empty_parameters(workflow, classifier, tmp_path):
    from ikomia.dataprocess.workflow import Workflow

    path = tmp_path / "saved.json"
    workflow.save(str(path))
    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(content)
    assert "input_size" in text
    path.write_text(text.replace("input_size", "size_of_an_older_version"), encoding="utf-8")
    loaded = Workflow()
    loaded.load(str(path))
    assert loaded.find_task("infer_resnet")[0].get_parameters()["input_size"] == "224"


def test_the_call_that_everybody_knows(
    completion, workflow, imagenet_weights, photograph_folder, local_server, monkeypatch
):
    from ikomia.utils.displayIO import display

    imagenet_weights("resnet50")
    shutil.copy(photograph_folder / "china.png", local_server.folder / "img_porsche.png")
    resnet = workflow.add_task(completion.infer_resnet(model_name="resnet50", input_size=224), auto_connect=True)
    workflow.run_on(url=f"{local_server.url}/img_porsche.png?raw=true")
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image, *_, **__: shown.append(image.size))
    display(resnet.get_image_with_graphics())
    assert shown == [(640, 427)]
    assert len(resnet.get_predictions()[0].top_k) == 5
    assert resnet.get_model_info()["model_name"] == "resnet50"


def test_an_unreadable_image_is_named_and_the_task_survives(workflow, classifier, photograph_folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nthen nothing")
    with pytest.raises(RuntimeError, match=r"broken\.png"):
        workflow.run_on(path=str(tmp_path / "broken.png"))
    workflow.run_on(path=str(photograph_folder / "china.png"))
    probabilities(classifier)


def test_two_workflows_do_not_disturb_each_other(workflow, classifier, checkpoint_path, photographs):
    from ikomia.dataprocess.workflow import Workflow

    other = Workflow()
    other_task = other.add_task(name="infer_resnet", auto_connect=True)
    other_task.set_parameters({"model_weight_file": str(checkpoint_path), "input_size": 96})
    workflow.run_on(array=photographs["china"])
    before = probabilities(classifier)
    other.run_on(array=photographs["flower"])
    workflow.run_on(array=photographs["china"])
    np.testing.assert_allclose(probabilities(classifier), before, atol=1e-6)
    assert classifier.get_model_info() != other_task.get_model_info()
