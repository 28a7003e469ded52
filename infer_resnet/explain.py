"""Why the network answered as it did: class activation maps, laid over the picture."""

from __future__ import annotations

import cv2
import numpy as np

from infer_resnet.preprocessing import Preprocessing

#: Opacity of the colours where the activation is highest.
_MAX_OPACITY = 0.6
#: Pixels that are blended at a time, so that memory stays bounded on very large images.
_STRIP_PIXELS = 1 << 22


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
    height, width = image.shape[:2]
    region = preprocessing.get_visible_region(height, width)
    scaled = (activation / max(float(activation.max()), 1e-12)).astype(np.float32)
    overlay = np.empty_like(image)
    strip = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, strip):
        rows = image[start : start + strip]
        left, top, region_width, region_height = region
        strength = _stretch(scaled, (left, top - start, region_width, region_height), rows.shape[:2])
        colors = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
        opacity = _MAX_OPACITY * np.sqrt(strength)[..., None]
        overlay[start : start + strip] = rows + (colors - rows.astype(np.float32)) * opacity
    return overlay


def _stretch(
    activation: np.ndarray, region: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Place a map at `region` (left, top, width, height) of an image of `size` (height, width); 0 outside.

    Centres of the map's cells come to the centres of their shares of the region.
    """
    left, top, region_width, region_height = region
    height, width = size
    scale_x, scale_y = region_width / activation.shape[1], region_height / activation.shape[0]
    matrix = np.array([[scale_x, 0, left + scale_x / 2 - 0.5], [0, scale_y, top + scale_y / 2 - 0.5]])
    stretched = cv2.warpAffine(
        activation, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    stretched *= ((rows >= top) & (rows <= top + region_height))[:, None]
    stretched *= (columns >= left) & (columns <= left + region_width)
    return np.clip(stretched, 0, 1)
