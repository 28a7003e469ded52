"""Training of the head alone, on features that the frozen backbone computes once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnetkit.learners.features import BATCH_SIZE, FeatureStore, compute_features
from resnetkit.learners.initialization import Start
from resnetkit.learners.learner import ImageSplits, Predictions, shuffle
from resnetkit.machine.imports import start_importing
from resnetkit.machine.progress import Progress, ProgressBar
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.training import TrainParameters
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


class HeadLearner:
    """The last layer: features of a frozen backbone in, gradients in one matrix.

    Each training image has the same number of views: the plain one and `cached_views` augmented ones, those
    that full training would see in its first epochs. Every epoch takes another view of an image.
    """

    def __init__(self, start: Start, splits: ImageSplits, parameters: TrainParameters) -> None:
        self._start = start
        self._splits = splits
        self._parameters = parameters
        self._labels = {
            split: np.array([sample.label for sample in getattr(splits.dataset, split)], np.int64)
            for split in ("train", "val", "test")
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
        self._views: dict[str, tuple[int | None, ...]] = {"train": splits.views, "val": (None,), "test": (None,)}
        self._stores: dict[str, FeatureStore] = {}
        self._readable: dict[str, np.ndarray] = {}

    def prepare(self, folder: Path, progress: Progress) -> None:
        """Compute the features of all images; beyond a bound they lie in `folder`."""
        if self._parameters.augmentation != "none" and len(self._views["train"]) == 1:
            logger.info("the head is trained on plain views; 'augmentation' needs 'cached_views' above 0")
        elif self._parameters.augmentation == "strong":
            logger.info("mixup and cutmix mix images, not features; they are left out")
        self._folder = folder
        start_importing(_NEEDED_LATER)
        splits = [split for split, labels in self._labels.items() if len(labels)]
        with progress.show("features", sum(map(self._count_feature_batches, splits)), unit="batch") as bar:
            for split in splits:
                self._compute(split, progress, bar)
        self._splits.forget()

    def count_batches(self) -> int:
        """Return the number of steps of an epoch."""
        return -(-len(self._labels["train"]) // self._parameters.batch_size)

    def read_batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield features (N, feature size) and their labels."""
        labels, features = self._labels["train"], self._stores["train"].read()
        order = shuffle(self._readable["train"], self._parameters.seed, epoch)
        for start in range(0, len(order), self._parameters.batch_size):
            indices = order[start : start + self._parameters.batch_size]
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
        while self._stores:
            self._stores.popitem()[1].close()
        self._splits.close()

    def _compute(self, split: str, progress: Progress, bar: ProgressBar) -> None:
        """Compute the features of a split, all views of its images."""
        views = self._views[split]
        store = FeatureStore(len(self._labels[split]) * len(views), self.module.in_features, self._folder)
        self._stores[split] = store
        batches = self._splits.open(split).views(_count_images(views), views)
        self._readable[split] = compute_features(self._runtime, progress.watch(batches, bar), store, len(views))

    def _count_feature_batches(self, split: str) -> int:
        """Return in how many batches the features of a split are computed."""
        return -(-len(self._labels[split]) // _count_images(self._views[split]))


def _count_images(views: Sequence[int | None]) -> int:
    """Return how many images, with all their views, the backbone sees at a time."""
    return max(1, BATCH_SIZE // len(views))


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
