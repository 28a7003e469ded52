"""Training of the head alone, on features that the frozen backbone computes once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnetkit.data.dataset import Samples, join_samples
from resnetkit.data.loading import Batch
from resnetkit.images.preprocessing import normalize
from resnetkit.learners.initialization import Start
from resnetkit.learners.learner import ImageSplits, Predictions, Preparation, shuffle
from resnetkit.learners.optimization import choose_criterion, compute_class_weights
from resnetkit.learners.recipe import Recipe, choose_epochs
from resnetkit.machine import ranks
from resnetkit.machine.imports import start_importing
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.training import TrainParameters
from resnetkit.probing.cross_validation import CrossValidation, cross_validate
from resnetkit.probing.feature_parts import FeatureParts
from resnetkit.probing.features import BATCH_SIZE, FeatureStore, compute_features
from resnetkit.probing.linear_probe import Labelled, ProbeOptions, ProbePath, solve_path
from resnetkit.probing.logistic_regression import Scaling
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, RuntimeOptions
from resnetkit.weights.models import add_counters

logger = get_logger()


#: What the end of a training needs, in this order. torch._dynamo is what every optimizer of torch imports.
_NEEDED_LATER = (
    "torch._dynamo",
    "torchvision.models",
    "sklearn.metrics",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "jinja2",
)


#: Logits of all images that cross-validation keeps: 512 MiB.
_MAX_KEPT_LOGITS = 1 << 27
#: Times what its features take that an image takes in training the whole network, about: forward and backward, the
#: optimizer, and PyTorch in place of OpenVINO.
_STEP_COST = 5
#: Views of training images that are kept to be shown, at most.
_NUM_SHOWN = 32


class HeadLearner:
    """The last layer: features of a frozen backbone in, gradients in one matrix.

    Each training image has the same number of views: the plain one and `cached_views` augmented ones, those
    that full training would see in its first epochs. A solved head fits all of them; else every epoch takes another
    view of an image.
    """

    def __init__(self, start: Start, splits: ImageSplits, parameters: TrainParameters, recipe: Recipe) -> None:
        self._start = start
        self._splits = splits
        self._parameters = parameters
        self._recipe = recipe
        self._labels = {
            split: getattr(splits.dataset, split).labels.astype(np.int64) for split in ("train", "val", "test")
        }
        self._runtime = open_runtime(
            _describe_network(start, parameters, len(splits.dataset.classes)),
            RuntimeOptions(device=parameters.device, precision=parameters.precision, is_for_batches=True),
            None,
        )
        self.numerics = f"{self._runtime.name} {self._runtime.device} {self._runtime.precision}"
        num_classes, feature_size = start.state_dict["fc.weight"].shape
        self.module = nn.Linear(feature_size, num_classes, device="meta")
        weights = {name: start.state_dict[f"fc.{name}"].clone() for name in ("weight", "bias")}
        self.module.load_state_dict(weights, assign=True)
        views = (None, *range(recipe.num_views))
        self._views: dict[str, tuple[int | None, ...]] = {"train": views, "val": (None,), "test": (None,)}
        self._stores: dict[str, FeatureStore] = {}
        self._shown: list[torch.Tensor] = []
        self._readable: dict[str, np.ndarray] = {}
        self._seconds_per_view: float | None = None

    def prepare(self, folder: Path, progress: Progress, is_resumed: bool = False) -> Preparation:  # noqa: ARG002
        """Compute the features of all images; beyond a bound they lie in `folder`."""
        if self._recipe.num_views and self._recipe.changes.kind == "strong":
            logger.info("mixup and cutmix mix images, not features; they are left out")
        elif not self._recipe.num_views and self._parameters.augmentation in ("basic", "strong"):
            logger.info("the head is trained on plain views; 'augmentation' needs 'cached_views' above 0")
        start_importing(_NEEDED_LATER)
        self.compute_features([split for split, labels in self._labels.items() if len(labels)], folder, progress)
        self._splits.forget()
        preprocessing = self._start.preprocessing
        shown = normalize(torch.cat(self._shown), preprocessing.mean, preprocessing.std) if self._shown else None
        return Preparation(self._recipe, shown=shown)

    def compute_features(self, splits: Sequence[str], folder: Path, progress: Progress) -> None:
        """Compute the features of all images of some splits, all views of each.

        Those of some thousand images are kept in parts in the run folder as they are computed: a process that goes on
        there, or another one of this training, does not compute them again.
        """
        self._folder, began = folder, time.monotonic()
        sizes = {split: (_count_images(self._views[split]), len(self._views[split])) for split in splits}
        parts = {split: FeatureParts(folder, split, len(self._labels[split]), *sizes[split]) for split in splits}
        missing = {split: each.list_missing() for split, each in parts.items()}
        num_batches = sum(each.count_batches(missing[split]) for split, each in parts.items())
        with progress.show("features", num_batches, "batch", share=0.7) as bar:
            for split, (count, num_views) in sizes.items():
                store = FeatureStore(len(self._labels[split]) * num_views, self.module.in_features, folder)
                self._stores[split] = store
                for share in missing[split]:
                    batches = self._splits.open(split).views(count, self._views[split], share)
                    batches = self._keep_shown(split, progress.watch(batches, bar))
                    if parts[split].are_kept:
                        parts[split].compute(self._runtime, share, batches)
                    else:
                        self._readable[split] = compute_features(self._runtime, batches, store, num_views)
                ranks.gather(None)  # all parts are there
                if parts[split].are_kept and ranks.is_first():
                    self._readable[split] = parts[split].load(store)
        if all(sum(map(len, missing[split])) == len(self._labels[split]) for split in splits):
            num_views = sum(len(self._labels[split]) * sizes[split][1] for split in splits)
            self._seconds_per_view = (time.monotonic() - began) / num_views

    def estimate_network_seconds(self) -> float | None:
        """Return about how long the whole network would train here; None where features were not all computed now."""
        if self._seconds_per_view is None:
            return None
        num_train, num_val = len(self._labels["train"]), len(self._labels["val"])
        views = choose_epochs(has_weights=True, num_images=num_train) * (_STEP_COST * num_train + num_val)
        return views * self._seconds_per_view

    def _keep_shown(self, split: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Keep all views of a few training images, from the first class to the last."""
        step = -(-len(self._labels[split]) * len(self._views[split]) // _NUM_SHOWN)
        for batch in batches:
            if split == "train":
                is_shown = torch.from_numpy(batch.indices % step == 0)
                self._shown += [batch.images[is_shown]] if is_shown.any() else []
            yield batch

    def solve(self, progress: Progress) -> ProbePath:
        """Solve the head, and take the weights of the best strength."""
        options = replace(self._choose_options(), num_views=len(self._views["train"]))
        path = solve_path(self._read("train"), self._read("val"), self.module.out_features, options, progress)
        self.set_weights(path.chosen.weight, path.chosen.bias)
        return path

    def cross_validate(
        self, choice: tuple[Scaling, float], progress: Progress
    ) -> tuple[Samples, CrossValidation] | None:
        """Answer for every readable image of all splits by heads that did not see it, fitted to plain views.

        Args:
            choice: Scaling and strength of the head that was kept.
            progress: Shows a bar, and stops within a second.

        Returns:
            The images, and what the heads say; None where that would be too much to keep.
        """
        num_images, num_classes = sum(map(len, self._readable.values())), self.module.out_features
        if num_images * num_classes > _MAX_KEPT_LOGITS:
            logger.info("%d images of %d classes are too many for cross-validation", num_images, num_classes)
            return None
        parts: list[Samples] = []
        with closing(FeatureStore(num_images, self.module.in_features, self._folder)) as store:
            for split, indices in self._readable.items():
                features = self._stores[split].read()
                for start in range(0, len(indices), 4096):
                    progress.check()
                    block = indices[start : start + 4096]
                    rows = np.arange(start, start + len(block)) + sum(map(len, parts))
                    store.write(rows, features[block * len(self._views[split])])
                parts.append(getattr(self._splits.dataset, split).select(indices))
            samples = join_samples(parts)
            images = Labelled(store.read(), samples.labels.astype(np.int64))
            groups = _number_groups(samples, self._splits.dataset.groups)
            options = replace(
                self._choose_options(), scalings=choice[:1], strengths=choice[1:], num_folds=self._parameters.folds
            )
            return samples, cross_validate(images, groups, num_classes, options, progress)

    def _choose_options(self) -> ProbeOptions:
        num_classes = self.module.out_features
        weights = compute_class_weights(self._parameters.class_weights, self._labels["train"], num_classes)
        return ProbeOptions(
            class_weights=None if weights is None else weights.numpy(),
            label_smoothing=self._recipe.label_smoothing if self._recipe.is_solved else 0.0,
            is_balanced=choose_criterion(self._parameters.class_weights, self._splits.dataset).is_balanced,
        )

    def set_weights(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """Take weights (classes, feature size) and bias (classes,)."""
        self.module.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})

    def predict_mirrored(self, progress: Progress) -> np.ndarray:
        """Return the (N, classes) logits of the mirrored validation images."""
        logits = []
        with torch.inference_mode():
            for batch in progress.watch(self._splits.open("val").plain(BATCH_SIZE)):
                pooled = self._runtime.run(batch.images.flip(3).numpy(), with_features=True).pooled
                logits.append(self.module(torch.from_numpy(pooled)).numpy())
        return np.concatenate(logits)

    def review(self, epoch: int, accuracy: float, progress: Progress) -> Recipe:  # noqa: ARG002
        """Return the recipe as it is."""
        return self._recipe

    def finish_step(self, step: int, total_steps: int) -> None:
        """Do nothing: the weights are not averaged."""

    def get_average(self) -> Mapping[str, torch.Tensor]:
        """Return no weights."""
        return {}

    def restore(self, weights: Mapping[str, torch.Tensor], average: Mapping[str, torch.Tensor]) -> None:  # noqa: ARG002
        """Take the weights of a head."""
        self.module.load_state_dict(dict(weights))

    def count_batches(self) -> int:
        """Return the number of steps of an epoch."""
        return -(-len(self._labels["train"]) // self._recipe.batch_size)

    def read_batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield features (N, feature size) and their labels."""
        labels, features = self._labels["train"], self._stores["train"].read()
        order = shuffle(self._readable["train"], self._parameters.seed, epoch)
        for start in range(0, len(order), self._recipe.batch_size):
            indices = order[start : start + self._recipe.batch_size]
            num_views = len(self._views["train"])
            rows = indices * num_views + (epoch + indices) % num_views
            yield torch.from_numpy(features[rows]), torch.from_numpy(labels[indices])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (N, classes) logits, with gradients."""
        logits: torch.Tensor = self.module(inputs)
        return logits

    def predict(self, split: str, progress: Progress) -> Predictions:
        """Evaluate the head as it is now on `val` or `test`."""
        progress.check()
        indices = self._readable[split]
        logits = np.empty((len(indices), self.module.out_features), np.float32)
        with torch.inference_mode():
            for start in range(0, len(indices), 4096):
                rows = self._stores[split].read()[indices[start : start + 4096]]
                logits[start : start + 4096] = self.module(torch.from_numpy(rows)).numpy()
        return Predictions(indices, self._labels[split][indices], logits)

    def load(self, model: nn.Module) -> None:
        """Take the head of a whole network."""
        assert isinstance(model.fc, nn.Linear)
        self.module.load_state_dict(model.fc.state_dict())

    def get_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights of the whole network: the backbone's as they were, and a copy of the head's."""
        head = {f"fc.{name}": value.detach().clone() for name, value in self.module.state_dict().items()}
        return {**add_counters(self._start.state_dict), **head}

    def close(self) -> None:
        """Give the features and the image readers back."""
        self.close_features()
        self._splits.close()

    def close_features(self) -> None:
        """Give the features back."""
        while self._stores:
            self._stores.popitem()[1].close()

    def _read(self, split: str) -> Labelled:
        """Return features and labels of the readable images, all views of each."""
        indices, num_views = self._readable[split], len(self._views[split])
        features, labels = self._stores[split].read(), np.repeat(self._labels[split], num_views)
        if len(indices) == len(self._labels[split]):
            return Labelled(features, labels)  # perhaps mapped from a file: not copied
        rows = (indices[:, None] * num_views + np.arange(num_views)).ravel()
        return Labelled(features[rows], labels[rows])


def _count_images(views: Sequence[int | None]) -> int:
    """Return how many images, with all their views, the backbone sees at a time."""
    return max(1, BATCH_SIZE // len(views))


def _number_groups(samples: Samples, groups: Mapping[str, str]) -> np.ndarray:
    """Return a number for each image, (N,) int64; images of the same group have the same."""
    numbers: dict[tuple[bool, str], int] = {}
    keys = ((path in groups, groups.get(path, path)) for path in samples.paths.write())
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _describe_network(start: Start, parameters: TrainParameters, num_classes: int) -> NetworkSource:
    return NetworkSource(
        model_name=parameters.model_name,
        num_classes=num_classes,
        small_input_stem=parameters.small_input_stem,
        mean=start.preprocessing.mean,
        std=start.preprocessing.std,
        content_hash=start.content_hash,
        input_size=parameters.input_size,
        read_state_dict=lambda: start.state_dict,
        graph_path=None,
    )
