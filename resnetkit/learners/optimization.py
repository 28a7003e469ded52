"""How weights are changed: numerics of the device, learning rate over time, optimizer, loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnetkit.data.dataset import Dataset
from resnetkit.learners.recipe import Recipe
from resnetkit.runtimes.devices import choose_device, list_precisions
from resnetkit.runtimes.network import choose_precision

#: The most steps in which a cosine schedule climbs to its peak.
MAX_WARMUP_STEPS = 500
#: Peak of the rate over epochs that were added after the end, as a share of the first peak: the weights are good
#: already, and a full restart would first undo a part of that.
FURTHER_PEAK = 0.3

#: How often the average of the weights takes them up in the steps that it looks back on, at least.
_UPDATES_IN_SPAN = 5

#: Times the images of the rarest class that the commonest has, from which on classes count as much imbalanced; the
#: border of the KEEL data sets (Alcala-Fdez et al., 2011).
LARGE_IMBALANCE = 9


@dataclass(frozen=True)
class Numerics:
    """Where and how exactly the network is computed.

    Attributes:
        device: Name of a torch device.
        precision: fp32 or bf16.
    """

    device: str
    precision: str

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the forward pass runs."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


def choose_numerics(device: str, precision: str) -> Numerics:
    """Turn the two parameters into what this machine has.

    Raises:
        RuntimeOptionError: The device is not there, or does not run the precision natively.
    """
    chosen = choose_device(device)
    return Numerics(str(chosen), choose_precision(precision, list_precisions(chosen), f"PyTorch on {chosen}"))


def compute_learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the learning rate of a step: constant, or a linear warm-up and half a cosine down to zero."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup = min(math.ceil(recipe.warmup_share * total_steps), MAX_WARMUP_STEPS)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def compute_cycled_rate(recipe: Recipe, cycle_ends: Sequence[int], step: int, steps_per_epoch: int) -> float:
    """Return the learning rate where epochs were added after an end: they have a cycle of their own, lower and whole.

    Args:
        recipe: Its epochs are all of them.
        cycle_ends: Epochs after which a new cycle began, in ascending order.
        step: Counted from the first epoch's first.
        steps_per_epoch: How many an epoch has.
    """
    epoch = step // steps_per_epoch
    start = max((end for end in cycle_ends if end <= epoch), default=0)
    end = min((end for end in cycle_ends if end > epoch), default=recipe.epochs)
    rate = compute_learning_rate(recipe, step - start * steps_per_epoch, (end - start) * steps_per_epoch)
    return rate * FURTHER_PEAK if start else rate


def build_optimizer(recipe: Recipe, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build SGD with momentum or AdamW, fused into one kernel where torch has it for the device.

    Where norms and biases do not decay they are a group of their own: He et al., "Bag of Tricks for Image
    Classification with Convolutional Neural Networks" (2019), section 3.1.
    """
    weights = list(weights)
    is_fused = weights[0].device.type in ("cpu", "cuda", "mps")
    groups: list[dict[str, Any]] = [{"params": weights}]
    if not recipe.decays_all:
        groups = [
            {"params": [each for each in weights if each.ndim > 1]},
            {"params": [each for each in weights if each.ndim == 1], "weight_decay": 0.0},
        ]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        betas = recipe.momentum, 0.999
        return torch.optim.AdamW(groups, lr=rate, betas=betas, weight_decay=decay, fused=is_fused)
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, weight_decay=decay, fused=is_fused)


class WeightAverage:
    """A network of the moving average of another one's weights and running statistics, which is better than each.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992). At first it looks back on a few
    steps only, so that it forgets how training began. Where it looks back on many, it takes up the weights of some of
    them: an update costs a third of the optimizer's.

    Args:
        module: What is trained.
        share: Share of all steps that it looks back on.
    """

    def __init__(self, module: nn.Module, share: float) -> None:
        self._share = share
        self._decay = 0.0
        self._averaged = AveragedModel(module, multi_avg_fn=self._blend, use_buffers=True)

    @property
    def module(self) -> nn.Module:
        """The network of averages."""
        return self._averaged.module

    def update(self, module: nn.Module, step: int, total_steps: int) -> None:
        """Take up the weights as they are after a step, counted from 0; after the last one in any case."""
        span = max(1.0, self._share * total_steps)
        interval = max(1, int(span / _UPDATES_IN_SPAN))
        if (total_steps - 1 - step) % interval == 0:
            number = step // interval
            self._decay = min(1 - interval / span, (1 + number) / (10 + number))
            self._averaged.update_parameters(module)

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `module.state_dict()` was."""
        self.module.load_state_dict(dict(weights))
        self._averaged.n_averaged.fill_(1)  # at 0 it would begin anew

    def _blend(self, averages: Any, current: Any, count: Any) -> None:
        get_ema_multi_avg_fn(self._decay)(averages, current, count)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Bring an optimizer into a state that was saved, in whatever memory layout.

    Averages are laid out in memory as their weights are: torch's fused optimizers pair weights, gradients and averages
    by their places in memory, and say nothing where the layouts differ (seen in torch 2.14 on a CPU).
    """
    # The settings are those of the parameters; a file's own could be anything.
    optimizer.load_state_dict({"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    for weights, averages in optimizer.state.items():
        for name, average in averages.items():
            if torch.is_tensor(average) and average.shape == weights.shape:
                averages[name] = torch.empty_like(weights).copy_(average)


def compute_class_weights(kind: str, labels: np.ndarray, num_classes: int) -> torch.Tensor | None:
    """Weigh classes by the inverse of their frequency, 1 on average over the images; None for `none`.

    The rule is scikit-learn's `balanced`: images / (classes x images of the class).
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy((len(labels) / (num_classes * np.maximum(counts, 1))).astype(np.float32))


@dataclass(frozen=True)
class Criterion:
    """Which figure of the validation images chooses among epochs and strengths.

    Attributes:
        figure: Its name in the history: val_accuracy, or val_balanced_accuracy, the mean recall of the classes.
        reason: Why, in words.
    """

    figure: str
    reason: str

    @property
    def is_balanced(self) -> bool:
        """Whether all classes count alike, however many images they have."""
        return self.figure == "val_balanced_accuracy"


def find_best(history: Sequence[dict[str, Any]], figure: str, num_choosing: int = 0) -> dict[str, Any] | None:
    """Return the best row: the one that a solved head chose, or an epoch of the highest accuracy.

    Of epochs that are equal in accuracy the one of the lowest loss is the best, then the earliest. Where the learning
    rate falls to zero, later epochs are better unless the validation images say otherwise: there it is the last one
    that is no more than a standard error below the highest (the rule of Breiman et al., "Classification and Regression
    Trees", 1984), and not below a solved head before them. Over a lucky epoch, that was worth a point on photographs of
    hands and two on objects.

    Args:
        history: What to choose from.
        figure: Which accuracy: val_accuracy or val_balanced_accuracy.
        num_choosing: Number of validation images, where the last of the good epochs is the best; 0 elsewhere.
    """
    for row in history:
        if row.get("is_chosen"):
            return row
    best = min(history, key=lambda row: (-row[figure], row["val_loss"]), default=None)
    if best is None or not num_choosing or not best["epoch"]:
        return best
    share = best[figure]
    least = share - math.sqrt(share * (1 - share) / num_choosing)
    least = max(least, *(row[figure] for row in history if not row["epoch"]), 0.0)
    return [row for row in history if row["epoch"] and row[figure] >= least][-1]


def choose_criterion(class_weights: str, dataset: Dataset) -> Criterion:
    """Have all classes count alike where the user weighs them so, and where some are much rarer than others.

    There, a network that never names the rare class is nearly as accurate as one that finds all of it.

    Args:
        class_weights: The parameter.
        dataset: Its training and validation images count.
    """
    counts = np.bincount(np.concatenate([dataset.train.labels, dataset.val.labels]))
    ratio = counts.max() / counts[counts > 0].min()
    if class_weights == "balanced" and ratio > 1:
        return Criterion("val_balanced_accuracy", "classes are weighed (class_weights=balanced)")
    if ratio >= LARGE_IMBALANCE:
        return Criterion("val_balanced_accuracy", f"the commonest class has {ratio:.3g} times the images of the rarest")
    return Criterion("val_accuracy", f"no class has {LARGE_IMBALANCE} times the images of another")


class Loss:
    """Cross-entropy with smoothed labels and weighted classes, for labels and for mixed targets."""

    def __init__(self, label_smoothing: float, class_weights: torch.Tensor | None) -> None:
        self._label_smoothing = label_smoothing
        self._class_weights = class_weights

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of (N, classes) logits; targets are (N,) labels or (N, classes) shares."""
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        return F.cross_entropy(logits.float(), targets, weights, label_smoothing=self._label_smoothing)

    def count(self, targets: torch.Tensor) -> float:
        """Return what the sum of the losses is divided by for their mean: the images, or the weights of their labels.

        The mean over several shares of a batch counts each share by it.
        """
        if self._class_weights is None or targets.ndim == 2:
            return float(len(targets))
        return float(self._class_weights.to(targets.device)[targets].sum())
