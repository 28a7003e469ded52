"""Every parameter of both tasks, given every kind of value, in the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from soak.children import Child, link_plugins
from soak.record import Finding

TITLE = "A parameter is taken as it is, or refused by name"
CLAIM = """
Each parameter of both tasks was given values that hypothesis makes up: right ones, other types, numbers beyond every
bound, NaN, texts in all alphabets. Each must be accepted, stored, and read back equal (also after the engine has saved
the workflow and loaded it again), or be refused in one line with the parameter's name, and then all values that were in
force stay in force.
"""

PLUGINS = ("infer_resnet", "train_resnet")


def run(folder: Path) -> Iterator[Finding]:
    """Try 200 values for each parameter."""
    yield from try_parameters(folder, 200)


def try_parameters(folder: Path, count: int) -> Iterator[Finding]:
    """Try `count` values for each parameter of both tasks."""
    home = link_plugins(folder / "home")
    for plugin in PLUGINS:
        ended = Child(set_parameters, {"plugin": plugin, "count": count}, folder / "child", home).wait(600)
        assert ended.answer is not None, ended.output
        answer = ended.answer
        yield Finding(
            f"{answer['names']} parameters of {plugin}",
            answer["accepted"] + answer["refused"],
            f"{answer['accepted']:,} accepted and read back equal, {answer['refused']:,} refused by name; "
            f"{answer['saved']} workflows saved and loaded with equal values",
            answer["failures"],
        )


def set_parameters(plugin: str, count: int) -> dict[str, Any]:
    """Set values in this process (a child), with the real engine."""
    from hypothesis import HealthCheck, Phase, settings
    from ikomia.dataprocess.workflow import Workflow

    task = Workflow().add_task(name=plugin)
    fields = type(task.get_param_object().values).model_fields
    tally: dict[str, Any] = {"names": len(fields), "accepted": 0, "refused": 0, "saved": 0, "failures": []}
    rules = settings(
        max_examples=count, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for name, field in fields.items():
        accepted: list[Any] = []
        _try_all(rules, _draw_values(field), partial(_set, task, name, tally, accepted))
        if accepted:
            tally["failures"] += _save_and_load(plugin, name, accepted[-1])
            tally["saved"] += 1
    return tally


def _try_all(rules: Any, values: Any, set_value: Callable[[Any], None]) -> None:
    from hypothesis import given

    @rules
    @given(values)
    def try_one(value: Any) -> None:
        set_value(value)

    try_one()


def _draw_values(field: Any) -> Any:
    """Return a strategy of values near and far from what a parameter takes."""
    from hypothesis import strategies as st

    from resnetkit.parameters.declaration import get_bounds, get_choices

    low, high = get_bounds(field)
    kinds = [
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_subnormal=False),
        st.text(max_size=20),
        st.binary(max_size=4),
        st.lists(st.integers(), max_size=2),
    ]
    near: list[Any] = [bound + step for bound in (low, high) if bound is not None for step in (-1, 0, 1, 0.5)]
    if get_choices(field):
        kinds.append(st.sampled_from(get_choices(field)))
    if near:
        kinds += [st.sampled_from(near), st.sampled_from([str(value) for value in near])]
        kinds.append(
            st.integers(int(low or 0), int(high or 1))
            if field.annotation is int
            else st.floats(low, high, allow_subnormal=False)
        )
    return st.one_of(*kinds)


def _set(task: Any, name: str, tally: dict[str, Any], accepted: list[Any], value: Any) -> None:
    before = dict(task.get_parameters())
    try:
        task.set_parameters({name: value})
    except ValueError as error:
        tally["refused"] += 1
        message = str(error)
        if f"'{name}'" not in message or "\n" in message:
            tally["failures"].append(f"{name}={value!r}: {message[:150]}")
        if dict(task.get_parameters()) != before:
            tally["failures"].append(f"{name}={value!r} was refused, and changed something")
        return
    tally["accepted"] += 1
    after = dict(task.get_parameters())
    stored = getattr(task.get_param_object().values, name)
    is_equal = str(stored) == after[name] and (stored == value or str(value).lower() == str(stored).lower())
    if not is_equal and not _is_same_number(stored, value):
        tally["failures"].append(f"{name}={value!r} became {after[name]!r}")
    if {key: text for key, text in after.items() if key != name} != {key: before[key] for key in before if key != name}:
        tally["failures"].append(f"{name}={value!r} changed another parameter")
    accepted.append(value)


def _is_same_number(stored: Any, value: Any) -> bool:
    """Tell whether a text or number means what was stored: ' 7', '7.0' and 7, or 'yes' and True."""
    words = {"1": True, "on": True, "t": True, "y": True, "yes": True, "true": True}
    words |= dict.fromkeys(("0", "off", "f", "n", "no", "false"), False)
    if isinstance(stored, bool):
        return words.get(str(value).strip().lower().removesuffix(".0")) == stored
    try:
        return float(value) == float(stored)
    except (TypeError, ValueError):
        return False


def _save_and_load(plugin: str, name: str, value: Any) -> Iterator[str]:
    import tempfile

    from ikomia.dataprocess.workflow import Workflow

    workflow, loaded = Workflow(), Workflow()
    task = workflow.add_task(name=plugin)
    task.set_parameters({name: value})
    with tempfile.TemporaryDirectory() as folder:
        workflow.save(f"{folder}/workflow.json")
        loaded.load(f"{folder}/workflow.json")
    (again,) = loaded.find_task(plugin)
    if again.get_param_object().values != task.get_param_object().values:
        yield f"{name}={value!r} is another value after saving and loading"
