"""Labels that may be wrong: images whose class models that did not see them doubt most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnetkit.data.dataset import Samples
from resnetkit.folders.cells import write_path, write_text
from resnetkit.folders.tables import write_csv
from resnetkit.images.pixels import ValueRange
from resnetkit.results.pictures import DoubtfulLabel, collect_doubts

DOUBTS_NAME = "doubtful_labels.csv"

_COLUMNS = ("path", "label", "suggested", "label_probability", "suggested_probability")


@dataclass(frozen=True)
class LabelDoubts:
    """Labelled images, what models that did not see them say, and which labels that calls into question.

    Attributes:
        classes: Names in the order of the outputs.
        samples: The images; labels are indices into `classes`.
        probabilities: (num_images, num_classes).
        doubtful: Images and the class suggested instead, the most doubtful first.
    """

    classes: Sequence[str]
    samples: Samples
    probabilities: np.ndarray
    doubtful: Sequence[tuple[int, int]]

    def write(self, folder: Path) -> None:
        """Write the doubtful ones as CSV, the most doubtful first; a spreadsheet runs no cell of it."""
        rows = [list(_COLUMNS)]
        for index, suggested in self.doubtful:
            sample, row = self.samples[index], self.probabilities[index]
            names = (write_text(self.classes[label]) for label in (sample.label, suggested))
            numbers = (f"{row[label]:.6g}" for label in (sample.label, suggested))
            rows.append([write_path(sample.path.absolute()), *names, *numbers])
        write_csv(folder / DOUBTS_NAME, rows)

    def show(self, value_range: ValueRange | None) -> list[DoubtfulLabel]:
        """Return pictures of the most doubtful ones, for the report.

        Args:
            value_range: What is black and white in images of more than 8 bits.
        """
        return collect_doubts(self.samples, self.classes, self.probabilities, self.doubtful, value_range)


def doubt_labels(classes: Sequence[str], samples: Samples, probabilities: np.ndarray) -> LabelDoubts:
    """Find the labels that may be wrong, see `find_doubtful`."""
    return LabelDoubts(classes, samples, probabilities, find_doubtful(samples.labels, probabilities))


def find_doubtful(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, int]]:
    """Find labels that may be wrong by confident learning: the off-diagonal of the confident joint.

    A class is plausible for an image from the mean probability on that the images of the class have for it, so that a
    class of which the model is never sure is not doubted as a whole. A label is doubted where the most probable of the
    plausible classes is another one; the order is that of the margin between the two. Northcutt, Jiang and Chuang,
    "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 2021), section 3.1.

    Args:
        labels: (num_images,) as given.
        probabilities: (num_images, num_classes) of models that did not see the image.

    Returns:
        Image and suggested class, the most doubtful first.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, own, minlength=probabilities.shape[1])
    # A class without images has no mean, and is suggested to nobody.
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    plausible = np.where(probabilities >= thresholds, probabilities, -1)
    suggested = plausible.argmax(axis=1)
    is_doubtful = (suggested != labels) & (plausible[rows, suggested] > np.maximum(own, 0))
    margins = own - probabilities[rows, suggested]
    found = np.flatnonzero(is_doubtful)
    found = found[np.argsort(margins[found], kind="stable")]
    return [(int(index), int(suggested[index])) for index in found]
