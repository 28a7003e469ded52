"""Every kind of image through the real engine, as file and array: the answer, or the sentence that says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEATMAP = 4


@pytest.fixture(scope="module")
def rgb(photographs) -> np.ndarray:
    """A photograph whose every value is a multiple of 17, so that 4, 8 and 16 bits hold it without loss."""
    image = photographs["china"][::2, ::2] // 17 * 17
    image[0, 0] = 255
    image.flags.writeable = False
    return image


def answer(workflow, task, **source) -> np.ndarray:
    """Run a workflow on an array or a path; return the probabilities."""
    workflow.run_on(**source)
    (prediction,) = task.get_predictions()
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    return prediction.probabilities


def as_gray(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(rgb[..., :1], rgb.shape))


def over_white(rgb: np.ndarray) -> np.ndarray:
    """Return what the left half, seen through nothing, is on white."""
    image = rgb.copy()
    image[:, : image.shape[1] // 2] = 255
    return image


def add_alpha(image: np.ndarray) -> np.ndarray:
    """Add an alpha channel that hides the left half."""
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    alpha[:, : image.shape[1] // 2] = 0
    return np.concatenate([image, alpha], axis=2)


#: Arrays and what they mean as RGB.
ARRAYS = {
    "gray": lambda rgb: (rgb[..., 0], as_gray(rgb)),
    "gray with a third axis": lambda rgb: (rgb[..., :1], as_gray(rgb)),
    "gray and alpha": lambda rgb: (add_alpha(rgb[..., :1]), over_white(as_gray(rgb))),
    "rgba": lambda rgb: (add_alpha(rgb), over_white(rgb)),
    "16 bits": lambda rgb: (rgb.astype(np.uint16) * 257, rgb),
    "0 to 1": lambda rgb: (rgb.astype(np.float32) / 255, rgb),
    "0 to 255": lambda rgb: (rgb.astype(np.float32), rgb),
    "mirrored view": lambda rgb: (rgb[:, ::-1], np.ascontiguousarray(rgb[:, ::-1])),
}


def test_arrays_of_every_kind_are_what_they_mean_and_stay_as_they_are(workflow, classifier, rgb):
    for kind, make in ARRAYS.items():
        array, meaning = make(rgb)
        before = array.copy()
        found = answer(workflow, classifier, array=array)
        np.testing.assert_array_equal(array, before, err_msg=kind)
        expected = answer(workflow, classifier, array=meaning)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=kind)


def save_files(folder: Path, rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Save files of every kind; return what each means as RGB."""
    picture = Image.fromarray(rgb)
    meanings = {
        "gray.png": as_gray(rgb),
        "gray_alpha.png": over_white(as_gray(rgb)),
        "rgba.png": over_white(rgb),
        "exif.png": rgb,
        "uint16.png": as_gray(rgb),
        "float.tif": as_gray(rgb),
        "bit.png": np.repeat(np.where(rgb[..., :1] > 127, 255, 0).astype(np.uint8), 3, axis=2),
    }
    Image.fromarray(rgb[..., 0]).save(folder / "gray.png")
    Image.fromarray(add_alpha(rgb[..., :1]), "LA").save(folder / "gray_alpha.png")
    Image.fromarray(add_alpha(rgb)).save(folder / "rgba.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "exif.png", exif=exif)
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "uint16.png")
    Image.fromarray(rgb[..., 0].astype(np.float32) / 255).save(folder / "float.tif")
    Image.fromarray(rgb[..., 0] > 127).save(folder / "bit.png")
    for name, mode in (("palette.png", "P"), ("cmyk.jpg", "CMYK")):
        picture.convert(mode).save(folder / name)
        meanings[name] = np.asarray(Image.open(folder / name).convert("RGB"))
    return meanings


def test_files_of_every_kind_are_what_they_mean(workflow, classifier, rgb, tmp_path):
    for name, meaning in save_files(tmp_path, rgb).items():
        found = answer(workflow, classifier, path=str(tmp_path / name))
        expected = answer(workflow, classifier, array=np.ascontiguousarray(meaning))
        np.testing.assert_allclose(found, expected, atol=2e-3 if name == "cmyk.jpg" else 1e-5, err_msg=name)


@pytest.mark.parametrize("mode", ["auto", "squash", "letterbox"])
def test_extreme_shapes(workflow, classifier, mode):
    classifier.set_parameters({"resize_mode": mode, "heatmap": True})
    random = np.random.default_rng(0)
    for shape in ((1, 1, 3), (1, 5000, 3), (5000, 1, 3), (2, 3)):
        answer(workflow, classifier, array=random.integers(0, 256, shape).astype(np.uint8))
        for picture in (classifier.get_output(HEATMAP).get_image(), classifier.get_image_with_graphics()):
            assert picture.shape == (*shape[:2], 3)


#: Arrays that are no picture, and words of the error.
REFUSED = {
    "five channels": (np.zeros((20, 20, 5), np.uint8), r"got shape \(20, 20, 5\)"),
    "channels first": (np.zeros((3, 20, 20), np.uint8), r"got shape \(3, 20, 20\)"),
    "four axes": (np.zeros((1, 20, 20, 3), np.uint8), r"got shape \(1, 20, 20, 3\)"),
    "one axis": (np.zeros(20, np.uint8), r"got shape \(20,\)"),
    "above 255": (np.full((20, 20, 3), 900.0, np.float32), "expected float values of 0..1 or 0..255, got 900"),
    "negative": (np.full((20, 20, 3), -1, np.int32), "expected int32 values of 0..255, got -1"),
    "not a number": (np.full((20, 20, 3), np.nan, np.float32), "NaN or infinity"),
}


def test_what_is_no_picture_is_refused_and_the_workflow_goes_on(workflow, classifier, checkpoint_path, rgb, tmp_path):
    expected = answer(workflow, classifier, array=rgb)
    for kind, (array, words) in REFUSED.items():
        with pytest.raises(RuntimeError, match=words):
            workflow.run_on(array=array)
        assert classifier.get_predictions() == [], kind
        np.testing.assert_allclose(answer(workflow, classifier, array=rgb), expected, atol=1e-6)
    for name, content in (("empty.jpg", b""), ("text.png", b"no picture")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RuntimeError, match=f"{name}': (empty file|no image)"):
            workflow.run_on(path=str(tmp_path / name))
    unconnected = type(classifier)("infer_resnet")
    unconnected.set_parameters({"model_weight_file": checkpoint_path})
    with pytest.raises(ValueError, match="infer_resnet: no image: nothing is connected to input 0"):
        unconnected.run()
    np.testing.assert_allclose(answer(workflow, classifier, array=rgb), expected, atol=1e-6)


def test_declared_range_is_that_of_arrays_files_and_the_picture_with_answers(workflow, classifier, rgb, tmp_path):
    hounsfield = (rgb[..., 0].astype(np.int16) * 16) - 1024
    gray = np.repeat(rgb[..., :1], 3, axis=2)
    expected = answer(workflow, classifier, array=gray)
    plain = classifier.get_image_with_graphics()
    classifier.set_parameters({"value_range": "-1024..3056"})
    np.testing.assert_allclose(answer(workflow, classifier, array=hounsfield), expected, atol=1e-5)
    np.testing.assert_array_equal(classifier.get_image_with_graphics(), plain)
    assert classifier.get_model_info()["value_range"] == [-1024, 3056]
    classifier.set_parameters({"value_range": "12"})
    broken = rgb[..., 0].astype(np.uint16) * 16
    whole = answer(workflow, classifier, array=broken.copy())
    broken[5, 5] = 65535
    Image.fromarray(broken).save(tmp_path / "broken.png")
    for source in ({"array": broken}, {"path": str(tmp_path / "broken.png")}):
        np.testing.assert_allclose(answer(workflow, classifier, **source), whole, atol=2e-2)
    (from_file,) = classifier.classify_files(tmp_path / "broken.png")
    np.testing.assert_allclose(
        from_file.prediction.probabilities, answer(workflow, classifier, array=broken), atol=1e-5
    )


def test_one_scale_an_image_shared_by_its_boxes(workflow, detector, checkpoint_path, rgb):
    """A box in a dark part of a 16-bit image is not made brighter than the image."""
    image = rgb.astype(np.uint16) * 257
    image[:, :160] //= 64
    workflow.add_task(name=detector, auto_connect=True).set_parameters({"boxes": "0.1 0.1 0.3 0.5"})
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": checkpoint_path})
    workflow.run_on(array=image)
    (dark,) = task.get_predictions()
    workflow.run_on(array=((image.astype(np.float64) / 257).round()).astype(np.uint8))
    np.testing.assert_allclose(task.get_predictions()[0].probabilities, dark.probabilities, atol=1e-5)
