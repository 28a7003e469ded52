"""The network's input against torchvision's own transforms, and what it costs on images of extreme shapes."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from resnetkit.images.pixels import to_rgb
from resnetkit.images.preprocessing import Preprocessing, normalize
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD

PRESETS = {
    "V1": models.ResNet50_Weights.IMAGENET1K_V1,
    "V2": models.ResNet50_Weights.IMAGENET1K_V2,
}
NAMES = ["china", "flower", "portrait", "astronaut", "small", "tiny"]


def make_preprocessing(preset: str = "V1", size: int = 224, mode: str = "crop") -> Preprocessing:
    resize_size = PRESETS[preset].transforms().resize_size[0]
    return Preprocessing(224, resize_size, mode, IMAGENET_MEAN, IMAGENET_STD).at_size(size)


def make_reference(preset: str, size: int):
    """Return torchvision's transforms of the preset; at another size with the same share cut away."""
    if size == 224:
        return PRESETS[preset].transforms()
    return PRESETS[preset].transforms(crop_size=size, resize_size=make_preprocessing(preset, size).resize_size)


def prepare(preprocessing: Preprocessing, image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(preprocessing.prepare(image))


def assert_nearly_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Allow one value to be one grey level off."""
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 1


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("size", [32, 64, 224, 299, 448])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_input_is_torchvisions(photographs, preset, size):
    differences = []
    for name in NAMES:
        expected = make_reference(preset, size)(to_tensor(photographs[name]))
        prepared = prepare(make_preprocessing(preset, size), photographs[name])
        assert (prepared.dtype, prepared.shape) == (torch.uint8, (3, size, size))
        levels = (expected * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) * 255
        difference = (prepared.int() - levels.round().int()).abs()
        differences.append(difference.flatten())
        found = normalize(prepared[None], IMAGENET_MEAN, IMAGENET_STD)[0]
        torch.testing.assert_close(found[difference == 0], expected[difference == 0], atol=1e-5, rtol=0)
    is_different = torch.cat(differences) > 0
    assert torch.cat(differences).max() <= 1
    assert is_different.float().mean() < 1e-4  # at ties, where BLAS adds up in another order than torch


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", PRESETS)
def test_pillows_way_differs_by_one_grey_level_at_most(photographs, preset, name):
    expected = make_reference(preset, 224)(Image.fromarray(photographs[name]))
    prepared = prepare(make_preprocessing(preset), photographs[name])
    scaled = expected * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    assert (prepared.float() - (scaled * 255).round()).abs().max() <= 1


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image[..., ::-1],
        lambda image: image[50:300, 20:590],
        lambda image: image.swapaxes(0, 1),
        lambda image: np.broadcast_to(image[..., :1], image.shape),
        np.asfortranarray,
    ],
    ids=["flipped", "mirrored", "BGR", "cropped", "turned", "gray", "columns first"],
)
def test_strides_make_no_difference_and_nothing_is_written(photographs, view):
    image = view(photographs["china"])
    before = image.copy()
    prepared = make_preprocessing().prepare(image)
    assert np.array_equal(prepared, make_preprocessing().prepare(np.ascontiguousarray(image)))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (300, 400)], ids=str)
def test_any_image_is_prepared_as_its_contiguous_copy(shape, channels):
    image = np.random.default_rng(0).integers(0, 256, (*shape, channels), np.uint8)
    image.setflags(write=False)
    for view in (image[::-1, ::-1], image[:, ::2], image.swapaxes(0, 1), image[..., 0]):
        rgb, copied = to_rgb(view), to_rgb(view.copy(order="C"))
        expected = make_preprocessing().prepare(np.ascontiguousarray(copied))
        assert np.array_equal(make_preprocessing().prepare(rgb, 2), expected)


@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
def test_the_number_of_threads_makes_no_difference(photographs, mode):
    for name in ("china", "portrait", "tiny"):
        alone, shared = (make_preprocessing(mode=mode).prepare(photographs[name], count) for count in (1, 3))
        assert np.array_equal(alone, shared), name


def test_a_forked_process_prepares_images_as_well(photographs):
    make_preprocessing().prepare(photographs["china"], 2)  # starts the helpers, which a fork leaves behind
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(make_preprocessing().prepare(photographs["china"], 2).shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        child.start()
    try:
        assert reader.poll(20)
        assert reader.recv() == (3, 224, 224)
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((3, 10, 10), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
    ],
    ids=["gray", "RGBA", "channels first", "float", "no rows", "4-D"],
)
def test_another_shape_or_type_is_refused(image):
    with pytest.raises(ValueError, match=r"expected an RGB image \(height, width, 3\) uint8, got "):
        make_preprocessing().prepare(image)


def test_squash_is_torchvisions_resize_of_both_sides(photographs):
    from torchvision.transforms import functional

    expected = functional.resize(to_tensor(photographs["portrait"]), [64, 64], antialias=True)
    found = prepare(make_preprocessing(size=64, mode="squash"), photographs["portrait"])
    assert_nearly_equal(found, expected)


@pytest.mark.parametrize(("name", "fitted"), [("china", (43, 64)), ("portrait", (64, 38))])
def test_letterbox_keeps_the_whole_image_and_pads_with_the_mean_colour(photographs, name, fitted):
    from torchvision.transforms import functional

    prepared = prepare(make_preprocessing(size=64, mode="letterbox"), photographs[name])
    top, left = (64 - fitted[0]) // 2, (64 - fitted[1]) // 2
    expected = functional.resize(to_tensor(photographs[name]), list(fitted), antialias=True)
    assert_nearly_equal(prepared[:, top : top + fitted[0], left : left + fitted[1]], expected)
    assert prepared[:, 0, 0].tolist() == prepared[:, -1, -1].tolist() == [124, 116, 104]


@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)], ids=str)
def test_extreme_shapes_give_the_network_its_square(shape, mode):
    image = np.full((*shape, 3), 200, np.uint8)
    prepared = make_preprocessing(mode=mode).prepare(image)
    assert prepared.shape == (3, 224, 224)
    assert (prepared[:, 111, 111] == 200).all()


def test_the_centre_of_a_very_long_image_is_what_is_seen(photographs):
    china = photographs["china"][:60]  # 60x640
    image = np.concatenate([np.zeros((60, 5000, 3), np.uint8), china, np.zeros((60, 5000, 3), np.uint8)], axis=1)
    found = prepare(make_preprocessing(), image).float()
    expected = prepare(make_preprocessing(), np.ascontiguousarray(china[:, 80:560])).float()
    assert (found - expected).abs().max() <= 2


def test_a_long_image_is_quick():
    image = np.full((1, 5000, 3), 90, np.uint8)
    preprocessing = make_preprocessing()
    preprocessing.prepare(image)
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        preprocessing.prepare(image)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.05


MEASURE = """
import resource
import numpy as np
from resnetkit.images.preprocessing import Preprocessing

prepare = Preprocessing(224, 256, "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).prepare
prepare(np.zeros((300, 400, 3), np.uint8))
for height, width in ((1, 5000), (5000, 1), (20000, 20000)):
    image = np.broadcast_to(np.full((height, width, 1), 7, np.uint8), (height, width, 3))  # gray, read-only
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (prepare(image)[:, 100, 100] == 7).all()
    print("MB:", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif("sys.platform != 'linux'", reason="ru_maxrss is in kilobytes on Linux only")
def test_memory_is_that_of_what_is_seen(run_script):
    result = run_script(MEASURE, PYTHONPATH=str(Path(__file__).resolve().parents[2]))
    wide, tall, huge = (int(line.split()[1]) for line in result.output.splitlines())
    assert max(wide, tall) < 50
    assert huge < 300


def test_the_visible_region_is_what_the_network_sees():
    assert make_preprocessing(mode="squash").get_visible_region(100, 200) == (0, 0, 200, 100)
    assert make_preprocessing(mode="letterbox").get_visible_region(100, 200) == (0, -50, 200, 200)
    left, top, width, height = make_preprocessing().get_visible_region(256, 512)
    assert (left, top, width, height) == (144, 16, 224, 224)


def test_other_sizes_keep_the_share_that_is_cut_away():
    assert make_preprocessing("V1", 112).resize_size == 128
    assert make_preprocessing("V2", 448).resize_size == 464
    assert make_preprocessing("V1", 224) == make_preprocessing("V1")
