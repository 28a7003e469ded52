"""Pictures for the report: samples of the classes, and the worst mistakes with what the network looked at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resnetkit.answers.heatmaps import class_activation_map, overlay_heatmap
from resnetkit.images.pixels import ImageError, ValueRange
from resnetkit.images.reading import read_image
from resnetkit.machine.speaking import get_logger
from resnetkit.results.metrics import find_worst_mistakes

if TYPE_CHECKING:
    import torch

    from resnetkit.answers.model import Model
    from resnetkit.data.dataset import Sample, Samples
    from resnetkit.images.preprocessing import Preprocessing

logger = get_logger()

#: Longest side in pixels of a picture in the report.
PICTURE_SIZE = 288
#: Fewer cells on a side than this point at nothing: each would be a quarter of the image or more, and the colours
#: between their centres are made up.
_MIN_HEATMAP_CELLS = 4
#: Labels that may be wrong: these many are shown.
_MAX_DOUBTS = 12
#: Images on the sheet of training samples, how many stand side by side, and the pixels between them.
_MAX_TILES, _TILE_COLUMNS, _TILE_GAP = 32, 8, 2
#: 20 images of 224x224 pixels at a time, or one of 1024x1024: the largest take half a gigabyte each.
_MAX_BATCH_PIXELS = 1 << 20


@dataclass(frozen=True)
class SamplePicture:
    """One image of the data set.

    Attributes:
        image: RGB, (height, width, 3) uint8, of `PICTURE_SIZE` or smaller.
        class_name: Its class.
    """

    image: np.ndarray
    class_name: str


@dataclass(frozen=True)
class Mistake:
    """One image that the model classified wrongly.

    Attributes:
        image: RGB, (height, width, 3) uint8, of `PICTURE_SIZE` or smaller.
        heatmap: The image with the class activation map of the predicted class over it; None shows the image alone.
        file_name: Name of the file, without folders.
        true_class: What it is.
        predicted_class: What the model said.
        true_probability: Probability that the model gave to the true class, 0..1.
        predicted_probability: Probability of the predicted class, 0..1.
    """

    image: np.ndarray
    heatmap: np.ndarray | None
    file_name: str
    true_class: str
    predicted_class: str
    true_probability: float
    predicted_probability: float


@dataclass(frozen=True)
class DoubtfulLabel:
    """One image whose label may be wrong.

    Attributes:
        image: RGB, (height, width, 3) uint8, of `PICTURE_SIZE` or smaller.
        file_name: Name of the file with its folder.
        label: Its class, as given.
        suggested: What models that did not see it say.
        label_probability: Probability that they gave to the label, 0..1.
        suggested_probability: Probability of what they say, 0..1.
    """

    image: np.ndarray
    file_name: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


def tile_batch(images: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray:
    """Lay the first images of a batch side by side, as the network sees them: what shows a wrong setting first.

    Args:
        images: (N, 3, S, S), normalized.
        preprocessing: With the mean and deviation that they were normalized by.

    Returns:
        RGB, (height, width, 3) uint8: up to four rows of eight.
    """
    batch = images[:_MAX_TILES].detach().float().cpu().permute(0, 2, 3, 1).numpy()
    mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    shown = batch * std + mean  # (n, S, S, 3), 0..1
    tiles = (255 * shown).round().clip(0, 255).astype(np.uint8)
    side, columns = tiles.shape[1] + _TILE_GAP, min(len(tiles), _TILE_COLUMNS)
    sheet = np.full((side * -(-len(tiles) // columns) - _TILE_GAP, side * columns - _TILE_GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = side * (number // columns), side * (number % columns)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def collect_samples(
    samples: Samples, classes: Sequence[str], value_range: ValueRange | None = None, count: int = 24
) -> list[SamplePicture]:
    """Read some images of a data set for the report: every class gets one before any gets a second.

    Images that cannot be read are left out.
    """
    labels = np.unique(samples.labels).tolist()
    if len(labels) > count:  # classes spread over the whole list
        labels = [labels[round(index)] for index in np.linspace(0, len(labels) - 1, count)]
    by_class = (np.flatnonzero(samples.labels == label)[:count].tolist() for label in labels)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_class))
    chosen = itertools.islice((index for index in turns if index is not None), count)
    pictures = []
    for sample in sorted((samples[index] for index in chosen), key=lambda sample: sample.label):
        image = _read_image(sample, value_range)
        if image is not None:
            pictures.append(SamplePicture(_shrink(image), classes[sample.label]))
    return pictures


def collect_mistakes(model: Model, samples: Samples, probabilities: np.ndarray, count: int = 12) -> list[Mistake]:
    """Read the images that were classified wrongly with the most confidence, and draw what the network looked at.

    Args:
        model: With the weights that made the predictions.
        samples: The images, in the order of the predictions.
        probabilities: (num_images, num_classes).
        count: How many at most.

    Returns:
        The mistakes, the most confident first; images that can no longer be read are left out.
    """
    worst = find_worst_mistakes(samples.labels, probabilities, count)
    value_range = model.preprocessing.value_range
    found = [(index, image) for index in worst if (image := _read_image(samples[index], value_range)) is not None]
    activations = _compute_activations(
        model, [image for _, image in found], [probabilities[i].argmax() for i, _ in found]
    )
    mistakes = []
    for (index, image), activation in zip(found, activations, strict=True):
        sample, picture = samples[index], _shrink(image)
        predicted = int(probabilities[index].argmax())
        mistakes.append(
            Mistake(
                image=picture,
                heatmap=_draw_heatmap(model, picture, activation),
                file_name=sample.path.name,
                true_class=model.classes[sample.label],
                predicted_class=model.classes[predicted],
                true_probability=float(probabilities[index, sample.label]),
                predicted_probability=float(probabilities[index, predicted]),
            )
        )
    return mistakes


def collect_doubts(
    samples: Samples,
    classes: Sequence[str],
    probabilities: np.ndarray,
    doubtful: Sequence[tuple[int, int]],
    value_range: ValueRange | None = None,
) -> list[DoubtfulLabel]:
    """Read the first images whose labels may be wrong; those that can no longer be read are left out.

    Args:
        samples: All images, in the order of the predictions.
        classes: Names in the order of the labels.
        probabilities: (num_images, num_classes).
        doubtful: Indices of images and of the classes suggested, the most doubtful first.
        value_range: What is black and white in images of more than 8 bits.
    """
    pictures = []
    for index, suggested in doubtful[:_MAX_DOUBTS]:
        sample, row = samples[index], probabilities[index]
        image = _read_image(sample, value_range)
        if image is not None:
            name = f"{sample.path.parent.name}/{sample.path.name}"
            own, other = float(row[sample.label]), float(row[suggested])
            pictures.append(DoubtfulLabel(_shrink(image), name, classes[sample.label], classes[suggested], own, other))
    return pictures


def _draw_heatmap(model: Model, picture: np.ndarray, activation: np.ndarray) -> np.ndarray | None:
    if min(activation.shape) < _MIN_HEATMAP_CELLS:
        return None
    return overlay_heatmap(picture, activation, model.preprocessing)


def _read_image(sample: Sample, value_range: ValueRange | None) -> np.ndarray | None:
    try:
        return read_image(sample.path, value_range=value_range)
    except (ImageError, OSError) as error:
        logger.warning("'%s' is left out of the report: %s", sample.path, error)
        return None


def _shrink(image: np.ndarray) -> np.ndarray:
    import cv2

    scale = PICTURE_SIZE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _compute_activations(model: Model, images: Sequence[np.ndarray], class_indices: Sequence[int]) -> list[np.ndarray]:
    """Return the class activation map of a class for each image (height, width, 3) uint8: (h, w) float32."""
    preprocessing, weights = model.preprocessing, model.runtime.read_head_weights()
    step = max(1, _MAX_BATCH_PIXELS // preprocessing.input_size**2)
    activations = []
    for start in range(0, len(images), step):
        batch = [preprocessing.prepare(image) for image in images[start : start + step]]
        feature_maps = model.runtime.run(np.stack(batch), with_features=True).feature_map
        assert feature_maps is not None
        chosen = class_indices[start : start + step]
        activations += [class_activation_map(*pair) for pair in zip(feature_maps, weights[chosen], strict=True)]
    return activations
