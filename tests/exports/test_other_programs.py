"""Exported models without our code: the programs of docs/EXPORTS.md run as they stand, with our answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnetkit import load_model
from resnetkit.exports.export import export_onnx, export_openvino
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
from resnetkit.weights.metadata import ModelMetadata

PAGE = Path(__file__).resolve().parents[2] / "docs" / "EXPORTS.md"
PROGRAMS = dict(
    zip(("onnx", "openvino"), re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S), strict=True)
)
CLASSES = ("apple", 'pear "ä"', "<plum> & co", "fig, ripe")
METADATA = ModelMetadata(
    "resnet18", CLASSES, Preprocessing(96, 110, "crop", IMAGENET_MEAN, IMAGENET_STD), temperature=0.87
)


@pytest.fixture(scope="module")
def exported(calibrate_model, photographs, tmp_path_factory) -> Path:
    """A folder with an ONNX and an OpenVINO model of four classes."""
    import torch

    folder = tmp_path_factory.mktemp("exported")
    images = torch.from_numpy(np.stack([METADATA.preprocessing.prepare(image) for image in photographs.values()]))
    for export in (export_onnx, export_openvino):
        export(folder, calibrate_model("resnet18", len(CLASSES)), METADATA, images)
    return folder


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("photograph", ["china", "flower", "portrait", "small"])
def test_the_programs_give_our_answers(name, photograph, exported, photographs, tmp_path, monkeypatch, capsys):
    assert len(PROGRAMS[name].partition("\n\n")[2].splitlines()) <= 11
    assert "resnetkit" not in PROGRAMS[name]
    monkeypatch.chdir(tmp_path)
    for path in exported.iterdir():
        shutil.copy(path, tmp_path)
    Image.fromarray(photographs[photograph]).save("apple.jpg", quality=95)
    exec(compile(PROGRAMS[name], str(PAGE), "exec"), {})
    label, _, probability = capsys.readouterr().out.strip().rpartition(" ")
    expected = load_model(exported / {"onnx": "resnet18.onnx", "openvino": "resnet18.xml"}[name]).predict("apple.jpg")
    assert label == expected.label
    assert float(probability) == pytest.approx(
        expected.confidence, abs=0.03
    )  # Pillow rounds between its two directions


def test_every_key_of_the_page_is_in_both_files(exported):
    import onnxruntime
    import openvino

    page = PAGE.read_text("utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", page, re.M)
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert keys == set(METADATA.to_plain_strings())
    about = onnxruntime.InferenceSession(exported / "resnet18.onnx").get_modelmeta().custom_metadata_map
    model = openvino.Core().read_model(exported / "resnet18.xml")
    for key, text in METADATA.to_plain_strings().items():
        assert about[key] == text
        assert model.get_rt_info(["model_info", key]).astype(str) == text
    assert tuple(json.loads(about["classes"])) == CLASSES


@pytest.mark.parametrize("mode", ["squash", "letterbox"])
def test_the_other_modes_are_what_the_page_says(mode, photographs):
    preprocessing = Preprocessing(96, 110, mode, IMAGENET_MEAN, IMAGENET_STD)
    about = ModelMetadata("resnet18", CLASSES, preprocessing).to_plain_strings()
    (code,) = [
        each
        for each in re.findall(r"`((?:image|ImageOps)\.\w+\([^`]+\))`", PAGE.read_text("utf-8").replace("\n", " "))
        if ("pad_color" in each) == (mode == "letterbox")
    ]
    names = {"Image": Image, "ImageOps": ImageOps, "json": json, "about": about, "size": 96}
    found = eval(code, {**names, "image": Image.fromarray(photographs["china"])})
    expected = preprocessing.prepare(photographs["china"]).transpose(1, 2, 0)
    assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1
