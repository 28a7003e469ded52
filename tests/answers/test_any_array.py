"""Arrays of every layout and size: the answer is bit for bit that to their contiguous copy."""

from __future__ import annotations

import numpy as np
import pytest

from resnetkit import load_model
from resnetkit.images.pixels import to_rgb
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD

VIEWS = {
    "as it is": lambda image: image,
    "turned around": lambda image: image[::-1, ::-1],
    "every second column": lambda image: image[:, ::2],
    "transposed": lambda image: image.swapaxes(0, 1),
    "columns first": np.asfortranarray,
}


@pytest.fixture(scope="module")
def model(checkpoint_path):
    return load_model(checkpoint_path, runtime="openvino", precision="fp32", threads=1)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)], ids=["gray", "gray with an axis", "RGB", "RGBA"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (300, 400)], ids=str)
def test_memory_layout_has_no_part_in_an_answer(model, shape, channels):
    image = np.random.default_rng(0).integers(0, 256, (*shape, *channels), np.uint8)
    image.setflags(write=False)
    for name, view in VIEWS.items():
        seen = view(image)
        expected = model.predict(seen.copy(order="C")).probabilities
        np.testing.assert_array_equal(model.predict(seen).probabilities, expected, err_msg=name)


@pytest.mark.slow
def test_a_huge_image_is_prepared_as_its_contiguous_copy(photographs):
    """20000x20000 pixels in gray, 400 MB; twice, since the copy is one."""
    tile = photographs["china"][:400, :400, 1]
    huge = np.tile(tile, (50, 50))
    huge.setflags(write=False)
    prepare = Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD).prepare
    view = huge[::-1, ::-1]
    found = prepare(to_rgb(view), 2)
    np.testing.assert_array_equal(found, prepare(to_rgb(np.ascontiguousarray(view)), 1))
    assert found.std() > 1
