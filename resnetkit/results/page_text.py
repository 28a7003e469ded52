"""Numbers, pictures and findings as the report page shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

#: Pictures up to this side are shown enlarged and without smoothing; JPEG would smear them.
_SMALL_PICTURE = 96


def format_percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage, a dash where there is none; 100.0 % only where nothing is missing."""
    if share is None:
        return "–"
    rounded = round(100 * share, digits)
    if rounded >= 100 and share < 1:
        rounded = 100 - 10**-digits
    return f"{rounded:.{digits}f} %"


def format_duration(seconds: float) -> str:
    """Return a duration in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def estimate_duration(seconds: float) -> str:
    """Return a duration as it can be foretold: in tens of seconds, in minutes, or in hours."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.0f} hours"


def format_date(text: str) -> str:
    """Return an ISO 8601 date and time to the minute; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}"
    except ValueError:
        return text


def format_size(num_bytes: float) -> str:
    """Return a file's size in the unit that fits."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def encode_picture(image: np.ndarray) -> str:
    """Return an RGB image (height, width, 3) uint8 as a data address: JPEG, or PNG where it is small."""
    from PIL import Image

    buffer = io.BytesIO()
    if is_small(image):
        Image.fromarray(image).save(buffer, "png", optimize=True)
        return to_address(buffer.getvalue(), "image/png")
    Image.fromarray(image).save(buffer, "jpeg", quality=85)
    return to_address(buffer.getvalue(), "image/jpeg")


def describe_finding(entry: Any) -> str:
    """Return one entry of the data report as a line of text."""
    if isinstance(entry, Mapping) and "train_path" in entry:
        return f"{entry['path']} ≈ {entry['train_path']} ({entry['similarity']:.3f})"
    if isinstance(entry, Mapping):
        return ": ".join(describe_finding(value) for value in entry.values())
    if isinstance(entry, Iterable) and not isinstance(entry, str):
        return " = ".join(describe_finding(value) for value in entry)
    return str(entry)


def describe_sizes(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """Return the image sizes of the data report in words: smallest, largest and median; empty where it has none."""
    if not sizes:
        return ""
    smallest, median, largest = (
        f"{sizes['width'][name]} × {sizes['height'][name]}" for name in ("smallest", "median", "largest")
    )
    return f"{smallest} pixels" if smallest == largest else f"{smallest} to {largest} pixels (median {median})"


def is_small(image: np.ndarray) -> bool:
    """Tell whether an image (height, width, 3) is shown enlarged, pixel by pixel."""
    return max(image.shape[:2]) <= _SMALL_PICTURE


def to_address(content: bytes, media_type: str) -> str:
    """Return a file's content as a data address."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
