"""How far two networks agree on the same images: what every export must show before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from resnetkit.answers.probabilities import softmax
from resnetkit.images.preprocessing import Preprocessing, normalize
from resnetkit.machine.progress import check_stop

if TYPE_CHECKING:
    from resnetkit.data.loading import Batch

#: Images (N, 3, S, S) uint8 to logits (N, num_classes).
Network = Callable[[torch.Tensor], np.ndarray]

#: Images between two looks at whether to stop: seconds of the largest networks.
_STEP = 8
#: Two classes closer than this are a tie, which rounding may decide either way.
_TIE = 1e-5


@dataclass
class Agreement:
    """Sums over the images on which a network was compared with a reference.

    Attributes:
        num_images: Images compared.
        num_same: Of them, those with the same most probable class.
        num_ties: Of the others, those whose two classes the reference cannot tell apart.
        max_difference: Largest difference of any probability.
        num_labelled: Images whose true class is known.
        num_right: Of them, those that the network classifies correctly.
        num_reference_right: Of them, those that the reference classifies correctly.
    """

    num_images: int = 0
    num_same: int = 0
    num_ties: int = 0
    max_difference: float = 0.0
    num_labelled: int = 0
    num_right: int = 0
    num_reference_right: int = 0

    def add(self, logits: np.ndarray, reference: np.ndarray, labels: np.ndarray | None) -> None:
        """Count a batch: twice (N, num_classes), and (N,) where the true classes are known."""
        expected, actual = softmax(reference), softmax(logits)
        top, other = expected.argmax(axis=1), actual.argmax(axis=1)
        rows = np.arange(len(top))
        is_tie = (top != other) & (expected[rows, top] - expected[rows, other] < _TIE)
        self.num_images += len(top)
        self.num_same += int((top == other).sum())
        self.num_ties += int(is_tie.sum())
        difference = np.abs(expected - actual).max()
        self.max_difference = max(self.max_difference, float(difference) if np.isfinite(difference) else np.inf)
        if labels is not None:
            self.num_labelled += len(labels)
            self.num_right += int((other == labels).sum())
            self.num_reference_right += int((top == labels).sum())

    @property
    def num_changed(self) -> int:
        """Images that got another class, ties apart."""
        return self.num_images - self.num_same - self.num_ties


def measure_agreement(
    network: Network, reference: Network, batches: Iterable[torch.Tensor] | Iterable[Batch]
) -> Agreement:
    """Run both networks on every batch; labels are counted where the batches carry them.

    Raises:
        TrainingStopped: The user asked for it.
        ValueError: There are no images.
    """
    agreement = Agreement()
    for batch in batches:
        images, labels = (batch, None) if isinstance(batch, torch.Tensor) else (batch.images, batch.labels.numpy())
        for start in range(0, len(images), _STEP):
            check_stop()
            part = slice(start, start + _STEP)
            agreement.add(network(images[part]), reference(images[part]), labels if labels is None else labels[part])
    if agreement.num_images == 0:
        raise ValueError("there are no images to compare it with PyTorch on")
    return agreement


def wrap_model(model: nn.Module, preprocessing: Preprocessing) -> Network:
    """Return a PyTorch model in evaluation mode as a `Network`, with normalization in front."""

    @torch.inference_mode()
    def compute_logits(images: torch.Tensor) -> np.ndarray:
        return model(normalize(images, preprocessing.mean, preprocessing.std)).numpy()

    return compute_logits
