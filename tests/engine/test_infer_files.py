"""Files through the real engine: what training sees of a file, inference by its path sees, to the pixel."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from resnetkit.images.reading import read_image
from tests.image_kinds import KINDS


@pytest.fixture(scope="module")
def picture(photographs) -> Image.Image:
    return Image.fromarray(photographs["small"])


def run_on(workflow, task, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Run a workflow on a path; return what infer_resnet saw, and its probabilities."""
    from infer_resnet.inputs import read_image_input

    workflow.run_on(path=str(path))
    (prediction,) = task.get_predictions()
    return read_image_input(task.get_input(0)), prediction.probabilities


def test_what_training_sees_of_a_file_is_what_inference_by_its_path_sees(workflow, classifier, picture, tmp_path):
    for name, save in KINDS.items():
        shown = save(picture, tmp_path / name)
        trained = read_image(tmp_path / name)
        if shown is None:  # lossy, so that another decoder says what it shows
            with Image.open(tmp_path / name) as image:
                shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(trained, shown, err_msg=name)
        seen, probabilities = run_on(workflow, classifier, tmp_path / name)
        np.testing.assert_array_equal(seen, trained, err_msg=name)
        workflow.run_on(array=np.ascontiguousarray(trained))
        (expected,) = classifier.get_predictions()
        np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-6, err_msg=name)


def test_what_a_task_made_of_an_image_is_not_read_from_the_file(workflow, picture, checkpoint_path, tmp_path):
    KINDS["turned.webp"](picture, tmp_path / "turned.webp")
    workflow.add_task(name="ocv_blur", auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": checkpoint_path})
    seen, _ = run_on(workflow, task, tmp_path / "turned.webp")
    np.testing.assert_array_equal(seen, task.get_input(0).get_image())
    assert not np.array_equal(seen, read_image(tmp_path / "turned.webp"))


def test_boxes_lie_on_the_engines_own_pixels(workflow, detector, picture, checkpoint_path, tmp_path):
    KINDS["turned.webp"](picture, tmp_path / "turned.webp")
    workflow.add_task(name=detector, auto_connect=True).set_parameters({"boxes": "0.1 0.1 0.3 0.5"})
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": checkpoint_path})
    workflow.run_on(path=str(tmp_path / "turned.webp"))
    (from_file,) = task.get_predictions()
    lying = task.get_input(0).get_image()
    assert lying.shape[0] > lying.shape[1]
    assert task.get_image_with_graphics().shape == lying.shape
    workflow.run_on(array=lying)
    (from_array,) = task.get_predictions()
    assert from_file.box == from_array.box
    np.testing.assert_allclose(from_file.probabilities, from_array.probabilities, atol=1e-6)


def test_videos_by_any_ending_give_an_answer_a_frame(workflow, classifier, picture, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "video.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, picture.size)
    for angle in (0, 90, 180):
        writer.write(np.asarray(picture.rotate(angle))[..., ::-1])
    writer.release()
    shutil.copy(tmp_path / "video.mp4", tmp_path / "VIDEO.MP4")
    answers = []
    for name in ("video.mp4", "VIDEO.MP4"):
        workflow.run_on(path=str(tmp_path / name))
        answers.append(classifier.get_predictions()[0].probabilities)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.docx", b"PK\x03\x04", r"notes\.docx': no image of a known format .*; expected an image \(\.jpg, .*"),
        ("none", b"text", r"none': no image of a known format"),
        ("damaged.gif", b"GIF89a", r"damaged\.gif': cannot be decoded"),
        ("damaged.tif", b"II*\0\x08\0\0\0\xff\xff" + b"rubbish" * 99, r"damaged\.tif': cannot be decoded"),
    ],
    ids=["document", "text", "damaged GIF", "damaged TIFF"],
)
def test_a_file_of_no_known_kind_is_named(workflow, classifier, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=words):
        workflow.run_on(path=str(tmp_path / name))


def test_workflows_without_infer_resnet_are_the_engines_alone(workflow, picture, tmp_path):
    picture.save(tmp_path / "image.gif")
    workflow.add_task(name="ocv_blur", auto_connect=True)
    with pytest.raises(RuntimeError, match="unsupported input type"):
        workflow.run_on(path=str(tmp_path / "image.gif"))
