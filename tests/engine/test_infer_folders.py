"""Folders through the engine and beside it: what is saved under which name, and the trap of an earlier input."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ikomia.dataprocess.workflow import Workflow
from PIL import Image

NAMES = ("china", "flower", "portrait")


@pytest.fixture
def workflow(request):
    """A workflow of the test's own name: by that of its making, and by the second, the engine names where it saves."""
    return Workflow(re.sub(r"\W", "_", request.node.name))


@pytest.fixture
def folder(photographs, tmp_path):
    """Three photographs."""
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        Image.fromarray(photographs[name]).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def run_folder(workflow, folder) -> Path:
    """Run a workflow over a folder; return where the engine saved."""
    workflow.run_on(folder=str(folder))
    return Path(workflow.get_last_run_folder())


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_every_result_of_a_folder_has_a_file_of_its_own(workflow, classifier, folder, photographs):
    classifier.set_parameters({"heatmap": True, "embedding": True, "top_k": 2})
    saved = run_folder(workflow, folder)
    endings = (".csv", ".json", ".png", "_embedding.csv", "_heatmap.png")
    assert list_files(saved) == sorted(f"infer_resnet{name}{ending}" for name in NAMES for ending in endings)
    model = classifier._session.load(classifier.get_param_object().values)
    for name in NAMES:
        (expected,) = model.predict([photographs[name]])
        header, *rows = read_csv(saved / f"infer_resnet{name}.csv")
        assert header == ["class", "index", "confidence"]
        assert [(row[0], int(row[1])) for row in rows] == [(each.label, each.index) for each in expected.top_k[:2]]
        assert [float(row[2]) for row in rows] == pytest.approx([each.confidence for each in expected.top_k[:2]], 1e-4)
        embedding = pd.read_csv(saved / f"infer_resnet{name}_embedding.csv")
        assert embedding.shape == (1, 513)
        picture, heatmap = (
            np.asarray(Image.open(saved / f"infer_resnet{name}{part}.png").convert("RGB")) for part in ("", "_heatmap")
        )
        assert picture.shape == heatmap.shape == photographs[name].shape
        assert not np.array_equal(picture, heatmap)
        assert not np.array_equal(heatmap, photographs[name])


def test_without_heat_map_and_embedding_there_are_none(workflow, classifier, folder):
    saved = run_folder(workflow, folder)
    assert list_files(saved) == sorted(
        f"infer_resnet{name}{end}" for name in NAMES for end in (".csv", ".json", ".png")
    )


def test_boxes_are_saved_with_their_places(workflow, detector, checkpoint_path, folder):
    workflow.add_task(name=detector, auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": checkpoint_path, "embedding": True})
    saved = run_folder(workflow, folder)
    for name in NAMES:
        header, *rows = read_csv(saved / f"infer_resnet{name}.csv")
        assert header == ["class", "index", "confidence", "left", "top", "width", "height"]
        assert len(rows) == 2
        assert all(len(row) == len(header) for row in rows)
        assert len(read_csv(saved / f"infer_resnet{name}_embedding.csv")) == 3


def test_images_of_one_name_have_tables_of_their_own(workflow, classifier, folder):
    (folder / "more").mkdir()
    (folder / "flower.png").rename(folder / "more" / "china.png")
    saved = run_folder(workflow, folder)
    tables = [name for name in list_files(saved) if name.endswith(".csv")]
    assert tables == ["infer_resnetchina.csv", "infer_resnetchina~2.csv", "infer_resnetportrait.csv"]
    assert read_csv(saved / tables[0]) != read_csv(saved / tables[1])


@pytest.mark.parametrize("before", ["path", "array", "folder"])
def test_the_input_of_an_earlier_run_is_noticed(workflow, classifier, folder, photographs, before, caplog):
    Image.fromarray(photographs["china"]).save(folder.parent / "other.png")
    source = {"path": str(folder.parent / "other.png"), "array": photographs["china"], "folder": str(folder)}[before]
    workflow.run_on(**{before: source})
    logger = logging.getLogger("ikomia")
    logger.addHandler(caplog.handler)
    try:
        workflow.run_on(folder=str(folder))
        messages = [record.getMessage() for record in caplog.records if "is not read" in record.getMessage()]
        assert messages
        assert all("infer_resnet: " in text and "call wf.clear_inputs() before" in text for text in messages)
        assert classifier.get_predictions() == []
        caplog.clear()
        workflow.clear_inputs()
        saved = run_folder(workflow, folder)
        assert not [record for record in caplog.records if "is not read" in record.getMessage()]
    finally:
        logger.removeHandler(caplog.handler)
    assert len([name for name in list_files(saved) if name.endswith(".csv")]) == 3


def test_a_corrupt_file_leaves_no_old_answer(workflow, classifier, folder):
    workflow.run_on(path=str(folder / "china.png"))
    assert len(classifier.get_predictions()) == 1
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(RuntimeError, match=r"infer_resnet: '.*broken\.png': no image of a known format"):
        workflow.run_on(path=str(folder / "broken.png"))
    assert classifier.get_predictions() == []


# --- Beside the engine ---


def test_files_are_classified_without_the_workflow(workflow, classifier, folder, tmp_path):
    classifier.set_parameters({"top_k": 2, "confidence_threshold": 0.1})
    answers = list(classifier.classify_files(folder))
    assert [answer.path.name for answer in answers] == [f"{name}.png" for name in NAMES]
    for answer in answers:
        workflow.run_on(path=str(answer.path))
        (expected,) = classifier.get_predictions()
        assert answer.label == expected.label
        assert answer.confidence == pytest.approx(expected.confidence, abs=1e-5)
    frame = classifier.classify_files([folder, "none.png"]).to_dataframe()
    assert list(frame["error"]) == ["", "", "", "no such file"]
    summary = classifier.classify_files(folder, tmp_path / "answers.csv")
    assert summary.num_rows == 3
    assert list(pd.read_csv(tmp_path / "answers.csv")["label"]) == [answer.label for answer in answers]


def test_an_error_of_files_has_the_name_of_the_task(classifier, folder, tmp_path):
    with pytest.raises(ValueError, match=r"^infer_resnet: the table '.*' must end in one of"):
        classifier.classify_files(folder, tmp_path / "answers.xls")


def test_the_heat_map_of_a_class_is_asked_for_by_its_name(workflow, classifier, photographs):
    maps = []
    for name in ("cat", "dog"):
        classifier.set_parameters({"heatmap": True, "heatmap_class": name})
        workflow.run_on(array=photographs["china"])
        maps.append(classifier.get_output(4).get_image().copy())
    assert not np.array_equal(*maps)
    classifier.set_parameters({"heatmap_class": "cats"})
    with pytest.raises(RuntimeError, match="'heatmap_class' must be one of the model's 3 classes, got 'cats'; did you"):
        workflow.run_on(array=photographs["china"])
