"""Tables as people and spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnetkit.data.dataset import Dataset, DatasetError, read_dataset


def write_table(folder: Path, *lines: str, name: str = "images.csv", encoding: str = "utf-8") -> Path:
    for path in ("1.jpg", "sub/2.jpg", "3.jpg", "4.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    (folder / name).write_bytes("\n".join(lines).encode(encoding))
    return folder / name


def read(source: Path, val_split: float = 0.5) -> Dataset:
    return read_dataset(source, val_split, 0)


def list_samples(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    return [(sample.path.name, dataset.classes[sample.label]) for sample in getattr(dataset, split)]


PLAIN = ("1.jpg,cat", "sub/2.jpg,dog", "3.jpg,dog", "4.jpg,cat")


@pytest.mark.parametrize(
    "header",
    [
        "image,label",
        "filename,class",
        "file_name,label",
        "img_path,target",
        "Image Path,Class Name",
        "FILEPATH,CATEGORY",
        "image_id,species",
        "# path,label",
        '"image-path","ground_truth"',
        "path , label ",
        "name,label",
        "id,breed",
        "img,cls",
    ],
)
def test_columns_are_found_by_what_people_call_them(tmp_path: Path, header: str) -> None:
    dataset = read(write_table(tmp_path, header, *PLAIN))
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.val) == 4


def test_the_name_of_a_class_comes_before_its_number(tmp_path: Path) -> None:
    lines = (
        "class_id,extra,class_name,image_path",
        "0,,cat,1.jpg",
        "1,,dog,3.jpg",
        "1,x,dog,4.jpg",
        "0,,cat,sub/2.jpg",
    )
    assert read(write_table(tmp_path, *lines)).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("column", "train", "val"),
    [
        ("split", "Training", "dev"),
        ("subset", "train", "VALIDATION"),
        ("set", "train_set", "valid_set"),
        ("partition", "train", "eval"),
        ("is_valid", "False", "True"),
        ("is_valid", "0", "1"),
        ("is_val", "no", "Yes"),
        ("is_valid", "train", "valid"),
        ("fold", "train", "val"),
        ("fold", "2", "1"),
        ("fold", "1.0", "0.0"),
        ("Usage", "Training", "val"),
    ],
)
def test_columns_of_splits_are_understood(tmp_path: Path, column: str, train: str, val: str) -> None:
    splits = (train, train, val, val)
    lines = [f"{line},{split}" for line, split in zip(PLAIN, splits, strict=True)]
    dataset = read(write_table(tmp_path, f"path,label,{column}", *lines))
    assert list_samples(dataset, "train") == [("1.jpg", "cat"), ("2.jpg", "dog")]
    assert list_samples(dataset, "val") == [("4.jpg", "cat"), ("3.jpg", "dog")]


def test_public_and_private_tests_are_tests(tmp_path: Path) -> None:
    lines = (*(f"{line},Training" for line in PLAIN), "1.jpg,cat,PublicTest", "3.jpg,dog,PrivateTest")
    assert len(read(write_table(tmp_path, "path,label,usage", *lines)).test) == 2


@pytest.mark.parametrize(
    "lines",
    [
        ("path, label", *(line.replace(",", ", ") for line in PLAIN)),
        ('"path", "label"', *(line.replace(",", '", "').join('""') for line in PLAIN)),
        ("sep=;", "path;label", *(line.replace(",", ";") for line in PLAIN)),
        ("SEP=,", *PLAIN),
        ('"sep=;"', "path;label", *(line.replace(",", ";") for line in PLAIN)),
        ("sep=\t", "path\tlabel", *(line.replace(",", "\t") for line in PLAIN)),
        ("path,label,,", *(f"{line},," for line in PLAIN)),
        (*(f"{line},,," for line in PLAIN),),
        ("path,label", *(line.replace("/", "\\") for line in PLAIN)),
        ("path,label", *(line.replace(".jpg", "") for line in PLAIN)),
        ("path;label", *(line.replace(",", ";") for line in PLAIN)),
        ("path|label", *(line.replace(",", "|") for line in PLAIN)),
        ("path\tlabel", *(line.replace(",", "\t") for line in PLAIN)),
        ("note, with comma;path;label", *(";" + line.replace(",", ";") for line in PLAIN)),
        (",path,label", *(f"{number},{line}" for number, line in enumerate(PLAIN))),
        ("", "path,label", "", *PLAIN, ",", ""),
    ],
    ids=range(16),
)
def test_ways_of_writing_give_the_same_data_set(tmp_path: Path, lines: tuple[str, ...]) -> None:
    expected = read(write_table(tmp_path, "path,label", *PLAIN))
    dataset = read(write_table(tmp_path, *lines))
    assert dataset.classes == ("cat", "dog")
    for split in ("train", "val"):
        assert list_samples(dataset, split) == list_samples(expected, split)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets_are_read(tmp_path: Path, encoding: str) -> None:
    lines = [line.replace("dog", "Bär") for line in PLAIN]
    assert read(write_table(tmp_path, "path,label", *lines, encoding=encoding)).classes == ("Bär", "cat")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("image,kind", *PLAIN), "columns 'image', 'kind'; expected one of the classes, called 'label', 'class'"),
        (("thing,label", *PLAIN), "columns 'thing', 'label'; expected one of the images, called 'path'"),
        (("a,b,c,d", *(f"{line},x,y" for line in PLAIN)), "of the images, called .* and one of the classes"),
        (("thing,kind", *PLAIN), r"no file '.*thing'.*must name the columns path,label"),
        (("sep=;", "path;label", "1.jpg;"), "row 3 .*must be path,label, got '1.jpg,'"),
        (("path,label", f"{'x' * 5000}.jpg,cat"), "row 2 .*no file"),
        (("path,label", "1.jpg,cat,dog"), "row 2 .*must be path,label, got '1.jpg,cat,dog'"),
        (("path,label,is_valid", "1.jpg,cat,maybe"), "row 2 .*split train, val or test, got 'maybe'"),
        (("path,label,split", "1.jpg,cat,train", "3.jpg,dog"), "row 3 .*in all rows or in none"),
    ],
    ids=range(9),
)
def test_errors_name_the_header_that_would_help(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(write_table(tmp_path, *lines))


def test_labels_that_are_nearly_the_same_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read(write_table(tmp_path, "path,label", '1.jpg,"cat "', "sub/2.jpg,cat", "3.jpg,Cat", "4.jpg,Cat"))
    assert dataset.classes == ("Cat", "cat")
    assert "'cat', 'cat ' are taken for one class, 'cat'" in caplog.text
    assert "'Cat', 'cat' are different classes" in caplog.text


def test_a_blank_after_every_label_is_no_other_spelling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read(write_table(tmp_path, "path , label ", *(line.replace(",", " , ") + " " for line in PLAIN)))
    assert dataset.classes == ("cat", "dog")
    assert not caplog.records


# --- Groups ---


def write_groups(folder: Path, groups: dict[str, dict[str, int]], column: str = "group") -> Path:
    """Write a table of groups with so many images of each class: {"p1": {"cat": 3}}."""
    lines = [f"path,label,{column}"]
    for group, sizes in groups.items():
        for name, size in sizes.items():
            for number in range(size):
                path = f"{name}-{group}-{number}.jpg"
                (folder / path).touch()
                lines.append(f"{path},{name},{group}")
    (folder / "images.csv").write_text("\n".join(lines))
    return folder / "images.csv"


@pytest.mark.parametrize("column", ["group", "patient", "Patient ID", "plate", "subject_id"])
@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_split_separates_no_group(tmp_path: Path, column: str, seed: int) -> None:
    groups = {f"p{number}": {"cat": 1 + number % 4, "dog": 1 + number % 3} for number in range(20)}
    dataset = read_dataset(write_groups(tmp_path, groups, column), 0.25, seed)
    by_split = [{dataset.groups[str(sample.path)] for sample in part} for part in (dataset.train, dataset.val)]
    assert not by_split[0] & by_split[1]
    total = len(dataset.train) + len(dataset.val)
    assert abs(len(dataset.val) - total / 4) <= 4
    assert {sample.label for sample in dataset.val} == {sample.label for sample in dataset.train} == {0, 1}


def test_a_class_in_few_groups_is_trained_on_first(tmp_path: Path) -> None:
    groups = {"p1": {"cat": 5}, "p2": {"dog": 5}, "p3": {"dog": 5}, "p4": {"dog": 5}}
    for seed in range(5):
        dataset = read_dataset(write_groups(tmp_path, groups), 0.25, seed)
        assert {sample.label for sample in dataset.train} == {0, 1}
        assert {sample.label for sample in dataset.val} == {1}


def test_one_group_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no image for validation"):
        read(write_groups(tmp_path, {"p1": {"cat": 5, "dog": 5}}))


def test_an_own_split_that_separates_groups_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ("1.jpg,cat,train,p1", "sub/2.jpg,dog,train,p2", "3.jpg,dog,val,p3", "4.jpg,cat,val,p1")
    read(write_table(tmp_path, "path,label,split,patient", *lines))
    assert "images of the groups 'p1' are in train and also in val or test" in caplog.text
