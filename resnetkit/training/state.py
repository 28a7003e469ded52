"""The resumable state of a training: all that the next epoch depends on, in one file that holds no code."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from resnetkit.machine.files import atomic_path
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters

logger = get_logger()

STATE_FILE = "state.pt"

#: Figures of one epoch: epoch (from 1; 0 is a solved head before them), train_loss, train_accuracy (None for mixed
#: targets), val_loss, val_accuracy, learning_rate (of the last step), seconds. Or of one strength of a solved head, see
#: `Run.finish_path`.
Row = dict[str, Any]

#: Parameters that a resumed run may change: none of them has an influence on the weights of an epoch. What the
#: data set, the first weights, device and precision came to is compared by itself, see `Circumstances`.
FREE_PARAMETERS = frozenset(
    {
        "dataset_folder", "model_weight_file", "device", "precision", "num_workers", "time_limit_minutes",
        "output_folder", "resume_from", "tracking", "export_pth", "export_onnx", "export_openvino", "export_int8",
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
    """

    data: str
    first_weights: str
    numerics: str
    threads: int


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
    """

    parameters: dict[str, Any]
    circumstances: Circumstances
    classes: tuple[str, ...]
    history: list[Row] = field(default_factory=list)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Number of finished epochs, or of solutions; a solved head before the epochs is none."""
        return len(self._epochs)

    @property
    def _epochs(self) -> list[Row]:
        return [row for row in self.history if row.get("epoch") != 0]

    @property
    def epochs_without_progress(self) -> int:
        """Number of epochs since validation accuracy last rose."""
        if not self._epochs:
            return 0
        accuracies = [row["val_accuracy"] for row in self._epochs]
        return len(accuracies) - 1 - accuracies.index(max(accuracies))


def find_best(history: Sequence[Row]) -> Row | None:
    """Return the best row: the one that a solved head chose, or the epoch of the highest validation accuracy.

    Of epochs that are equal in accuracy the one of the lowest loss is the best, then the earliest.
    """
    for row in history:
        if row.get("is_chosen"):
            return row
    return min(history, key=lambda row: (-row["val_accuracy"], row["val_loss"]), default=None)


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
    """Read the state of a run folder; no code that the file may hold is run.

    Raises:
        ParameterError: The folder holds none, or a damaged or foreign one.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ParameterError(f"'resume_from' must be a run folder with a {STATE_FILE}, got '{folder}'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        circumstances = Circumstances(**content.pop("circumstances"))
        return TrainingState(circumstances=circumstances, classes=tuple(content.pop("classes")), **content)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError, KeyError, AttributeError) as error:
        raise ParameterError(
            f"'resume_from': '{path}' is damaged or was not written by train_resnet ({error})"
        ) from error


def check_resumable(state: TrainingState, parameters: TrainParameters) -> None:
    """Refuse parameters with which the resumed run would not give what the uninterrupted one gives.

    More epochs are fine where the learning rate does not depend on their number.

    Raises:
        ParameterError: A parameter differs; the message names it and both values.
    """
    for name, value in parameters.model_dump().items():
        # A parameter that is younger than the run means what training did before there was one.
        before = state.parameters.get(name, value)
        if name in FREE_PARAMETERS or value == before:
            continue
        hint = "give the run's own value, or start a new run"
        if name == "epochs":
            if parameters.optimizer != "auto" and parameters.scheduler == "constant" and value > before:
                continue
            hint += "; only more epochs of sgd or adamw under scheduler=constant leave the earlier ones as they were"
        raise ParameterError(f"'resume_from' continues a run with {name}={before}, got {name}={value}; {hint}")


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
