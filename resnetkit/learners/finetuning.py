"""Training of the whole network on images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

from resnetkit.data.augmentation import mix_batch
from resnetkit.images.preprocessing import normalize
from resnetkit.learners.initialization import Start
from resnetkit.learners.learner import ImageSplits, Predictions, shuffle
from resnetkit.learners.optimization import Numerics
from resnetkit.machine.progress import Progress
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.weights.models import load_model

#: Images of one forward pass without gradients; of more, what layers pass on no longer fits a CPU's caches.
EVALUATION_BATCH_SIZE = 16


class NetworkLearner:
    """The whole network: augmented images in, gradients in every layer."""

    def __init__(self, start: Start, splits: ImageSplits, parameters: TrainParameters, numerics: Numerics) -> None:
        _check_batch_norm(parameters)
        # The starting weights may be mapped from the user's file: train on a copy.
        weights = {name: tensor.clone() for name, tensor in start.state_dict.items()}
        model = load_model(parameters.model_name, weights, parameters.small_input_stem).requires_grad_(True)
        self.module = model.to(numerics.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.numerics = f"torch {numerics.device} {numerics.precision}"
        self._numerics = numerics
        self._splits = splits
        self._parameters = parameters
        self._preprocessing = start.preprocessing

    def prepare(self, folder: Path, progress: Progress) -> None:
        """Do nothing: images are read as they are needed."""

    def count_batches(self) -> int:
        """Return the number of steps of an epoch."""
        return -(-len(self._splits.dataset.train) // self._parameters.batch_size)

    def read_batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield normalized images (N, 3, S, S) and their targets.

        A batch of a single image, as the last one may be, is left out where batches are larger: batch normalization
        would divide by a deviation of zero. The order changes with the epoch, so the image left out does, too.
        """
        parameters = self._parameters
        order = shuffle(np.arange(len(self._splits.dataset.train)), parameters.seed, epoch)
        for batch in self._splits.open("train").augmented(parameters.batch_size, epoch, order):
            if len(batch.indices) == 1 and parameters.batch_size > 1:
                continue
            images, targets = batch.images, batch.labels
            if parameters.augmentation == "strong":
                shares = F.one_hot(targets, len(self._splits.dataset.classes)).float()
                images, targets = mix_batch(images, shares, parameters.seed, epoch, batch.indices)
            yield self._to_network(images), targets.to(self._numerics.device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (N, classes) logits, with gradients."""
        with self._numerics.autocast():
            return self.module(inputs)

    def predict(self, split: str, progress: Progress) -> Predictions:
        """Evaluate the network as it is now on `val` or `test`."""
        batches = progress.watch(self._splits.open(split).plain(EVALUATION_BATCH_SIZE))
        self.module.eval()
        indices, labels, logits = [], [], []
        with torch.inference_mode():
            for batch in batches:
                indices.append(batch.indices)
                labels.append(batch.labels.numpy())
                logits.append(self.forward(self._to_network(batch.images)).float().cpu().numpy())
        return Predictions(np.concatenate(indices), np.concatenate(labels), np.concatenate(logits))

    def load(self, model: nn.Module) -> None:
        """Take the weights of a whole network."""
        self.module.load_state_dict(model.state_dict())

    def get_state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights of the whole network."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.module.state_dict().items()}

    def close(self) -> None:
        """Close the image readers."""
        self._splits.close()

    def _to_network(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self._preprocessing.mean, self._preprocessing.std
        return normalize(images, mean, std).to(self._numerics.device, memory_format=torch.channels_last)


def _check_batch_norm(parameters: TrainParameters) -> None:
    """Refuse what leaves batch normalization one value a channel: one image whose last feature map is 1x1.

    Raises:
        ParameterError: It is so.
    """
    if parameters.batch_size == 1 and parameters.input_size == 32 and not parameters.small_input_stem:
        raise ParameterError(
            "'batch_size' must be at least 2 where 'input_size' is 32 (batch normalization needs "
            "more than one value a channel), got 1; set batch_size=2, or a larger input_size"
        )
