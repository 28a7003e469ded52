"""Parameters: every declaration is tested by what it declares."""

from __future__ import annotations

import logging
import math
import pickle
import typing
from pathlib import Path

import annotated_types
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from resnetkit.parameters.declaration import (
    ParameterError,
    Parameters,
    describe_constraint,
    format_markdown_table,
    get_bounds,
    get_choices,
    get_form,
    parameter,
)
from resnetkit.parameters.inference import InferParameters
from resnetkit.parameters.training import TrainParameters

CLASSES = (InferParameters, TrainParameters)
FIELDS = [
    pytest.param(parameters, name, field, id=f"{parameters.plugin}-{name}")
    for parameters in CLASSES
    for name, field in parameters.model_fields.items()
]


def list_wrong_values(field) -> list[object]:
    """Make values that a declaration excludes: other types, beyond the bounds, no choice."""
    wrong: list[object] = [None, [], {}, b"1"]
    low, high = get_bounds(field)
    if field.annotation in (int, float):
        is_low_open = any(isinstance(item, annotated_types.Gt) for item in field.metadata)
        is_high_open = any(isinstance(item, annotated_types.Lt) for item in field.metadata)
        wrong += ["many", True, "", "1;2", "nan", math.nan, math.inf, "-inf"]
        wrong += [] if low is None else [low - 1, str(low - 1), *([low] if is_low_open else [])]
        wrong += [] if high is None else [high + 1, str(high + 1), *([high] if is_high_open else [])]
    if field.annotation is int:
        wrong += [1.5, "1.5"]
    if field.annotation is bool:
        wrong += ["perhaps", 2, ""]
    if get_choices(field):
        wrong += ["neither", "", 1]
    if field.annotation is str:
        has_pattern = any(hasattr(item, "pattern") for item in field.metadata)
        wrong += [1, "a\0b", "\ud800", *(["neither"] if has_pattern else [])]
    return wrong


def draw_right_values(field) -> st.SearchStrategy[object]:
    """Make values that a declaration allows."""
    low, high = get_bounds(field)
    choices = get_choices(field)
    if choices:
        return st.sampled_from(choices)
    if field.annotation is bool:
        return st.booleans()
    if field.annotation is int:
        return st.integers(low, high)
    if field.annotation is float:
        if any(isinstance(item, annotated_types.Gt) for item in field.metadata):
            low = max(low, 1e-300)  # OpenVINO makes its thread take what comes of smaller numbers as zero
        is_high_open = any(isinstance(item, annotated_types.Lt) for item in field.metadata)
        return st.floats(low, high, exclude_max=is_high_open, allow_nan=False, allow_subnormal=False)
    if field.examples:
        return st.sampled_from(field.examples)
    # No file system has names of more than 255 bytes.
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_a_default_is_valid_and_safe_in_generated_source(parameters, name, field):
    text = parameters().to_strings()[name]
    assert name.isidentifier()
    assert not set(text) & set("\"'\n\r\\")
    assert parameters().updated({name: text} if text else {}) == parameters()
    assert "/" not in text
    if field.annotation is str and text:
        # An empty string means the default: it must not be a value of its own.
        with pytest.raises(ParameterError):
            parameters().updated({name: ""})


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_a_wrong_value_is_refused_in_one_sentence_that_says_what_is_right(parameters, name, field):
    for value in list_wrong_values(field):
        with pytest.raises(ParameterError) as caught:
            parameters().updated({name: value})
        message = str(caught.value)
        assert message.startswith(f"'{name}' must be {describe_constraint(field)}, got {value!r}")
        assert "\n" not in message


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_a_wrong_string_changes_nothing(parameters, name, field):
    values = parameters()
    strings = [value for value in list_wrong_values(field) if isinstance(value, str) and value]
    for text in strings:
        with pytest.raises(ParameterError):
            parameters.from_strings({**values.to_strings(), name: text})
    assert values == parameters()


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_a_right_value_survives_its_string(parameters, name, field):
    @given(draw_right_values(field))
    def check(value):
        values = parameters().updated({name: value})
        strings = values.to_strings()
        assert all(isinstance(text, str) for text in strings.values())
        assert parameters.from_strings(strings) == values

    check()


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_every_declaration_says_what_a_form_and_a_reader_need(parameters, name, field):
    assert field.title
    assert field.description.endswith(".")
    form = get_form(field)
    assert form["group"]
    assert form["path"] in ("", "file", "folder", "file or folder", "folder or file")
    if field.annotation in (int, float):
        assert None not in get_bounds(field)
    assert field.annotation in (int, float, str, bool) or typing.get_origin(field.annotation) is typing.Literal


@pytest.mark.parametrize("parameters", CLASSES)
def test_an_unknown_name_is_refused_with_a_suggestion(parameters):
    with pytest.raises(ParameterError, match=r"^no parameter 'inputsize'; did you mean 'input_size'"):
        parameters().updated({"inputsize": 64})
    with pytest.raises(ParameterError, match=r"no parameter 'zzz'$"):
        parameters().updated({"zzz": 64})
    with pytest.raises(ParameterError, match="no parameter 3"):
        parameters().updated({3: 64})


#: What Ultralytics, fastai, timm and scripts of one's own call it.
WORDS = {
    TrainParameters: {
        "aa": "augmentation",
        "amp": "precision",
        "arch": "model_name",
        "auto_augment": "augmentation",
        "batch": "batch_size",
        "batch-size": "batch_size",
        "bs": "batch_size",
        "checkpoint": "model_weight_file",
        "data": "dataset_folder",
        "data_dir": "dataset_folder",
        "freeze": "feature_extract",
        "imgsz": "input_size",
        "img_size": "input_size",
        "initial_checkpoint": "model_weight_file",
        "lr": "learning_rate",
        "lr0": "learning_rate",
        "lr_max": "learning_rate",
        "LR": "learning_rate",
        "model": "model_name",
        "moms": "momentum",
        "n_epoch": "epochs",
        "num_epochs": "epochs",
        "opt": "optimizer",
        "opt_func": "optimizer",
        "output": "output_folder",
        "path": "dataset_folder",
        "patience": "early_stopping_patience",
        "patience_epochs": "early_stopping_patience",
        "pretrained": "use_pretrained",
        "project": "output_folder",
        "resume": "resume_from",
        "sched": "scheduler",
        "smoothing": "label_smoothing",
        "time": "time_limit_minutes",
        "valid_pct": "val_split",
        "wd": "weight_decay",
        "weights": "model_weight_file",
        "workers": "num_workers",
    },
    InferParameters: {
        "arch": "model_name",
        "checkpoint": "model_weight_file",
        "conf": "confidence_threshold",
        "embed": "embedding",
        "half": "precision",
        "imgsz": "input_size",
        "names": "class_file",
        "topk": "top_k",
        "visualize": "heatmap",
        "weights": "model_weight_file",
    },
}


@pytest.mark.parametrize(
    ("parameters", "word", "name"),
    [
        pytest.param(parameters, word, name, id=f"{parameters.plugin}-{word}")
        for parameters, names in WORDS.items()
        for word, name in names.items()
    ],
)
def test_a_word_of_another_program_is_refused_with_ours(parameters, word, name):
    with pytest.raises(ParameterError, match=f"^no parameter '{word}'; did you mean '{name}'\\?$"):
        parameters().updated({word: 1})


@pytest.mark.parametrize("parameters", CLASSES)
def test_a_word_of_another_program_means_one_parameter(parameters):
    words = [word for field in parameters.model_fields.values() for word in get_form(field)["also_called"]]
    assert len(set(words)) == len(words)
    assert not set(words) & set(parameters.model_fields)
    assert all(word.isidentifier() and word == word.lower() for word in words)


def test_a_wrong_choice_is_refused_with_a_suggestion():
    with pytest.raises(ParameterError, match=r"one of resnet18, .*, got 'resnet5'; did you mean 'resnet50'"):
        InferParameters().updated({"model_name": "resnet5"})


def test_all_or_nothing():
    values = InferParameters()
    with pytest.raises(ParameterError, match="'top_k'"):
        values.updated({"input_size": 64, "top_k": 0})
    assert values == InferParameters()


def test_native_values_of_other_libraries_and_paths_are_taken(tmp_path):
    values = InferParameters().updated(
        {
            "input_size": np.int64(64),
            "smoothing": np.float32(0.5),
            "heatmap": np.bool_(True),
            "top_k": 3.0,
            "model_weight_file": tmp_path / "a.pth",
            "class_file": Path("names.txt"),
        }
    )
    assert (values.input_size, values.smoothing, values.heatmap, values.top_k) == (64, 0.5, True, 3)
    assert (values.model_weight_file, values.class_file) == (str(tmp_path / "a.pth"), "names.txt")
    assert all(type(value) in (int, float, str, bool) for value in values.model_dump().values())
    for wrong in ({"input_size": np.True_}, {"top_k": np.float64(1.5)}, {"top_k": np.int64(0)}, {"top_k": np.ones(1)}):
        with pytest.raises(ParameterError, match="must be an integer from"):
            values.updated(wrong)


def test_an_empty_or_missing_string_means_the_default():
    values = InferParameters.from_strings({"input_size": "", "top_k": "3"})
    assert values == InferParameters().updated({"top_k": 3})


def test_a_retired_parameter_warns_once_and_has_no_effect(caplog):
    with caplog.at_level(logging.WARNING):
        values = InferParameters().updated({"dataset": "Custom", "top_k": 2})
    assert values == InferParameters().updated({"top_k": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "parameter 'dataset' is no longer used and has no effect"
    ]


@pytest.mark.parametrize("parameters", CLASSES)
def test_parameters_are_immutable_and_can_be_pickled(parameters):
    values = parameters()
    with pytest.raises(ValidationError):
        values.input_size = 64
    assert pickle.loads(pickle.dumps(values)) == values


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        ({"ge": 1, "le": 5}, "a number from 1 to 5"),
        ({"gt": 0, "le": 5}, "a number above 0 and at most 5"),
        ({"ge": 0, "lt": 1}, "a number of at least 0 and below 1"),
        ({"gt": 0}, "a number above 0"),
        ({}, "a number"),
    ],
    ids=["closed", "open below", "open above", "only below", "none"],
)
def test_bounds_in_words(constraints, text):
    class Example(Parameters):
        plugin = "example"
        share: float = parameter(1.0, "Share", "A share.", **constraints)

    assert describe_constraint(Example.model_fields["share"]) == text


@pytest.mark.parametrize("parameters", CLASSES)
def test_the_table_has_one_row_a_parameter(parameters):
    rows = format_markdown_table(parameters).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(parameters.model_fields)
    assert all(row.count(" | ") == 3 for row in rows)


def test_the_known_names_and_defaults_stay():
    defaults = {"model_name": "resnet18", "input_size": 224, "model_weight_file": "", "class_file": ""}
    assert defaults.items() <= InferParameters().model_dump().items()
    defaults = {
        "model_name": "resnet18",
        "optimizer": "auto",
        "batch_size": 0,
        "epochs": 0,
        "learning_rate": 0.0,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "input_size": 224,
        "num_workers": 0,
        "use_pretrained": True,
        "feature_extract": True,
        "export_pth": True,
        "export_onnx": False,
        "output_folder": "",
        "dataset_folder": "",
        "model_weight_file": "",
        "seed": 0,
    }
    assert defaults.items() <= TrainParameters().model_dump().items()


@pytest.mark.parametrize("value", [10**5000, "9" * 5000, -(10**5000)], ids=["number", "digits", "negative"])
def test_a_number_of_thousands_of_digits_is_refused_by_name(value):
    with pytest.raises(ParameterError, match=r"^'top_k' must be an integer from 1 to 1000, got ") as caught:
        InferParameters().updated({"top_k": value})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["a" * 256, "a/" * 2049, "é" * 128], ids=["name", "path", "bytes"])
def test_a_path_that_no_file_can_have_is_refused_by_name(path):
    with pytest.raises(ParameterError, match=r"^'model_weight_file' must be .* longer than a path may be$"):
        InferParameters().updated({"model_weight_file": path})
    assert InferParameters().updated({"model_weight_file": f"b/{'a' * 255}"}).model_weight_file


def test_what_was_given_is_known_though_it_is_the_default():
    given_one = TrainParameters().updated({"epochs": 0})
    assert given_one.model_fields_set == {"epochs"}
    assert given_one.updated({"seed": 3}).model_fields_set == {"epochs", "seed"}
    assert TrainParameters.from_strings({**given_one.to_strings(), "seed": "4"}).model_fields_set == {"seed"}
