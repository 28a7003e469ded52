"""Why the network answered as it did: class activation maps, laid over the picture."""

from __future__ import annotations

import numpy as np

from resnetkit.images.preprocessing import Preprocessing

#: Opacity of the colours where the activation is highest.
_MAX_OPACITY = 0.6
#: Pixels that are blended at a time, so that memory stays bounded on very large images.
_STRIP_PIXELS = 1 << 20


def class_activation_map(feature_map: np.ndarray, class_weights: np.ndarray) -> np.ndarray:
    """Weigh the channels of the last feature map by the weights of one class, negative parts cut off.

    Zhou et al., "Learning Deep Features for Discriminative Localization" (2016), equation 2. Divided by
    (h * w) it equals Grad-CAM of the last stage (Selvaraju et al., 2017, section 3.1).

    Args:
        feature_map: Output of the last stage, (channels, h, w).
        class_weights: Row of the last layer's weight matrix, (channels,).

    Returns:
        (h, w) float32, at least 0.
    """
    return np.maximum(np.tensordot(class_weights, feature_map, axes=1), 0).astype(np.float32)


def overlay_heatmap(image: np.ndarray, activation: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Lay an activation map over the part of the image that the network saw.

    Args:
        image: RGB, (height, width, 3) uint8; not changed.
        activation: Class activation map, (h, w), at least 0.
        preprocessing: How the image became the network's input.

    Returns:
        RGB, (height, width, 3) uint8: strong activation is warm and opaque, none leaves the picture as it is.
    """
    import cv2  # Most answers have no heat map, and the first one of a process waits for every import.

    height, width = image.shape[:2]
    left, top, region_width, region_height = preprocessing.get_visible_region(height, width)
    rows = _interpolate_cells(height, top, region_height, activation.shape[0])  # (height, h)
    columns = _interpolate_cells(width, left, region_width, activation.shape[1])  # (width, w)
    scaled = activation / max(float(activation.max()), 1e-12) @ columns.T  # (h, width)
    overlay = np.empty(image.shape, np.uint8)
    step = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, step):
        strip = image[start : start + step]
        strength = rows[start : start + step] @ scaled  # (strip, width), 0..1
        colors = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
        opacity = _MAX_OPACITY * np.sqrt(strength)[..., None]
        overlay[start : start + step] = strip + (colors - strip.astype(np.float32)) * opacity
    return overlay


def _interpolate_cells(length: int, start: float, span: float, cells: int) -> np.ndarray:
    """Return how much each of the cells that share a span counts at each pixel of a line.

    Linear between the centres of the cells, constant from the outermost ones to the ends of the span, 0 beyond.

    Returns:
        (length, cells) float32.
    """
    centres = np.arange(length, dtype=np.float32) + 0.5 - start
    positions = np.clip(centres / span * cells - 0.5, 0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(cells, dtype=np.float32)))
    weights[(centres <= -0.5) | (centres >= span + 0.5)] = 0  # pixels that the span does not touch
    return weights
