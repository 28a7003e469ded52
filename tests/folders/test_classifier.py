"""A model in three lines: any kind of image, answers as they come, a DataFrame."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnetkit
from resnetkit import load_model
from resnetkit.folders.rows import Answer
from resnetkit.images.pixels import ImageError
from resnetkit.parameters.declaration import ParameterError
from resnetkit.weights.errors import WeightsError


@pytest.fixture(scope="module")
def model(checkpoint_path):
    return load_model(checkpoint_path, top_k=2, embedding=True)


def test_the_package_imports_nothing_heavy():
    heavy = ("torch", "openvino", "cv2", "numpy", "pydantic")
    code = f"import sys, resnetkit; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert output.strip() == "[]"
    assert set(resnetkit.__all__) == {"__version__", "load_model"}


def test_every_kind_of_image_gets_the_same_answer(model, photographs, photograph_folder):
    path = photograph_folder / "china.png"
    array = photographs["china"]
    tensor = torch.from_numpy(array.copy())
    kinds = {
        "path": path,
        "text": str(path),
        "array": array,
        "Pillow": Image.open(path),
        "tensor": tensor.permute(2, 0, 1),
        "channels last": tensor,
        "floats": tensor.permute(2, 0, 1) / 255,
        "gradient": (tensor / 255).requires_grad_(),
    }
    expected = model.predict(array)
    for name, image in kinds.items():
        found = model.predict(image)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities, err_msg=name)
    for several in (list(kinds.values()), iter(kinds.values())):
        assert [found.label for found in model.predict(several)] == [expected.label] * len(kinds)
    assert model.predict([]) == []


def test_arrays_and_tensors_of_four_dimensions_are_several_images(model, photographs):
    array = photographs["tiny"]
    batch = torch.from_numpy(np.stack([array, array, array])).permute(0, 3, 1, 2)
    for images in (np.stack([array, array, array]), batch):
        assert [found.label for found in model.predict(images)] == [model.predict(array).label] * 3


def test_pillow_images_are_turned_upright(model, photographs, tmp_path):
    turned = Image.fromarray(np.rot90(photographs["portrait"]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = model.predict(photographs["portrait"]).probabilities
    np.testing.assert_array_equal(model.predict(Image.open(tmp_path / "turned.png")).probabilities, expected)
    np.testing.assert_array_equal(model.predict(tmp_path / "turned.png").probabilities, expected)
    palette = Image.fromarray(photographs["flower"]).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        model.predict(palette).probabilities, model.predict(tmp_path / "palette.png").probabilities
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3.5, "expected an image as a path, a numpy array, a Pillow image or a torch tensor, got float"),
        (torch.zeros(3, 8, 8) - 1, "negative values; give it before normalization"),
        (torch.zeros(7, 8, 9), "got shape"),
        ("none.jpg", "'none.jpg': no such file"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
    ],
    ids=["number", "normalized", "channels", "missing", "empty"],
)
def test_what_is_no_image_is_refused(model, image, message):
    with pytest.raises(ImageError, match=message):
        model.predict([image] if isinstance(image, float) else image)


def test_answers_come_in_the_order_of_the_files(model, photographs, photograph_folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    names = ["china.png", "flower.png"]
    sources = [photograph_folder / names[0], tmp_path, "none.png", str(photograph_folder / names[1])]
    answers = list(model.classify(sources))
    assert all(isinstance(answer, Answer) for answer in answers)
    assert [answer.path.name for answer in answers] == ["china.png", "broken.jpg", "none.png", "flower.png"]
    assert [bool(answer.error) for answer in answers] == [False, True, True, False]
    assert answers[2].error == "no such file"
    assert (answers[2].label, answers[2].top_k, answers[2].probabilities) == ("", (), None)
    for answer, name in zip((answers[0], answers[3]), ("china", "flower"), strict=True):
        expected = model.predict(photographs[name])
        assert answer.label == expected.label
        assert len(answer.top_k) == 2
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(answer.embedding, expected.embedding, atol=1e-4)


def test_a_data_frame_has_the_columns_of_a_table(model, photograph_folder):
    sources = [photograph_folder / "china.png", "none.png"]
    frame = model.classify(sources).to_dataframe(probabilities=True)
    assert list(frame["path"]) == [str(source) for source in sources]
    assert list(frame.columns) == list(model.make_columns(has_probabilities=True).names)
    assert frame[[f"probability of {name}" for name in model.classes]].loc[0].sum() == pytest.approx(1, abs=1e-6)
    assert frame["confidence"].dtype == np.float64
    assert np.isnan(frame["confidence"][1])
    assert len(frame["embedding"][0]) == 512
    empty = model.classify([]).to_dataframe()
    assert len(empty) == 0
    assert list(empty.columns) == list(model.make_columns().names)


def test_what_is_wrong_is_said_when_the_model_is_loaded(tmp_path, checkpoint_path):
    with pytest.raises(ParameterError, match="did you mean 'top_k'"):
        load_model(checkpoint_path, topk=3)
    with pytest.raises(ParameterError, match="'top_k' must be an integer from 1 to 1000, got 0"):
        load_model(checkpoint_path, top_k=0)
    with pytest.raises(WeightsError, match="none"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(
        ParameterError, match="'heatmap_class' must be one of the model's 3 classes, got 'cats'; did you mean 'cat'"
    ):
        load_model(checkpoint_path, heatmap_class="cats")


def test_a_model_without_class_names_says_where_they_go(tmp_path):
    from resnetkit.weights.models import initialize_model

    torch.save(initialize_model("resnet18", 7, seed=0).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match="class"):
        load_model(tmp_path / "bare.pth")
    (tmp_path / "classes.txt").write_text("\n".join("abcdefg"), encoding="utf-8")
    assert load_model(tmp_path / "bare.pth").classes == tuple("abcdefg")


def test_the_heat_map_of_a_chosen_class(checkpoint_path, photographs):
    maps = {}
    for name in ("", "cat", "dog", "fish"):
        prediction = load_model(checkpoint_path, heatmap=True, heatmap_class=name).predict(photographs["china"])
        maps[name] = prediction.activation
    np.testing.assert_array_equal(maps[""], maps[prediction.label])
    assert not np.array_equal(maps["cat"], maps["dog"])


def test_closing_early_ends_the_threads(model, photograph_folder):
    import threading

    answers = model.classify([photograph_folder] * 40)
    assert next(answers).path.parent == Path(photograph_folder)
    answers._answers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decoding", "network"))]
