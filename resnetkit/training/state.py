"""The resumable state of a training: all that the next epoch depends on, in one file that holds no code."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from resnetkit.formats.tensors import StoredTensor, check_sizes
from resnetkit.formats.torch_file import Inert, read_torch_file
from resnetkit.learners.optimization import FURTHER_PEAK, find_best
from resnetkit.learners.recipe import Recipe
from resnetkit.machine.files import atomic_path, read_file
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import to_printable
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters

logger = get_logger()

STATE_FILE = "state.pt"

#: Weights, their average and two of the optimizer have half of it for the largest network.
_MAX_BYTES = 2 << 30
_MAX_DEPTH = 6
_MAX_NUMBER = 10**9
_MAX_REASON = 500
_PLAIN = (str, int, float, bool, type(None), list)

#: Figures of one epoch: epoch (from 1; 0 is a solved head before them), train_loss, train_accuracy (None for mixed
#: targets), val_loss, val_accuracy, learning_rate (of the last step), seconds, val_balanced_accuracy (None where it was
#: not measured). Or of one strength of a solved head, see `Run.finish_path`.
Row = dict[str, Any]

#: Parameters that a resumed run may change: none of them has an influence on the weights of an epoch. What the
#: data set, the first weights, device and precision came to is compared by itself, see `Circumstances`.
FREE_PARAMETERS = frozenset(
    {
        "dataset_folder", "model_weight_file", "device", "precision", "num_workers",
        "time_limit_minutes", "early_stopping_patience", "folds",
        "output_folder", "run_folder", "resume_from", "evaluate_only",
        "tracking", "export_pth", "export_onnx", "export_openvino", "export_int8",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Circumstances:
    """What the result depends on besides parameters.

    Attributes:
        data: Hash of the names, labels, sizes and splits of all images.
        first_weights: Hash of the weights file that training started from; empty for random ones.
        numerics: Device, precision and, for cached features, runtime.
        threads: CPU threads of torch; another number may change the last bits of a sum.
        processes: How many trained together; another number normalizes and mixes other shares of a batch.
    """

    data: str
    first_weights: str
    numerics: str
    threads: int
    processes: int = 1


@dataclass
class TrainingState:
    """A training between two epochs.

    Attributes:
        parameters: All of them, by name.
        circumstances: What else the result depends on.
        classes: Class names in the order of the outputs.
        history: One row of figures for each finished epoch.
        weights: State dict of what is trained: the whole network, or its head.
        optimizer: State dict of the optimizer; empty before the first epoch has ended.
        recipe: How it is trained, `Recipe.to_dict()`; empty in runs from before there were recipes.
        average: State dict of the moving average of the weights; empty where there is none, or before the first epoch.
        split_rule: How validation images were drawn, see `SPLIT_RULES`; states of the first rule do not say it.
        figure: What of the history chooses, see `Criterion`; states from before there was a choice do not say it.
        num_choosing: See `find_best`.
        cycle_ends: Epochs after which the learning rate began a new cycle, since more epochs were asked for.
    """

    parameters: dict[str, Any]
    circumstances: Circumstances
    classes: tuple[str, ...]
    history: list[Row] = field(default_factory=list)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    split_rule: int = 1
    average: Mapping[str, torch.Tensor] = field(default_factory=dict)
    figure: str = "val_accuracy"
    num_choosing: int = 0
    cycle_ends: list[int] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of finished epochs, or of solutions; a solved head before the epochs is none."""
        return len(self._epochs)

    @property
    def _epochs(self) -> list[Row]:
        return [row for row in self.history if row.get("epoch") != 0]

    @property
    def epochs_without_progress(self) -> int:
        """Number of epochs since the figure that chooses last rose, or since more epochs were asked for."""
        if not self._epochs:
            return 0
        accuracies = [row[self.figure] for row in self._epochs]
        start = max((end for end in self.cycle_ends if end <= self.epoch), default=0)
        return min(len(accuracies) - 1 - accuracies.index(max(accuracies)), self.epoch - start)

    @property
    def best(self) -> Row | None:
        """The best epoch, or the solution that a solved head chose; None before there is one."""
        return find_best(self.history, self.figure, self.num_choosing)


def copy_to_cpu(value: Any) -> Any:
    """Return nested dictionaries and lists with copies of their tensors, laid out as they are, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: copy_to_cpu(item) for name, item in value.items()}
    return [copy_to_cpu(item) for item in value] if isinstance(value, list) else value


def write_state(folder: Path, state: TrainingState) -> None:
    """Write the state into a run folder, whole or not at all."""
    content = {**vars(state), "circumstances": asdict(state.circumstances), "classes": list(state.classes)}
    buffer = io.BytesIO()  # torch's own file writer hides the reason when a disk is full
    torch.save(content, buffer)
    with atomic_path(folder / STATE_FILE) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_state(folder: Path) -> TrainingState:
    """Read the state of a run folder; no code that the file may hold is run, and every part of it is looked at.

    Raises:
        ParameterError: The folder holds none, or a damaged or foreign one.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ParameterError(f"'resume_from' must be a run folder with a {STATE_FILE}, got '{folder}'")
    try:
        stored = read_file(path, _MAX_BYTES)
        content = read_torch_file(stored)
        check_sizes(content, len(stored))
        return _parse_state(_to_tensors(content))
    except (ValueError, OSError, TypeError, KeyError, MemoryError, RecursionError) as error:
        reason = to_printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise ParameterError(
            f"'resume_from': '{path}' is damaged or was not written by train_resnet ({reason[:_MAX_REASON]})"
        ) from error


def check_weights(state: TrainingState, module: nn.Module) -> None:
    """Compare every weight's name, shape and type with those of what is trained.

    Raises:
        ParameterError: One is missing, superfluous, or of another shape or type.
    """
    expected = module.state_dict()
    for found in (state.weights, state.average) if state.average else (state.weights,):
        if found.keys() != expected.keys():
            _refuse(f"weights named {_list_differing(found, expected)}, expected those of the network")
        for name, tensor in expected.items():
            _check_tensor(f"weights '{name}'", found[name], tensor.shape, tensor.dtype)


def check_averages(state: TrainingState, optimizer: torch.optim.Optimizer) -> None:
    """Compare the optimizer's averages with its weights, before torch's kernels take them to be of the same shapes.

    Raises:
        ParameterError: One is missing, superfluous, of another shape or type, or of impossible values.
    """
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"}
    if isinstance(optimizer, torch.optim.SGD):
        names = {"momentum_buffer"} if optimizer.defaults["momentum"] else set()
    averages = state.optimizer.get("state")
    if not isinstance(averages, dict) or (names and averages.keys() != set(range(len(weights)))):
        _refuse("averages of other weights than the optimizer's")
    for index, own in averages.items():
        if not isinstance(own, dict) or {name for name, value in own.items() if value is not None} != names:
            _refuse("averages that its optimizer does not keep")
        for name in names:
            tensor, weight = own[name], weights[index]
            _check_tensor(f"average '{name}' {index}", tensor, () if name == "step" else weight.shape, torch.float32)
            if not tensor.isfinite().all() or (name in ("step", "exp_avg_sq") and tensor.min() < 0):
                _refuse(f"average '{name}' {index} with impossible values")


def read_recipe(state: TrainingState, chosen: Recipe) -> Recipe:
    """Return the recipe that the run goes on with; one from before there were recipes takes the chosen one.

    Raises:
        ParameterError: It is of other settings than recipes have.
    """
    if not state.recipe:
        return chosen
    # Before weights were averaged, recipes did not say so.
    content = {"average_share": 0.0, **state.recipe}
    if not _is_alike(content, chosen.to_dict()):
        _refuse("a recipe that is none")
    recipe = Recipe.from_dict(content)
    is_known = recipe.optimizer in ("solver", "adamw", "sgd") and recipe.schedule in ("cosine", "constant")
    if not is_known or recipe.batch_size < 1:
        _refuse("a recipe of unknown settings")
    return recipe


def extend_recipe(state: TrainingState, chosen: Recipe, parameters: TrainParameters) -> tuple[Recipe, list[int]]:
    """Return the recipe that the run goes on with, see `read_recipe`, and the ends of its learning rate's cycles.

    More epochs than were planned are a new cycle after those that were, or after the epoch in which patience ended the
    run; a constant rate has no cycles.

    Raises:
        ParameterError: The recipe is of other settings than recipes have.
    """
    recipe, wanted = read_recipe(state, chosen), parameters.epochs
    planned = recipe.epochs if state.recipe else int(state.parameters.get("epochs", recipe.epochs))
    if recipe.is_solved or wanted <= planned:
        return replace(recipe, epochs=planned), state.cycle_ends
    if recipe.schedule == "constant":
        return replace(recipe, epochs=wanted), state.cycle_ends
    patience = state.parameters.get("early_stopping_patience")
    if isinstance(patience, int) and 0 < patience <= state.epochs_without_progress:
        planned = state.epoch
    reason = (
        f"{planned}, and {wanted - planned} more, asked for later: a cycle of their own, in which the learning rate "
        f"climbs to {FURTHER_PEAK * recipe.learning_rate:.2g}, {FURTHER_PEAK:g} of the first peak, and falls to zero"
    )
    logger.info("epochs: %s", reason)
    reasons = {**recipe.reasons, "epochs": reason}
    return replace(recipe, epochs=wanted, reasons=reasons), [*state.cycle_ends, planned]


def _is_alike(found: Any, pattern: Any) -> bool:
    """Tell whether settings have the names and types of others, and numbers of a sensible size."""
    if isinstance(pattern, dict):
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            return False
        reasons = found.get("reasons")
        if isinstance(reasons, dict) and not all(isinstance(text, str) for text in reasons.values()):
            return False
        return found.keys() == pattern.keys() and all(
            name == "reasons" or _is_alike(found[name], value) for name, value in pattern.items()
        )
    if isinstance(pattern, float):
        return type(found) in (int, float) and math.isfinite(found) and abs(found) <= _MAX_NUMBER
    return type(found) is type(pattern) and (not isinstance(found, int) or 0 <= found <= _MAX_NUMBER)


def _check_tensor(what: str, tensor: Any, shape: Sequence[int], dtype: torch.dtype) -> None:
    if not isinstance(tensor, torch.Tensor):
        _refuse(f"{what} that are no tensor")
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        _refuse(f"{what} as {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {tuple(shape)}")


def _list_differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    return ", ".join(to_printable(str(name)[:60]) for name in sorted(found.keys() ^ expected.keys(), key=str)[:3])


def _refuse(what: str) -> NoReturn:
    raise ParameterError(f"'resume_from': the run's {STATE_FILE} is damaged or belongs to another run: it holds {what}")


def _to_tensors(content: Any, depth: int = 0) -> Any:
    """Return what was read with tensors of torch; objects of other classes are no part of a state."""
    if isinstance(content, StoredTensor):
        tensor = torch.from_numpy(content.to_array())
        return tensor.bfloat16() if content.dtype == "bfloat16" else tensor
    if isinstance(content, Inert) or depth > _MAX_DEPTH:
        raise ValueError(f"it holds {content.class_name if isinstance(content, Inert) else 'too many levels'}")
    if isinstance(content, dict):
        return {name: _to_tensors(value, depth + 1) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_to_tensors(value, depth + 1) for value in content]
    return content


def _parse_state(content: Any) -> TrainingState:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    content = dict(content)
    circumstances = Circumstances(**content.pop("circumstances"))
    kinds = {field.name: str if field.type == "str" else int for field in fields(Circumstances)}
    if not all(type(getattr(circumstances, name)) is kind for name, kind in kinds.items()):
        raise ValueError("its circumstances are of other types")
    state = TrainingState(circumstances=circumstances, classes=tuple(content.pop("classes")), **content)
    ends = [0, *state.cycle_ends] if isinstance(state.cycle_ends, list) else [0, None]
    if not all(type(end) is int for end in ends) or ends != sorted(set(ends)) or ends[-1] > _MAX_NUMBER:
        raise ValueError("its cycles are no epochs")
    if not all(isinstance(name, str) for name in state.classes):
        raise ValueError("its class names are no texts")
    for part in (state.parameters, state.weights, state.average, state.optimizer, state.recipe):
        if not isinstance(part, dict):
            raise TypeError(f"a {type(part).__name__} where names and values should be")
    if not all(isinstance(value, _PLAIN) for value in state.parameters.values()):
        raise ValueError("its parameters are no plain values")
    if state.figure not in ("val_accuracy", "val_balanced_accuracy") or type(state.num_choosing) is not int:
        raise ValueError("its best epoch is chosen by a figure that none has")
    _check_history(state.history, state.figure)
    for row in state.history:
        row.setdefault("val_balanced_accuracy", None)  # runs from before it was measured
    return state


def _check_history(history: Any, figure: str) -> None:
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ValueError("its history is no list of rows")
    first = 0 if history and history[0].get("epoch") == 0 else 1  # a solved head comes before the epochs
    for number, row in enumerate(history, start=first):
        is_plain = all(isinstance(value, (str, int, float, type(None))) for value in row.values())
        is_finite = all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        if row.keys() != history[0].keys() or not (is_plain and is_finite) or row.get("epoch", number) != number:
            raise ValueError(f"row {number} of its history is no row of figures")
        figures = [row.get(name) for name in (figure, "val_accuracy", "val_loss", "seconds")]
        if not all(type(value) in (int, float) for value in figures) or not all(0 <= each <= 1 for each in figures[:2]):
            raise ValueError(f"row {number} of its history lacks figures")


def check_resumable(state: TrainingState, parameters: TrainParameters) -> None:
    """Refuse parameters with which the resumed run would not give what the uninterrupted one gives.

    More epochs are fine, see `extend_recipe`.

    Raises:
        ParameterError: Parameters differ; the message names all of them, with both values.
    """
    differing, hint = {}, "give the run's own values, or start a new run"
    for name, value in parameters.model_dump().items():
        # A parameter that is younger than the run means what training did before there was one.
        before = state.parameters.get(name, value)
        if name in FREE_PARAMETERS or value == before:
            continue
        if name == "epochs":
            planned = state.recipe.get("epochs") or before
            is_solved = state.recipe.get("optimizer") == "solver"
            if not is_solved and isinstance(planned, int) and value >= planned:
                continue
            hint += (
                "; a solved head has no epochs; feature_extract=False trains the whole network"
                if is_solved
                else f"; more epochs than {planned} would go on after the end"
            )
        differing[name] = before, value
    if differing:
        expected = ", ".join(f"{name}={before}" for name, (before, _) in differing.items())
        got = ", ".join(f"{name}={value}" for name, (_, value) in differing.items())
        raise ParameterError(f"'resume_from' continues a run with {expected}; got {got}; {hint}")


def check_circumstances(state: TrainingState, now: Circumstances) -> None:
    """Refuse another data set, other first weights or other numerics than the run began with.

    Raises:
        ParameterError: One of them differs.
    """
    before = state.circumstances
    if now.data != before.data:
        raise ParameterError("'resume_from': the data set is not the one that the run began with")
    if now.first_weights != before.first_weights:
        raise ParameterError("'resume_from': the first weights are not those that the run began with")
    if now.numerics != before.numerics:
        raise ParameterError(
            f"'resume_from': the run began on {before.numerics}, this would be {now.numerics}; "
            "set 'device' and 'precision' accordingly"
        )
    if now.threads != before.threads:
        logger.warning(
            "the run began with %d CPU threads and goes on with %d; the last bits may differ",
            before.threads,
            now.threads,
        )
    if now.processes != before.processes:
        logger.warning(
            "the run began in %d processes and goes on in %d; it is another training from here on",
            before.processes,
            now.processes,
        )
