"""The images of a folder that are nearest to another one, by the angle between their feature vectors."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnetkit.folders.classification import NoImagesError
from resnetkit.folders.classifier import Classifier
from resnetkit.folders.listing import ListedFile, Source, list_files
from resnetkit.folders.pictures import draw_contact_sheet
from resnetkit.images.pixels import ValueRange
from resnetkit.images.reading import read_image
from resnetkit.machine.progress import Progress, Stopped


@dataclass(frozen=True)
class SimilarImage:
    """An image near to the one that was looked for.

    Attributes:
        path: Its file.
        name: What it is called in a picture: its path below the folder that was searched.
        similarity: Cosine of the angle between the feature vectors, at most 1.
        label: The model's answer.
    """

    path: Path
    name: str
    similarity: float
    label: str


def find_similar(
    classifier: Classifier,
    query: Path,
    sources: Source | Iterable[Source],
    count: int = 9,
    progress: Progress | None = None,
) -> list[SimilarImage]:
    """Find the images nearest to another one; the file itself is left out, copies of it are not.

    Args:
        classifier: A model that was loaded with `embedding=True`.
        query: What to look for.
        sources: Where: files, folders, patterns, lists; see `list_files`.
        count: How many to return.
        progress: Shows a bar, and may stop after any image.

    Returns:
        At most `count` images, nearest first; files that cannot be read are left out.

    Raises:
        ImageError: The query cannot be read.
        NoImagesError: The sources name no other image that can be read.
        Stopped: The user asked for it.
    """
    progress = progress or Progress()
    sought = _normalize(classifier.predict(query).embedding)
    nearest: list[tuple[float, int, SimilarImage]] = []
    order = itertools.count()
    with progress.show("searching", None, "image") as bar:
        for file, answer in classifier.answer(_leave_out(list_files(sources), query)):
            bar.update()
            if progress.is_stop_requested():
                raise Stopped("stopped on request; nothing was written")
            if answer.embedding is None:
                continue
            similarity = float(_normalize(answer.embedding) @ sought)
            found = SimilarImage(file.path, str(file.name), similarity, answer.label)
            # Of equal ones the first stays.
            heapq.heappush(nearest, (similarity, -next(order), found))
            if len(nearest) > count:
                heapq.heappop(nearest)
    if not nearest:
        raise NoImagesError("there is no other image that can be read")
    return [found for _, _, found in sorted(nearest, reverse=True)]


def draw_similar(query: Path, found: Iterable[SimilarImage], value_range: ValueRange | None = None) -> np.ndarray:
    """Return a contact sheet, (height, width, 3) uint8 RGB: the query, and what was found with similarity and label."""
    read = partial(read_image, value_range=value_range)
    tiles = [(read(each.path), each.name, f"{each.similarity:.3f}  {each.label}") for each in found]
    return draw_contact_sheet((read(query), query.name), tiles)


def _leave_out(files: Iterable[ListedFile], query: Path) -> Iterable[ListedFile]:
    itself = query.resolve()
    return (file for file in files if file.path.resolve() != itself)


def _normalize(vector: np.ndarray | None) -> np.ndarray:
    assert vector is not None, "the model was loaded without embedding=True"
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
