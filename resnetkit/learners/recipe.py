"""How a training is done: what the user asked for, and where he left it open, what suits the data and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resnetkit.data.augmentation import Changes
from resnetkit.parameters.training import TrainParameters
from resnetkit.weights.architectures import ARCHITECTURES

#: Augmented views of an image that a head is solved on as well, where the network sees them in a few seconds: on
#: photographs of hands they raised the accuracy by 4 to 6 points, on ten kinds of objects by nothing.
_NUM_VIEWS = 2
#: Billions of multiplications that they may take, together.
_MAX_VIEW_GMACS = 500
#: Passes over one image, were it alone, and the fewest and most over each: from scratch, and from given weights.
_PASSES = {False: (400, 10, 32), True: (300, 4, 12)}
#: Parameters that leave a setting open where they are 0, and what plain training sets then, as it always did.
_OPEN_AT_ZERO = ("learning_rate", "batch_size", "epochs", "label_smoothing")
_PLAIN = {"learning_rate": 0.001, "batch_size": 8, "epochs": 15}
#: Share of all steps that the average of the weights looks back on.
_AVERAGE_SHARE = 0.05
#: Of the validation images, after a third of the epochs from scratch: with less, training takes twice as many.
_EASY_ACCURACY = 0.9


@dataclass(frozen=True)
class Recipe:
    """All that training does with images and weights.

    Attributes:
        optimizer: solver (the head's optimum, found at once), adamw or sgd.
        learning_rate: Its peak.
        batch_size: Images of a step.
        epochs: Passes over the training images.
        momentum: Of SGD; the first beta of AdamW.
        weight_decay: Of the weights a step.
        decays_all: Whether norms and biases decay as well.
        schedule: cosine or constant.
        warmup_share: Share of the steps in which the rate climbs.
        label_smoothing: Share of the target spread over all classes.
        starts_from_solved_head: Whether the head is solved before the whole network is trained.
        changes: How training images are augmented.
        num_views: Augmented views of each image beside the plain one, where only the head is trained.
        reasons: A sentence for what was chosen, by name.
        average_share: Share of all steps that the moving average of the weights looks back on; 0 for the weights alone.
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    momentum: float
    weight_decay: float
    decays_all: bool
    schedule: str
    warmup_share: float
    label_smoothing: float
    starts_from_solved_head: bool
    changes: Changes
    num_views: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    average_share: float = 0.0

    @property
    def is_solved(self) -> bool:
        """Whether there are no epochs, but the optimum for each of several strengths."""
        return self.optimizer == "solver"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the state of a training and for its report."""
        return {**vars(self), "changes": dict(vars(self.changes)), "reasons": dict(self.reasons)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Recipe:
        """Read what `to_dict` wrote."""
        return cls(**{**content, "changes": Changes(**content["changes"])})

    def with_epochs(self, epochs: int, reason: str) -> Recipe:
        """Return the recipe with another number of epochs."""
        return replace(self, epochs=epochs, reasons={**self.reasons, "epochs": reason})

    def with_strength(self, reason: str) -> Recipe:
        """Return the recipe with why a solved head's strength was chosen."""
        return replace(self, reasons={**self.reasons, "strength": reason})

    def with_mirror(self, is_mirrored: bool, reason: str) -> Recipe:
        """Return the recipe with or without mirrored images."""
        changes = replace(self.changes, horizontal_flip=is_mirrored)
        return replace(self, changes=changes, reasons={**self.reasons, "horizontal_flip": reason})


def choose_recipe(parameters: TrainParameters, num_images: int) -> Recipe:
    """Turn the parameters into a recipe; what they leave open depends on nothing but them and the number of images."""
    choose = _choose_for_head if parameters.feature_extract else _choose_for_network
    recipe = choose(parameters, num_images)
    if parameters.optimizer != "auto":
        return _obey(parameters, recipe)
    return replace(recipe, reasons={**recipe.reasons, **_list_given(parameters, recipe.reasons)})


def count_views(parameters: TrainParameters, num_images: int) -> int:
    """Return how many augmented views of an image the head is solved on."""
    if parameters.augmentation == "none":
        return 0
    if parameters.cached_views >= 0:
        return parameters.cached_views
    if parameters.optimizer != "auto":
        return 0
    gmacs = ARCHITECTURES[parameters.model_name].gmacs * (parameters.input_size / 224) ** 2
    return _NUM_VIEWS if _NUM_VIEWS * num_images * gmacs <= _MAX_VIEW_GMACS else 0


def choose_changes(parameters: TrainParameters) -> Changes:
    """Return how training images are augmented; a mirror that is left open is off until data speak for it."""
    kind = {"auto": "gentle"}.get(parameters.augmentation, parameters.augmentation)
    is_mirrored = {"on": True, "off": False, "auto": kind in ("basic", "strong")}[parameters.horizontal_flip]
    degrees = (10 if kind == "gentle" else 0) if parameters.rotation == "auto" else int(parameters.rotation)
    return Changes(kind, is_mirrored, parameters.vertical_flip, degrees)


def choose_batch_size(num_images: int) -> int:
    """Return 32, or 64 where an epoch has at least 16 steps of it."""
    return 64 if num_images >= 16 * 64 else 32


def choose_epochs(has_weights: bool, num_images: int) -> int:
    """Return how often training images are passed over: few images need many passes.

    The number of steps grows with the root of the number of images. What is hard takes more, see `lengthen`.
    """
    passes, fewest, most = _PASSES[has_weights]
    return max(fewest, min(most, round(passes / math.sqrt(num_images))))


def lengthen(recipe: Recipe, accuracy: float) -> Recipe:
    """Return a recipe from scratch with twice the epochs, where a network that is a third through has much to learn.

    What is easy is nearly learned by then; of ten kinds of objects, 32 pixels large, 0.40 were right, and twice the
    epochs raised the accuracy in the end from 0.52 to 0.55.

    Args:
        recipe: As it was chosen.
        accuracy: On the validation images.
    """
    if accuracy >= _EASY_ACCURACY:
        return recipe
    reason = f"{2 * recipe.epochs}: twice {recipe.reasons['epochs']}, since after a third of them {accuracy:.2f} of the"
    return recipe.with_epochs(2 * recipe.epochs, f"{reason} validation images were right, less than {_EASY_ACCURACY}")


def _choose_for_head(parameters: TrainParameters, num_images: int) -> Recipe:
    num_views = count_views(parameters, num_images)
    return Recipe(
        optimizer="solver",
        learning_rate=0.0,
        batch_size=parameters.batch_size or choose_batch_size(num_images),
        epochs=0,
        momentum=0.0,
        weight_decay=0.0,
        decays_all=False,
        schedule="constant",
        warmup_share=0.0,
        label_smoothing=parameters.label_smoothing,
        starts_from_solved_head=False,
        changes=choose_changes(parameters),
        num_views=num_views,
        reasons={
            "optimizer": "behind a frozen backbone the head has one optimum, found by L-BFGS for several strengths",
            "cached_views": f"{num_views} augmented views of each image: {_explain_views(parameters, num_views)}",
        },
    )


def _choose_for_network(parameters: TrainParameters, num_images: int) -> Recipe:
    has_weights = parameters.use_pretrained or bool(parameters.model_weight_file)
    batch_size = parameters.batch_size or choose_batch_size(num_images)
    epochs = parameters.epochs or choose_epochs(has_weights, num_images)
    passes, fewest, most = _PASSES[has_weights]
    rate = parameters.learning_rate or (1e-3 if has_weights else 3e-3) * math.sqrt(min(1.0, batch_size / 32))
    start = "given weights" if has_weights else "scratch"
    head = {"head": "solved first, a weak fit; a random one would spoil the layers below it"} if has_weights else {}
    return Recipe(
        optimizer="adamw",
        learning_rate=rate,
        batch_size=batch_size,
        epochs=epochs,
        momentum=0.9,
        weight_decay=0.05,
        decays_all=False,
        schedule="cosine",
        # The averages of AdamW need some steps; from scratch a fifth of all, as one-cycle does.
        warmup_share=0.1 if has_weights else 0.2,
        label_smoothing=parameters.label_smoothing or 0.1,
        starts_from_solved_head=has_weights,
        changes=choose_changes(parameters),
        num_views=0,
        reasons={
            **head,
            "optimizer": "AdamW reaches in few epochs what SGD reaches, over a wider range of rates",
            "learning_rate": f"{rate:.2g} for AdamW from {start}, with the root of the batch size below 32",
            "batch_size": f"{batch_size} for {num_images} images: 64 from 16 steps in an epoch",
            "epochs": f"{epochs}: {passes} / root of {num_images} images, from {fewest} to {most}",
            "weight_decay": "0.05, decoupled; none on norms and biases",
            "label_smoothing": "0.1 for accuracy; the calibration is left to the temperature, fitted afterwards",
        },
        average_share=_AVERAGE_SHARE,
    )


def _explain_views(parameters: TrainParameters, num_views: int) -> str:
    if parameters.augmentation == "none":
        return "there is no augmentation"
    if parameters.cached_views >= 0:
        return "as given"
    if num_views:
        return "they take the network some seconds, and a head gains by them"
    return "of so many images they would take the network more than some seconds"


def _list_given(parameters: TrainParameters, names: Iterable[str]) -> dict[str, str]:
    """Return a reason for each setting, of these names, that the user gave: it was obeyed, not chosen."""
    given = {name: getattr(parameters, name) for name in _OPEN_AT_ZERO if name in names}
    return {name: f"{value:g}, as given" for name, value in given.items() if value}


def _obey(parameters: TrainParameters, recipe: Recipe) -> Recipe:
    """Return the recipe of an optimizer that the user named: plain training as before there were recipes."""
    plain: dict[str, Any] = {name: getattr(parameters, name) or value for name, value in _PLAIN.items()}
    reasons = {name: f"{value:g}, that of plain training" for name, value in plain.items()}
    return replace(
        recipe,
        optimizer=parameters.optimizer,
        **plain,
        momentum=parameters.momentum,
        weight_decay=parameters.weight_decay,
        decays_all=True,
        schedule=parameters.scheduler,
        warmup_share=0.05,
        label_smoothing=parameters.label_smoothing,
        starts_from_solved_head=False,
        reasons={"optimizer": "asked for", **reasons, **_list_given(parameters, reasons)},
        average_share=0.0,
    )
