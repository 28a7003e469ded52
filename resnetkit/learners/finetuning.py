"""Training of the whole network on images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

from resnetkit.data.augmentation import mix_batch
from resnetkit.images.preprocessing import normalize
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.initialization import Start
from resnetkit.learners.learner import ImageSplits, Predictions, Preparation, shuffle
from resnetkit.learners.optimization import Numerics, WeightAverage
from resnetkit.learners.recipe import Recipe, choose_epochs, count_views, lengthen
from resnetkit.learners.sharing import average_statistics, connect, gather_predictions, share_out
from resnetkit.machine import ranks
from resnetkit.machine.progress import Progress
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.weights.models import load_model, skip_padding

#: Images of one forward pass without gradients; of more, what layers pass on no longer fits a CPU's caches.
EVALUATION_BATCH_SIZE = 16
#: Of the head that the whole network is trained from, scikit-learn's C for scaled features.
_START_STRENGTH = 1e-3
#: Share of the epochs from scratch after which the network can tell whether mirrored images keep their class.
_REVIEW_SHARE = 1 / 3


class NetworkLearner:
    """The whole network: augmented images in, gradients in every layer."""

    def __init__(
        self, start: Start, splits: ImageSplits, parameters: TrainParameters, recipe: Recipe, numerics: Numerics
    ) -> None:
        _check_batch_norm(parameters, recipe)
        # The starting weights stay what they are: train on a copy.
        weights = {name: tensor.clone() for name, tensor in start.state_dict.items()}
        model = load_model(parameters.model_name, weights, parameters.small_input_stem).requires_grad_(True)
        if parameters.optimizer == "auto":  # plain training keeps its numbers to the last bit
            skip_padding(model)
        self.module = model.to(numerics.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.numerics = f"torch {numerics.device} {numerics.precision}"
        self._numerics = numerics
        self._splits = splits
        self._parameters = parameters
        self._recipe = recipe
        self._start = start
        self._connected: nn.Module | None = None
        self._average = WeightAverage(self.module, recipe.average_share) if recipe.average_share else None

    def prepare(self, folder: Path, progress: Progress, is_resumed: bool) -> Preparation:
        """Start from a solved head, where the recipe says so, and find out whether mirrored images keep their class.

        A random head would first spoil the backbone: Kumar et al., "Fine-Tuning can Distort Pretrained Features and
        Underperform Out-of-Distribution" (2022). A head that fits the training images, on the other hand, leaves the
        layers below it nothing to learn from: a weak fit, of strength `_START_STRENGTH`, made 0.96 of hand signs right
        in the end, the best head 0.89. The best head is a candidate beside the epochs: where the features are good
        already and the images few, it may be better than all of them.
        """
        if is_resumed or not self._recipe.starts_from_solved_head:
            return Preparation(self._recipe)
        # Where several processes train, all compute features, and the first one solves.
        preparation = self._solve_head(folder, progress)
        recipe, figures = ranks.share((preparation.recipe, preparation.head and preparation.head[0]))
        if ranks.is_first():
            return preparation
        assert figures is not None
        self._recipe = recipe
        self._splits.change(recipe.changes)
        return Preparation(recipe, (figures, {}))

    def _solve_head(self, folder: Path, progress: Progress) -> Preparation:
        num_views = count_views(self._parameters, len(self._splits.dataset.train))
        head = HeadLearner(self._start, self._splits, self._parameters, replace(self._recipe, num_views=num_views))
        head.compute_features(["train", "val"], folder, progress)
        if not ranks.is_first():
            head.close_features()
            return Preparation(self._recipe)
        path = head.solve(progress)
        if self._is_mirror_open:
            predictions = head.predict("val", progress)
            self._choose_mirror(predictions, head.predict_mirrored(progress))
        chosen, weights = path.chosen, head.get_state_dict()
        head.close_features()
        start = min(path.solutions, key=lambda solution: abs(math.log(solution.strength / _START_STRENGTH)))
        with torch.no_grad():
            self.module.fc.weight.copy_(torch.from_numpy(start.weight))
            self.module.fc.bias.copy_(torch.from_numpy(start.bias))
        names = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy")
        figures = {name: getattr(chosen, name) for name in names}
        return Preparation(self._recipe, (figures, weights))

    def review(self, epoch: int, accuracy: float, progress: Progress) -> Recipe:
        """Find out after a third of the epochs whether mirrored images keep their class, where no solved head could.

        On photographs of objects the mirror lowered the validation loss from 1.54 to 1.47. Then is also the time to
        see how hard the data are, see `lengthen`.
        """
        due = math.ceil(_REVIEW_SHARE * self._recipe.epochs)
        if self._is_mirror_open and epoch >= due:
            predictions = self.predict("val", progress)
            self._choose_mirror(predictions, self._predict("val", progress, is_mirrored=True).logits)
        if epoch == due and self._is_length_open:
            self._recipe = lengthen(self._recipe, accuracy)
        return self._recipe

    @property
    def _is_length_open(self) -> bool:
        if self._recipe.starts_from_solved_head or self._parameters.optimizer != "auto" or self._parameters.epochs:
            return False
        # Not twice; images that cannot be read, which were counted at first, make it a few more or less.
        return self._recipe.epochs < 1.5 * choose_epochs(has_weights=False, num_images=len(self._splits.dataset.train))

    @property
    def _is_mirror_open(self) -> bool:
        is_auto = self._recipe.changes.kind == "gentle" and self._parameters.horizontal_flip == "auto"
        return is_auto and "horizontal_flip" not in self._recipe.reasons

    def _choose_mirror(self, predictions: Predictions, mirrored: np.ndarray) -> None:
        keeps_class = check_mirror(predictions.logits, mirrored, predictions.labels)
        reason = "on: mirrored validation images are answered nearly as well"
        if not keeps_class:
            reason = "off: too many mirrored validation images are taken for another class"
        self._recipe = self._recipe.with_mirror(keeps_class, reason)
        self._splits.change(self._recipe.changes)

    def count_batches(self) -> int:
        """Return the number of steps of an epoch."""
        return -(-len(self._splits.dataset.train) // self._recipe.batch_size)

    def read_batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield normalized images (N, 3, S, S) and their targets.

        A batch of a single image, as the last one may be, is left out where batches are larger: batch normalization
        would divide by a deviation of zero. The order changes with the epoch, so the image left out does, too.
        """
        parameters, recipe = self._parameters, self._recipe
        order = shuffle(np.arange(len(self._splits.dataset.train)), parameters.seed, epoch)
        order, batch_size = share_out(order, recipe.batch_size)
        for batch in self._splits.open("train").augmented(batch_size, epoch, order):
            if len(batch.indices) == 1 and batch_size > 1:
                continue
            images, targets = batch.images, batch.labels
            if recipe.changes.kind == "strong":
                shares = F.one_hot(targets, len(self._splits.dataset.classes)).float()
                images, targets = mix_batch(images, shares, parameters.seed, epoch, batch.indices)
            yield self._to_network(images), targets.to(self._numerics.device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (N, classes) logits, with gradients."""
        if self._connected is None:
            self._connected = connect(self.module)
        with self._numerics.autocast():
            return self._connected(inputs)

    def finish_step(self, step: int, total_steps: int) -> None:
        """Let the average take up the weights."""
        if self._average is not None:
            self._average.update(self.module, step, total_steps)

    def get_average(self) -> Mapping[str, torch.Tensor]:
        """Return the averaged weights; empty where they are not averaged."""
        return {} if self._average is None else self._average.module.state_dict()

    def restore(self, weights: Mapping[str, torch.Tensor], average: Mapping[str, torch.Tensor]) -> None:
        """Take weights and average of an earlier run."""
        self.module.load_state_dict(dict(weights))
        if self._average is not None and average:
            self._average.restore(average)

    @property
    def _judged(self) -> nn.Module:
        return self.module if self._average is None else self._average.module

    def _infer(self, inputs: torch.Tensor) -> torch.Tensor:
        with self._numerics.autocast():
            return self._judged(inputs)

    def predict(self, split: str, progress: Progress) -> Predictions:
        """Evaluate the average of the weights, or the network as it is now, on `val` or `test`."""
        return self._predict(split, progress)

    def _predict(self, split: str, progress: Progress, is_mirrored: bool = False) -> Predictions:
        average_statistics(self.module)
        if self._average is not None:
            average_statistics(self._average.module)
        share = np.arange(len(getattr(self._splits.dataset, split)))[ranks.get_rank() :: ranks.get_size()]
        batches = progress.watch(self._splits.open(split).plain(EVALUATION_BATCH_SIZE, share))
        self._judged.eval()
        num_classes = len(self._splits.dataset.classes)
        indices, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        logits = [np.empty((0, num_classes), np.float32)]
        with torch.inference_mode():
            for batch in batches:
                indices.append(batch.indices)
                labels.append(batch.labels.numpy())
                images = batch.images.flip(3) if is_mirrored else batch.images
                logits.append(self._infer(self._to_network(images)).float().cpu().numpy())
        return gather_predictions(Predictions(np.concatenate(indices), np.concatenate(labels), np.concatenate(logits)))

    def load(self, model: nn.Module) -> None:
        """Take the weights of a whole network; training has ended."""
        self._average = None
        self.module.load_state_dict(model.state_dict())

    def get_state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights of the whole network, as it is judged."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._judged.state_dict().items()}

    def close(self) -> None:
        """Close the image readers."""
        self._splits.close()

    def _to_network(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self._start.preprocessing.mean, self._start.preprocessing.std
        return normalize(images, mean, std).to(self._numerics.device, memory_format=torch.channels_last)


def check_mirror(plain_logits: np.ndarray, mirrored_logits: np.ndarray, labels: np.ndarray) -> bool:
    """Tell whether mirrored images keep their class, by a head that never saw mirrored ones.

    The mirror is refused where it turns significantly more answers wrong than right, and more than a tenth of those
    that were right: McNemar's test at two standard errors, so that few images cannot condemn it.

    Args:
        plain_logits: (N, classes) of validation images.
        mirrored_logits: (N, classes) of the same images, mirrored.
        labels: (N,).
    """
    is_right, stays_right = plain_logits.argmax(1) == labels, mirrored_logits.argmax(1) == labels
    lost, won = int((is_right & ~stays_right).sum()), int((~is_right & stays_right).sum())
    is_significant = lost - won > 2 * math.sqrt(max(1, lost + won))
    return not (is_significant and lost - won > 0.1 * is_right.sum())


def _check_batch_norm(parameters: TrainParameters, recipe: Recipe) -> None:
    """Refuse what leaves batch normalization one value a channel: one image, of a process, of a last map of 1x1.

    Raises:
        ParameterError: It is so.
    """
    lowest = 2 * ranks.get_size()
    if recipe.batch_size < lowest and parameters.input_size == 32 and not parameters.small_input_stem:
        raise ParameterError(
            f"'batch_size' must be at least {lowest} where 'input_size' is 32 (batch normalization needs more than one "
            f"value a channel), got {recipe.batch_size}; set batch_size={lowest}, or a larger input_size"
        )
