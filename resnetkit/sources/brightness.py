"""The brightness range of a data set: one for all its images, so that a dark image stays a dark one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from resnetkit.images.inspection import Inspections
from resnetkit.images.pixels import ImageError, ValueRange
from resnetkit.images.ranges import Values, find_common_range, measure_values
from resnetkit.images.reading import DEEP_SUFFIXES, IMAGE_SUFFIXES, read_depth, read_values
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.threads import map_in_threads
from resnetkit.sources.paths import PathList

logger = get_logger()

#: Files of these endings have 8 bits, and are not opened.
_SHALLOW_SUFFIXES = frozenset(IMAGE_SUFFIXES) - DEEP_SUFFIXES
#: Images that are measured, evenly spread over the training split.
_MAX_MEASURED = 1000


def find_value_range(source: Path, paths: PathList, max_megapixels: float, progress: Progress) -> ValueRange | None:
    """Find what is black and what is white in the training images of more than 8 bits.

    Files say how many bits they use, or their values show it, but for a few pixels of a few images. What was measured
    is kept, so that a later start reads only files that have changed.

    Args:
        source: Folder or table of the data set.
        paths: The training images.
        max_megapixels: Larger images are left out.
        progress: Shows a bar, and may stop between two images.

    Returns:
        Black and white; None where all images have 8 bits, or one range cannot serve both integers and floats.
    """
    chosen = _spread(paths.select(i for i, path in enumerate(paths) if path.suffix.lower() not in _SHALLOW_SUFFIXES))
    if not chosen:
        return None

    with (
        closing(Inspections(source)) as inspections,
        progress.show("measuring brightness", len(chosen), unit="image") as bar,
    ):

        def measure(path: Path) -> Values | None:
            is_known, values = inspections.find_values(path)
            if is_known:
                return values
            try:
                depth = read_depth(path)
                values = measure_values(read_values(path, max_megapixels), depth.used_bits) if depth.is_deep else None
            except ImageError:
                return None  # `check_images` says so.
            inspections.keep_values(path, values)
            return values

        measured = [values for values in progress.watch(map_in_threads(measure, chosen), bar) if values is not None]
    if len({values.is_float for values in measured}) > 1:
        logger.warning(
            "some images hold integers of more than 8 bits and others floats, so their type decides what is white: "
            "65535 in 16 bits, 1 in floats; set 'value_range', or convert them to one kind"
        )
        return None
    found = find_common_range(measured)
    if found is not None:
        logger.info("values of %g are black and of %g white in images of more than 8 bits", *found)
    return found


def _spread(paths: Sequence[Path]) -> Sequence[Path]:
    """Return some of the files, evenly spread, or all of them."""
    if len(paths) <= _MAX_MEASURED:
        return paths
    return [paths[index * len(paths) // _MAX_MEASURED] for index in range(_MAX_MEASURED)]
