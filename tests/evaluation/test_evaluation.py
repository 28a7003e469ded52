"""Evaluations of a real (seeded) model on photographs: classes by name, figures against scikit-learn, files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn import metrics as oracle

from resnetkit.answers.loader import Loader, describe
from resnetkit.answers.model import Model
from resnetkit.data.dataset import read_dataset
from resnetkit.evaluation.evaluation import Evaluation, evaluate, write_evaluation
from resnetkit.evaluation.images import describe_mismatch, find_labelled_images
from resnetkit.evaluation.predictions import find_predictions, read_predictions, write_predictions
from resnetkit.parameters.inference import InferParameters
from resnetkit.sources.names import DatasetError

CLASSES = ("cat", "dog", "fish")
#: Folder names of classes with the number of images in each: zebra is unknown to the model, fish has none.
FOLDERS = {"zebra": 2, "dog": 5, "cat": 4}


@pytest.fixture(scope="module")
def loader(checkpoint_path: Path) -> Loader:
    made = Loader()
    made.load(InferParameters().updated({"model_weight_file": checkpoint_path, "runtime": "torch"}))
    return made


@pytest.fixture(scope="module")
def model(loader: Loader, checkpoint_path: Path) -> Model:
    return loader.load(InferParameters().updated({"model_weight_file": checkpoint_path, "runtime": "torch"}))


@pytest.fixture(scope="module")
def later_images(photographs: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with cuts of photographs, and one file that is no image."""
    folder = tmp_path_factory.mktemp("later")
    cuts = iter(
        photograph[top : top + 120, left : left + 120]
        for photograph in (photographs["china"], photographs["astronaut"])
        for top in range(0, 300, 100)
        for left in range(0, 300, 100)
    )
    for name, count in FOLDERS.items():
        (folder / name).mkdir()
        for index in range(count):
            Image.fromarray(next(cuts)).save(folder / name / f"{index}.png")
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def evaluation(model: Model, later_images: Path) -> Evaluation:
    return evaluate(model, later_images)


@pytest.fixture(scope="module")
def written(evaluation: Evaluation, model: Model, loader: Loader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "made"
    write_evaluation(evaluation, model, describe(loader.weights, model), folder)
    return folder


def _read_images(later_images: Path, name: str) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted((later_images / name).glob("*.png"))]


def test_figures_are_those_of_the_models_own_answers(evaluation: Evaluation, model: Model, later_images: Path) -> None:
    truth = ["cat"] * 4 + ["dog"] * 5
    answers = model.predict([image for name in ("cat", "dog") for image in _read_images(later_images, name)])
    said = [answer.label for answer in answers]
    assert evaluation.metrics["num_images"] == 9
    assert evaluation.metrics["accuracy"] == pytest.approx(oracle.accuracy_score(truth, said))
    expected = oracle.confusion_matrix(truth, said, labels=CLASSES).tolist()
    assert evaluation.metrics["confusion_matrix"] == expected
    probabilities = np.stack([answer.probabilities for answer in answers])
    np.testing.assert_allclose(evaluation.judgement.probabilities, probabilities, atol=1e-5)


def test_classes_that_one_side_lacks_are_said_and_counted(evaluation: Evaluation) -> None:
    assert evaluation.images.split == "all"
    assert {name: len(paths) for name, paths in evaluation.images.unknown.items()} == {"zebra": 2}
    assert evaluation.images.missing == ("fish",)
    assert [path.name for path, _ in evaluation.unreadable] == ["broken.jpg"]
    text = " ".join(evaluation.notes)
    for part in ("does not know 'zebra': 2 images", "no image of 'fish'", "1 image could not be read"):
        assert part in text


def test_all_files_are_written(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert {"report.html", "metrics.json", "predictions.csv", "doubtful_labels.csv", "figures"} <= names
    assert "confusion_matrix.png" in names
    assert (written / "figures" / "thresholds.pdf").read_bytes().startswith(b"%PDF")
    page = (written / "report.html").read_text(encoding="utf-8")
    assert "does not know" in page
    assert "evaluation report" in page


def test_metrics_are_json_that_people_can_read(written: Path, evaluation: Evaluation) -> None:
    text = (written / "metrics.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content["evaluation"] == json.loads(json.dumps(evaluation.judgement.to_dict()))
    assert content["unknown_classes"] == {"zebra": 2}
    assert content["classes_without_images"] == ["fish"]
    assert content["model"]["model_name"] == "resnet18"
    assert len(text.splitlines()) < 150


def test_predictions_name_every_image_that_was_read(written: Path, evaluation: Evaluation, later_images: Path) -> None:
    rows = list(read_predictions(written / "predictions.csv"))
    paths = [later_images / name / f"{index}.png" for name in ("cat", "dog", "zebra") for index in range(FOLDERS[name])]
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.true for row in rows] == ["cat"] * 4 + ["dog"] * 5 + ["zebra"] * 2
    with (written / "predictions.csv").open(encoding="utf-8-sig", newline="") as stream:
        cells = list(csv.DictReader(stream))
    probabilities = np.array([[float(row[f"probability of {name}"]) for name in CLASSES] for row in cells])
    np.testing.assert_allclose(probabilities[:9], evaluation.judgement.probabilities, rtol=1e-5)
    np.testing.assert_allclose(probabilities.max(axis=1), [float(row["confidence"]) for row in cells])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_names_come_back(tmp_path: Path, ending: str) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "'quoted", "'=quoted", "\tcmd", 'a,"b"\nc', "שלום", "cat", "cat"]
    files = [(tmp_path / name, name) for name in names] + [(tmp_path / os.fsdecode(b"caf\xe9"), "cat")]
    table = tmp_path / f"predictions.{ending}"
    probabilities = np.eye(len(files), len(names), dtype=np.float32)
    write_predictions(table, names, files, probabilities)
    assert find_predictions(tmp_path) == table
    said = [*names, names[0]]
    assert [(row.path, row.true, row.predicted) for row in read_predictions(table)] == [
        (str(path), name, answer) for (path, name), answer in zip(files, said, strict=True)
    ]
    if ending == "parquet":
        columns = pandas.read_parquet(table)
        np.testing.assert_array_equal(columns.filter(like="probability of ").to_numpy(), probabilities)
        np.testing.assert_array_equal(columns["confidence"], probabilities.max(axis=1))


def test_a_spreadsheet_runs_nothing(tmp_path: Path) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\tcmd", "\rcmd", "\ncmd"]
    write_predictions(tmp_path / "table.csv", names, [(Path(name), name) for name in names], np.eye(len(names)))
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert len(cells) == (len(names) + 1) * (len(names) + 4)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]


def test_file_names_that_are_no_text_can_be_evaluated(
    model: Model, loader: Loader, later_images: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    shutil.copy(later_images / "cat" / "0.png", tmp_path / "images" / "cat" / name)
    evaluation = evaluate(model, tmp_path / "images")
    write_evaluation(evaluation, model, describe(loader.weights, model), tmp_path / "out")
    (row,) = read_predictions(tmp_path / "out" / "predictions.csv")
    assert row.path == str(tmp_path / "images" / "cat" / name)


@pytest.mark.parametrize(
    ("folders", "split", "expected"),
    [
        ({"train": "cat dog", "val": "cat", "test": "dog"}, "auto", ("test", {"dog"})),
        ({"train": "cat dog", "val": "cat"}, "auto", ("val", {"cat"})),
        ({"train": "cat dog", "val": "cat", "test": "dog"}, "train", ("train", {"cat", "dog"})),
        ({"train": "dog", "val": "cat"}, "all", ("all", {"cat", "dog"})),
        ({"": "cat"}, "auto", ("all", {"cat"})),
    ],
    ids=["test first", "val else", "train", "all", "one class"],
)
def test_which_images_are_evaluated(tmp_path: Path, folders: dict[str, str], split: str, expected: tuple) -> None:
    for part, names in folders.items():
        for name in names.split():
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "a.png").touch()
    images = find_labelled_images(tmp_path, CLASSES, split)
    assert (images.split, {CLASSES[sample.label] for sample in images.samples}) == expected


def test_a_table_of_test_images_alone_is_evaluated(later_images, tmp_path):
    table = tmp_path / "later.csv"
    rows = [f"{later_images / 'dog' / f'{index}.png'},dog,test" for index in range(2)]
    table.write_text("path,label,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert [sample.label for sample in find_labelled_images(table, CLASSES).samples] == [1, 1]
    with pytest.raises(DatasetError, match="has no training images; expected some beside those to validate and test"):
        read_dataset(table, 0.2, 0)


def test_a_table_is_evaluated_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "table.csv").write_text("path,label\na.png,fish\n", encoding="utf-8")
    images = find_labelled_images(tmp_path / "table.csv", CLASSES)
    assert [sample.label for sample in images.samples] == [2]


def test_names_are_compared_in_their_composed_form(tmp_path: Path) -> None:
    name = "Müller"
    (tmp_path / unicodedata.normalize("NFD", name)).mkdir()
    (tmp_path / unicodedata.normalize("NFD", name) / "a.png").touch()
    images = find_labelled_images(tmp_path, ["x", unicodedata.normalize("NFC", name)])
    assert [sample.label for sample in images.samples] == [1]
    assert describe_mismatch(images) == ["The data set has no image of 'x', which the model knows."]


@pytest.mark.parametrize(
    ("names", "classes", "split", "message"),
    [
        (
            "lion tiger",
            CLASSES,
            "auto",
            r"no class in common: .*'lion', 'tiger', the model knows 'cat', 'dog', 'fish'$",
        ),
        ("cat dog", ("cat", "cat", "dog"), "auto", r"the model names more than one class 'cat'"),
        ("cat dog", CLASSES, "test", r"has no test split; expected one of train, auto or all$"),
        ("cat", CLASSES, "best", r"'split' must be one of auto, train, val, test, all, got 'best'$"),
    ],
    ids=["nothing in common", "a name twice", "no such split", "unknown split"],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    tmp_path: Path, names: str, classes, split: str, message: str
) -> None:
    for name in names.split():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    with pytest.raises(DatasetError, match=message):
        find_labelled_images(tmp_path, classes, split)


def test_images_of_which_none_can_be_read(model: Model, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"no image of .* can be read"):
        evaluate(model, tmp_path)
