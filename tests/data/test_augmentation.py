"""Augmentation: what torchvision does, but every draw from a generator that is handed in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as ops

from resnetkit.data.augmentation import (
    _MAGNITUDES,
    _make_operations,
    augment_basic,
    augment_strong,
    draw_box,
    make_view_generator,
    mix_batch,
    resize,
)

FILL = (124, 116, 104)
OPERATIONS = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.fixture(scope="module")
def image(photographs: Mapping[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(photographs["china"].copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def batch(photographs: Mapping[str, np.ndarray]) -> torch.Tensor:
    names = ("china", "flower", "astronaut", "portrait")
    return torch.stack([resize(torch.from_numpy(photographs[name].copy()).permute(2, 0, 1), 64, 64) for name in names])


@pytest.mark.parametrize("seed", range(8))
def test_basic_is_a_resized_crop_perhaps_mirrored(image: torch.Tensor, seed: int) -> None:
    view = augment_basic(image, 96, make_view_generator(seed, 0, 0))
    draws = make_view_generator(seed, 0, 0)
    box = draw_box((427, 640), (0.35, 1), (3 / 4, 4 / 3), draws)
    assert box is not None
    assert 0.34 <= box[2] * box[3] / (427 * 640) <= 1
    expected = ops.resized_crop(image, *box, size=[96, 96], antialias=True)
    if draws.random() < 0.5:
        expected = expected.flip(2)
    assert (view.int() - expected.int()).abs().max() <= 1, "a mirror before or after resizing rounds differently"


def test_about_half_of_the_views_are_mirrored() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).repeat(3, 64, 1)
    mirrored = [
        bool(view[0, 0, 0] > view[0, 0, -1])
        for view in (augment_basic(ramp, 32, make_view_generator(0, 0, index)) for index in range(400))
    ]
    assert 160 <= sum(mirrored) <= 240


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (3, 2), (30, 400)], ids=str)
@pytest.mark.parametrize("strength", ["basic", "strong"])
def test_images_of_any_shape_are_augmented(shape: tuple[int, int], strength: str) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for index in range(20):
        draws = make_view_generator(0, 0, index)
        view = augment_basic(image, 32, draws) if strength == "basic" else augment_strong(image, 32, draws, FILL)
        assert view.shape == (3, 32, 32)
        assert view.dtype == torch.uint8
        assert view.is_contiguous()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_trivial_augment(photographs: Mapping[str, np.ndarray], name: str) -> None:
    image = torch.from_numpy(photographs["flower"][:224, 100:324].copy()).permute(2, 0, 1).contiguous()
    reference = v2.TrivialAugmentWide(fill=list(FILL))
    operations = _make_operations(224)
    assert {OPERATIONS[own] for own in operations} == set(reference._AUGMENTATION_SPACE)
    magnitudes, is_signed = reference._AUGMENTATION_SPACE[OPERATIONS[name]]
    values = magnitudes(_MAGNITUDES, 224, 224)
    for step in (0, 1, 14, 15, 30):
        value = 0.0 if values is None else float(values[step])
        if name.startswith("translate"):
            value = round(value)  # torchvision cuts to whole pixels, and 15.999999 of the middle step to 15
        for is_reversed in {False, is_signed}:
            expected = reference._apply_image_or_video_transform(
                image,
                OPERATIONS[name],
                -value if is_reversed else value,
                interpolation=reference.interpolation,
                fill=reference._fill,
            )
            result = operations[name](image, step / (_MAGNITUDES - 1), is_reversed, FILL)
            assert (result.int() - expected.int()).abs().max() <= 1, f"step {step}"


def test_every_operation_and_erasing_occur(batch: torch.Tensor) -> None:
    image = batch[0]
    views = [augment_strong(image, 32, make_view_generator(0, 0, index), FILL) for index in range(300)]
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    filled = sum(bool(((view == fill).all(0).float().mean() > 0.02).item()) for view in views)
    assert 20 <= filled <= 200
    assert len({view.numpy().tobytes() for view in views}) > 290


def test_same_draws_give_the_same_view_whatever_the_global_state(image: torch.Tensor) -> None:
    views = []
    for state in (0, 1):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        views.append([augment_strong(image, 48, make_view_generator(3, 2, index), FILL) for index in range(40)])
        assert torch.equal(torch.get_rng_state(), before)
    for first, second in zip(*views, strict=True):
        assert torch.equal(first, second)


def test_streams_differ_by_seed_epoch_and_index() -> None:
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1, 2)]
    assert len({make_view_generator(*key).random() for key in keys}) == len(keys)


def test_images_are_not_written_to(image: torch.Tensor, batch: torch.Tensor) -> None:
    before, batch_before = image.clone(), batch.clone()
    for index in range(60):
        augment_strong(image, 48, make_view_generator(0, 0, index), FILL)
        mix_batch(batch, torch.eye(4), 0, 0, [index, 1, 2, 3])
    assert torch.equal(image, before)
    assert torch.equal(batch, batch_before)


@pytest.mark.parametrize("index", range(12))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=["uint8", "float32"])
def test_images_and_targets_are_mixed_in_the_same_shares(batch: torch.Tensor, dtype: torch.dtype, index: int) -> None:
    images = batch.to(dtype)
    mixed, targets = mix_batch(images, torch.eye(4), 0, 5, [index, 1, 2, 3])
    assert mixed.dtype == dtype
    share = float(targets[0, 0])
    torch.testing.assert_close(targets, share * torch.eye(4) + (1 - share) * torch.eye(4).roll(1, 0))
    partners = images.roll(1, 0)
    is_own, is_partners = (mixed == images).all(1), (mixed == partners).all(1)
    if (is_own | is_partners).all():
        pasted = 1 - is_own.float().mean((1, 2))
        assert (pasted <= 1 - share + 1e-6).all(), "pixels that both have in common count as own"
    else:
        blended = share * images.float() + (1 - share) * partners.float()
        assert (mixed.float() - blended).abs().max() <= 0.51


def test_mixup_and_cutmix_both_occur_and_follow_the_batch(batch: torch.Tensor) -> None:
    shares = [float(mix_batch(batch, torch.eye(4), 0, 0, [index, 1, 2, 3])[1][0, 0]) for index in range(100)]
    assert len(set(shares)) > 90
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    again = [float(mix_batch(batch, torch.eye(4), 0, 0, np.array([index, 1, 2, 3]))[1][0, 0]) for index in range(100)]
    assert shares == again


def test_batch_of_one_image_is_mixed_with_itself(batch: torch.Tensor) -> None:
    for index in range(10):
        images, targets = mix_batch(batch[:1], torch.eye(4)[:1], 0, 0, [index])
        assert torch.equal(images, batch[:1])
        torch.testing.assert_close(targets, torch.eye(4)[:1])
