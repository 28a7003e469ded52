"""From logits to probabilities, and to steady ones on video: a moving average."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn (N, num_classes) logits into probabilities, float64, so that they sum to 1."""
    # In numpy: torch would wake its threads, which takes longer than the thousand numbers do.
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class ProbabilitySmoother:
    """Exponential moving average of one stream's probabilities; starts anew when the stream changes."""

    def __init__(self) -> None:
        self._stream: Hashable = None
        self._average: np.ndarray | None = None

    def reset(self) -> None:
        """Forget all frames."""
        self._stream = self._average = None

    def update(self, probabilities: np.ndarray, share: float, stream: Hashable) -> np.ndarray:
        """Take in one frame.

        Args:
            probabilities: (num_classes,) of this frame.
            share: Weight of the frames before, 0..1; 0 returns this frame's own.
            stream: What identifies the video and the network; another one than at the last call starts anew.

        Returns:
            (num_classes,) float32: share x average so far + (1 - share) x this frame.
        """
        if self._average is None or stream != self._stream:
            self._average = probabilities
        else:
            self._average = (share * self._average + (1 - share) * probabilities).astype(np.float32)
        self._stream = stream
        return self._average
