"""The mixins between parameters and the engine, without the engine: strings in, strings out, all or nothing."""

from __future__ import annotations

import copy
import pickle

import pytest

from resnetkit.parameters.adapter import ParametersAdapter, SetParametersMixin
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters


class Param(ParametersAdapter):
    parameters_class = InferParameters


class Task(SetParametersMixin):
    def __init__(self) -> None:
        self.param = Param()

    def get_param_object(self) -> Param:
        return self.param


def test_strings_both_ways():
    param = Param()
    strings = {**param.get_values(), "input_size": "96", "heatmap": "True"}
    param.set_values(strings)
    assert param.get_values() == strings
    assert (param.values.input_size, param.values.heatmap) == (96, True)
    assert param.cfg == strings


def test_a_wrong_string_leaves_everything_as_it_was():
    param = Param()
    with pytest.raises(ParameterError, match=r"^infer_resnet: 'top_k'"):
        param.set_values({"input_size": "96", "top_k": "none"})
    assert param.values == InferParameters()


def test_copies_and_pickles_are_equal():
    param = Param()
    param.set_values({"input_size": "96"})
    for twin in (copy.deepcopy(param), pickle.loads(pickle.dumps(param))):
        assert twin.values == param.values


def test_a_task_takes_native_values_and_strings():
    task = Task()
    task.set_parameters({"input_size": 96, "top_k": "3"})
    assert (task.param.values.input_size, task.param.values.top_k) == (96, 3)
    with pytest.raises(ParameterError, match=r"^infer_resnet: no parameter 'topk'; did you mean 'top_k'"):
        task.set_parameters({"input_size": 64, "topk": 3})
    assert task.param.values.input_size == 96
