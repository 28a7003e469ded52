"""The command line's options: one per declaration, with its sentences; what is wrong is told before torch is loaded."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from resnetkit import __version__
from resnetkit.__main__ import COMMANDS, main
from resnetkit.commands.options import CommandParser, read_parameters
from resnetkit.parameters.declaration import ParameterError, describe_constraint, get_bounds, get_choices, get_form
from resnetkit.parameters.inference import InferParameters
from resnetkit.parameters.training import TrainParameters

CLASSES = (InferParameters, TrainParameters)
FIELDS = [
    pytest.param(parameters, name, field, id=f"{parameters.plugin}-{name}")
    for parameters in CLASSES
    for name, field in parameters.model_fields.items()
]
FLAGS = [field for field in FIELDS if field.values[2].annotation is bool]
VALUES = [field for field in FIELDS if field.values[2].annotation is not bool]


def make_parser(parameters):
    parser = CommandParser("example", "An example.", "")
    parser.add_parameters(parameters, {})
    parser.add_common()
    return parser


def parse(parameters, *words):
    return read_parameters(make_parser(parameters).parse(words), parameters)


def choose_value(field):
    """Return a right value that is not the default, as a text."""
    if get_choices(field):
        return get_choices(field)[-1]
    if field.annotation is str:
        return field.examples[1] if field.examples else "a folder/file = 1"
    return str(field.annotation(sum(get_bounds(field)) / 2))


@pytest.mark.parametrize(("parameters", "name", "field"), VALUES)
def test_an_option_takes_what_its_declaration_allows(parameters, name, field):
    text = choose_value(field)
    expected = parameters().updated({name: text})
    dashes = name.replace("_", "-")
    for words in ([f"--{dashes}", text], [f"--{dashes}={text}"], [f"--{name}", text], [f"--{name}={text}"]):
        assert parse(parameters, *words) == expected


@pytest.mark.parametrize(("parameters", "name", "field"), FLAGS)
def test_a_flag_is_turned_on_and_off(parameters, name, field):
    dashes = name.replace("_", "-")
    on, off = (parameters().updated({name: value}) for value in (True, False))
    parser = make_parser(parameters)

    def read(*words):
        return parameters().updated({name: getattr(parser.parse(words), name)})

    assert read(f"--{dashes}") == read(f"--{name}") == read(f"--{dashes}", "true") == read(f"--{name}=True") == on
    assert (
        read(f"--no-{dashes}") == read(f"--no_{name}") == read(f"--{dashes}", "False") == read(f"--{dashes}=0") == off
    )
    with pytest.raises(ParameterError, match=f"^'{name}' must be True or False, got 'perhaps'$"):
        read(f"--{dashes}=perhaps")


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_a_wrong_value_has_the_sentence_of_the_declaration(parameters, name, field):
    is_path = field.annotation is str and not field.examples  # almost any text is one
    wrong = "a\0b" if is_path else "-1e3x"
    with pytest.raises(ParameterError) as caught:
        parameters().updated({name: wrong})
    with pytest.raises(ParameterError, match=f"^{re.escape(str(caught.value))}$"):
        parse(parameters, f"--{name.replace('_', '-')}={wrong}")


@pytest.mark.parametrize(("parameters", "name", "field"), VALUES)
def test_an_option_without_a_value_says_what_is_missing(parameters, name, field):
    expected = f"^'{name}' must be {re.escape(describe_constraint(field))}, got nothing$"
    for following in ([], ["--json"], ["--device=cpu"]):
        with pytest.raises(ParameterError, match=expected):
            parse(parameters, f"--{name}", *following)


@pytest.mark.parametrize(("parameters", "name", "field"), FIELDS)
def test_what_other_programs_call_it_gets_our_option(parameters, name, field):
    for word in get_form(field)["also_called"]:
        option = word.replace("_", "-")
        with pytest.raises(ParameterError, match=f"^no option '--{option}'; did you mean '--{name.replace('_', '-')}'"):
            parse(parameters, f"--{word}=1")


@pytest.mark.parametrize("parameters", CLASSES)
def test_help_has_every_parameter_in_the_groups_of_the_form(parameters, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = make_parser(parameters).format_help()
    place = -1
    for title in dict.fromkeys(get_form(field)["group"] for field in parameters.model_fields.values()):
        place = text.index(f"\n{title}:\n", place + 1)
    for name, field in parameters.model_fields.items():
        (line,) = re.findall(rf"^  --{name.replace('_', '-')}\b(?![-\w]).*\n?.*", text, re.MULTILINE)
        assert field.description in line
        assert describe_constraint(field)[1:] in line
        assert f"default {field.default if field.default != '' else 'empty'}." in line


def test_values_that_look_like_options_are_values():
    assert parse(TrainParameters, "--output-folder", "-odd").output_folder == "-odd"
    assert parse(TrainParameters, "--output-folder=--json").output_folder == "--json"
    assert parse(TrainParameters, "--output-folder", "--unknown").output_folder == "--unknown"


def test_the_last_of_two_counts():
    assert parse(TrainParameters, "--epochs=3", "--epochs=4").epochs == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no data set; expected a path of a folder or of a CSV/TSV file as DATASET, got ''"),
        ([""], "no data set; expected a path of a folder or of a CSV/TSV file as DATASET, got ''"),
        (["a", "b"], "unrecognized arguments: b"),
        (["--data", "a"], "no option '--data'; did you mean DATASET, which is given without an option?"),
        (
            ["--dataset_folder=a"],
            "no option '--dataset-folder'; did you mean DATASET, which is given without an option?",
        ),
        (["a", "--lr", "1"], "no option '--lr'; did you mean '--learning-rate'?"),
        (["a", "-bs", "1"], "no option '-bs'; did you mean '--batch-size'?"),
        (["a", "--no-pretrained"], "no option '--no-pretrained'; did you mean '--no-use-pretrained'?"),
        (["a", "--epoch", "1"], "no option '--epoch'; did you mean '--epochs'?"),
        (["a", "--jsn"], "no option '--jsn'; did you mean '--json'?"),
        (["a", "--zzz"], "no option '--zzz'"),
        (["a", "--epochs", "many"], "'epochs' must be an integer from 0 to 10000, got 'many'"),
        (["a", "--optimizer=sdg"], "'optimizer' must be one of auto, sgd, adamw, got 'sdg'; did you mean 'sgd'?"),
        (
            ["a", "--no-use-pretrained"],
            "'feature_extract' trains only the head, but with 'use_pretrained' False and no ",
        ),
        (["a", "--json=1"], "argument --json: ignored explicit argument '1'"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_one_line_on_standard_error_and_status_2(capsys, words, message):
    assert main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resnetkit train: {message}")
    assert err.count("\n") == 1


def test_a_wrong_command_is_refused(capsys):
    assert main(["trian", "a"]) == 2
    assert capsys.readouterr().err == "resnetkit: no command 'trian'; did you mean 'train'?\n"
    assert main(["zzz"]) == 2
    assert capsys.readouterr().err == f"resnetkit: no command 'zzz'; expected one of {', '.join(COMMANDS)}\n"
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(name in err for name in COMMANDS)


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"resnetkit {__version__}\n"


#: What takes seconds to import, or is for other things.
HEAVY = ("torch", "torchvision", "openvino", "cv2", "matplotlib", "sklearn", "ikomia", "numpy")


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_is_printed_without_heavy_imports(words):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnetkit", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: resnetkit ")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert imported & set(HEAVY) == set()
    if words == ["--help"]:
        assert "pydantic" not in imported


def test_messages_go_back_to_what_they_were():
    from resnetkit.machine.speaking import get_logger

    logger = get_logger()
    before = logger.level, list(logger.handlers)
    main(["train", "a", "--quiet", "--epochs=-1"])
    assert (logger.level, logger.handlers) == before
