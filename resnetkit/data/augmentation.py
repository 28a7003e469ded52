"""Augmentation of uint8 images; every random draw comes from the generator of its epoch and image, none from torch.

- gentle: a part of at least 0.7 of the area, stretched, turned and tinted a little, in one resampling that reflects
  what lies outside: what keeps its class however small the data set is. Mirrored only where that was asked for or found
  harmless: a mirrored hand or digit is another sign.
- basic: a random part of the image, resized, and a mirror; as torchvision's RandomResizedCrop, but of at least 0.35
  of the area (fastai's choice for Imagenette) where ImageNet's recipe takes 0.08: small data sets and pretrained
  networks gain nothing from parts that do not show the object.
- strong: also TrivialAugment (Müller and Hutter, 2021), random erasing (Zhong et al., 2017) and, a batch at a time,
  mixup (Zhang et al., 2017) or cutmix (Yun et al., 2019), with the settings of torchvision's newer ImageNet recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

Color = tuple[int, int, int]

_CROP_SCALE = (0.35, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
#: Of gentle: smallest share of the area, largest change of proportions, of brightness and of contrast.
_GENTLE_AREA, _GENTLE_STRETCH, _GENTLE_JITTER = 0.7, 0.15, 0.2
#: A larger image is reduced first: bilinear sampling alone would alias.
_MAX_GENTLE_SCALE = 1.5
_ERASE_PROBABILITY = 0.1
_ERASE_SCALE = (0.02, 0.33)
_ERASE_RATIO = (0.3, 3.3)
_ATTEMPTS = 10
_MAGNITUDES = 31
_MIXUP_ALPHA = 0.2
_CUTMIX_ALPHA = 1.0

# Streams of random numbers that must differ even where seed, epoch and index are equal.
_VIEW_STREAM = 1
_MIX_STREAM = 2


@dataclass(frozen=True)
class Changes:
    """How training images are changed.

    Attributes:
        kind: none, gentle, basic or strong.
        horizontal_flip: Whether half of the views are mirrored left to right.
        vertical_flip: Whether half of the views are mirrored top to bottom.
        degrees: Largest rotation to either side.
    """

    kind: str = "basic"
    horizontal_flip: bool = True
    vertical_flip: bool = False
    degrees: int = 0


def augment(image: torch.Tensor, size: int, changes: Changes, draws: np.random.Generator, fill: Color) -> torch.Tensor:
    """Return a view of an image.

    Args:
        image: (3, H, W) uint8; not written to.
        size: Side in pixels of the result.
        changes: What is changed.
        draws: Source of the random numbers.
        fill: RGB of what is moved in from outside and of what is erased.

    Returns:
        (3, size, size) uint8.
    """
    if changes.kind == "gentle":
        return augment_gently(image, size, changes, draws)
    if changes.kind == "strong":
        view = augment_strong(image, size, draws, fill, changes.horizontal_flip)
    else:
        view = augment_basic(image, size, draws, changes.horizontal_flip)
    if changes.degrees:
        view = _rotate(view, float(draws.uniform(-changes.degrees, changes.degrees)), fill)
    return view.flip(1) if changes.vertical_flip and draws.random() < 0.5 else view


def make_view_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of all draws for one image in one epoch; Philox is the same on every machine."""
    return _make_generator(_VIEW_STREAM, seed, epoch, index)


def augment_gently(image: torch.Tensor, size: int, changes: Changes, draws: np.random.Generator) -> torch.Tensor:
    """Cut, stretch, turn, mirror and tint an image a little, in one resampling; what lies outside is reflected.

    Args:
        image: (3, H, W) uint8; not written to.
        size: Side in pixels of the result.
        changes: Which mirrors, and how far it is turned.
        draws: Source of the random numbers.

    Returns:
        (3, size, size) uint8.
    """
    short = min(image.shape[1:])
    if short > _MAX_GENTLE_SCALE * size:
        image = resize(image, *(round(side * 1.25 * size / short) for side in image.shape[1:]))
    part = _draw_gentle_part(image.shape[1], image.shape[2], changes, draws)
    grid = F.affine_grid(torch.tensor(part, dtype=torch.float32)[None], [1, 3, size, size], align_corners=False)
    seen = F.grid_sample(image[None].float(), grid, padding_mode="reflection", align_corners=False)[0]
    seen *= 1 + _GENTLE_JITTER * draws.uniform(-1, 1)
    return torch.lerp(seen.mean(), seen, 1 + _GENTLE_JITTER * draws.uniform(-1, 1)).round_().clamp_(0, 255).byte()


def _draw_gentle_part(rows: int, columns: int, changes: Changes, draws: np.random.Generator) -> list[list[float]]:
    """Draw which part of an image a view shows: the matrix of `affine_grid`, from -1..1 of the view to the image's.

    Where the image is no square, the view shows a square of its short side, or a part of that, anywhere in it.
    """
    area, stretch = draws.uniform(_GENTLE_AREA, 1), math.exp(draws.uniform(-1, 1) * math.log1p(_GENTLE_STRETCH))
    width, height = min(1.0, math.sqrt(area * stretch)), min(1.0, math.sqrt(area / stretch))
    width, height = width * min(1, rows / columns), height * min(1, columns / rows)
    left, top = draws.uniform(-1, 1) * (1 - width), draws.uniform(-1, 1) * (1 - height)
    angle = math.radians(draws.uniform(-1, 1) * changes.degrees)
    mirror_x = -1 if changes.horizontal_flip and draws.random() < 0.5 else 1
    mirror_y = -1 if changes.vertical_flip and draws.random() < 0.5 else 1
    return [
        [width * math.cos(angle) * mirror_x, -width * math.sin(angle) * mirror_y, left],
        [height * math.sin(angle) * mirror_x, height * math.cos(angle) * mirror_y, top],
    ]


def augment_basic(image: torch.Tensor, size: int, draws: np.random.Generator, is_mirrored: bool = True) -> torch.Tensor:
    """Cut a random part, resize it and mirror it in half of the cases.

    Args:
        image: (3, H, W) uint8; not written to.
        size: Side in pixels of the result.
        draws: Source of the random numbers.
        is_mirrored: Whether to mirror at all; the other draws do not depend on it.

    Returns:
        (3, size, size) uint8.
    """
    box = draw_box((image.shape[1], image.shape[2]), _CROP_SCALE, _CROP_RATIO, draws)
    if box is None:
        box = _get_widest_box(image.shape[1], image.shape[2])
    top, left, height, width = box
    part = image[:, top : top + height, left : left + width]
    if draws.random() < 0.5 and is_mirrored:
        part = part.flip(2)
    return resize(part, size, size)


def augment_strong(
    image: torch.Tensor, size: int, draws: np.random.Generator, fill: Color, is_mirrored: bool = True
) -> torch.Tensor:
    """Augment as `augment_basic`, change colours or shape by one operation, and erase a rectangle in some images.

    Args:
        image: (3, H, W) uint8; not written to.
        size: Side in pixels of the result.
        draws: Source of the random numbers.
        fill: RGB of what is moved in from outside and of what is erased.
        is_mirrored: Whether to mirror at all; the other draws do not depend on it.

    Returns:
        (3, size, size) uint8.
    """
    view = augment_basic(image, size, draws, is_mirrored)
    operations = _make_operations(size)
    name = list(operations)[draws.integers(len(operations))]
    magnitude = int(draws.integers(_MAGNITUDES)) / (_MAGNITUDES - 1)
    view = operations[name](view, magnitude, bool(draws.random() < 0.5), fill)
    if draws.random() < _ERASE_PROBABILITY:
        box = draw_box((size, size), _ERASE_SCALE, _ERASE_RATIO, draws)
        if box is not None:
            top, left, height, width = box
            view = view.clone()
            view[:, top : top + height, left : left + width] = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1)
    return view


def mix_batch(
    images: torch.Tensor, targets: torch.Tensor, seed: int, epoch: int, indices: Sequence[int] | np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image of a batch with the one before it: all by mixup, or all by cutmix, each in half of the batches.

    Args:
        images: (N, 3, H, W) uint8 or floating point; not written to.
        targets: (N, classes) floating point, each row the shares of the classes.
        seed: Seed of the training.
        epoch: Number of the epoch.
        indices: The N images' indices in the data set, from which the draws come.

    Returns:
        Images of the same shape and type, and targets mixed in the same shares.
    """
    draws = _make_generator(_MIX_STREAM, seed, epoch, *indices)
    partners = images.roll(1, 0)
    if draws.random() < 0.5:
        share = draws.beta(_MIXUP_ALPHA, _MIXUP_ALPHA)
        mixed = _blend(images, partners, share)
    else:
        mixed, share = _paste(images, partners, draws.beta(_CUTMIX_ALPHA, _CUTMIX_ALPHA), draws)
    return mixed, share * targets + (1 - share) * targets.roll(1, 0)


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (3, H, W) uint8 with an antialiased bilinear filter, on the bytes themselves where the CPU can."""
    if tuple(image.shape[1:]) == (height, width):
        return image.contiguous()
    resized = F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].contiguous()


def draw_box(
    shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a rectangle in an image, uniform in its share of the area and in the logarithm of width / height.

    Returns:
        Top, left, height and width; None where ten attempts gave none that fits.
    """
    rows, columns = shape
    for _ in range(_ATTEMPTS):
        area = rows * columns * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < height <= rows and 0 < width <= columns:
            top, left = draws.integers(rows - height + 1), draws.integers(columns - width + 1)
            return int(top), int(left), height, width
    return None


def _rotate(view: torch.Tensor, degrees: float, fill: Color) -> torch.Tensor:
    import torchvision.transforms.v2.functional as ops

    return ops.rotate(view, degrees, fill=list(fill))


def _make_generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(number) for number in entropy])))


def _get_widest_box(rows: int, columns: int) -> tuple[int, int, int, int]:
    """Return the largest rectangle around the centre whose proportions a random part may have."""
    height = min(rows, max(1, round(columns / _CROP_RATIO[0])))
    width = min(columns, max(1, round(rows * _CROP_RATIO[1])))
    return (rows - height) // 2, (columns - width) // 2, height, width


#: Changes (3, H, W) uint8; takes the strength from 0 to 1, whether its direction is reversed, and the fill colour.
_Operation = Callable[[torch.Tensor, float, bool, Color], torch.Tensor]


def _make_operations(size: int) -> dict[str, _Operation]:
    """Return the 14 operations of TrivialAugment's wide space, with torchvision's ranges.

    Translation reaches 32 pixels at 224, as there, and the same share of other sizes.
    """
    import torchvision.transforms.v2.functional as ops

    def shear(x: float, y: float) -> _Operation:
        def apply(image: torch.Tensor, strength: float, is_reversed: bool, fill: Color) -> torch.Tensor:
            tangent = -strength if is_reversed else strength
            degrees = [math.degrees(math.atan(tangent * x)), math.degrees(math.atan(tangent * y))]
            return ops.affine(image, 0.0, [0, 0], 1.0, degrees, fill=list(fill), center=[0, 0])

        return apply

    def translate(x: float, y: float) -> _Operation:
        def apply(image: torch.Tensor, strength: float, is_reversed: bool, fill: Color) -> torch.Tensor:
            pixels = round(strength * 32 * size / 224) * (-1 if is_reversed else 1)
            return ops.affine(image, 0.0, [pixels * x, pixels * y], 1.0, [0.0, 0.0], fill=list(fill))

        return apply

    def enhance(function: Callable[[torch.Tensor, float], torch.Tensor]) -> _Operation:
        return lambda image, strength, is_reversed, _: function(
            image, 1 + 0.99 * (-strength if is_reversed else strength)
        )

    def rotate(image: torch.Tensor, strength: float, is_reversed: bool, fill: Color) -> torch.Tensor:
        return ops.rotate(image, 135.0 * (-strength if is_reversed else strength), fill=list(fill))

    return {
        "identity": lambda image, *_: image,
        "shear_x": shear(0.99, 0),
        "shear_y": shear(0, 0.99),
        "translate_x": translate(1, 0),
        "translate_y": translate(0, 1),
        "rotate": rotate,
        "brightness": enhance(ops.adjust_brightness),
        "color": enhance(ops.adjust_saturation),
        "contrast": enhance(ops.adjust_contrast),
        "sharpness": enhance(ops.adjust_sharpness),
        "posterize": lambda image, strength, *_: ops.posterize(image, 8 - round(6 * strength)),
        "solarize": lambda image, strength, *_: ops.solarize(image, 255 * (1 - strength)),
        "autocontrast": lambda image, *_: ops.autocontrast(image),
        "equalize": lambda image, *_: ops.equalize(image),
    }


def _blend(images: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    mixed = torch.lerp(partners.to(torch.float32), images.to(torch.float32), share)
    return (mixed.round_() if images.dtype == torch.uint8 else mixed).to(images.dtype)


def _paste(
    images: torch.Tensor, partners: torch.Tensor, share: float, draws: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Put the same rectangle of each partner into each image; return them and the share that is left of them.

    The rectangle's centre is anywhere in the image, so it may be cut by the edge (section 3.1 of the paper).
    """
    height, width = images.shape[-2:]
    centre_y, centre_x = draws.integers(height), draws.integers(width)
    half_height, half_width = (round(side * math.sqrt(1 - share) / 2) for side in (height, width))
    rows = slice(int(max(0, centre_y - half_height)), int(min(height, centre_y + half_height)))
    columns = slice(int(max(0, centre_x - half_width)), int(min(width, centre_x + half_width)))
    mixed = images.clone()
    mixed[..., rows, columns] = partners[..., rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - pasted / (height * width)
