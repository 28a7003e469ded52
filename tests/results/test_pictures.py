"""Pictures for the report: fair samples, the surest mistakes, and heat maps that follow the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnetkit.answers.model import Model
from resnetkit.data.dataset import Samples
from resnetkit.images.preprocessing import Preprocessing, normalize
from resnetkit.results.pictures import PICTURE_SIZE, collect_mistakes, collect_samples, tile_batch
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, RuntimeOptions
from resnetkit.sources.paths import PathList
from resnetkit.weights.metadata import ModelMetadata
from resnetkit.weights.models import initialize_model

METADATA = ModelMetadata(
    "resnet18", ("landscape", "portrait"), Preprocessing(128, 146, "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


@pytest.fixture(scope="module")
def model() -> Model:
    """A seeded network of two classes, in PyTorch."""
    state_dict = initialize_model("resnet18", 2, seed=0).state_dict()
    source = NetworkSource.from_metadata(METADATA, lambda: state_dict)
    return Model(open_runtime(source, RuntimeOptions("torch"), None), METADATA.preprocessing, METADATA.classes)


@pytest.fixture
def samples(photographs: Mapping[str, np.ndarray], tmp_path: Path) -> Samples:
    """Eight cuts of photographs; the first four are landscapes by their label, the others portraits."""
    names = ("china", "flower", "portrait", "astronaut")
    paths = [tmp_path / f"photo {index}.png" for index in range(8)]
    for index, path in enumerate(paths):
        Image.fromarray(photographs[names[index % 4]][index * 4 : index * 4 + 240]).save(path)
    return Samples(PathList(tmp_path, paths), [index // 4 for index in range(8)])


def test_every_class_gets_a_sample_before_any_gets_two(samples: Samples) -> None:
    pictures = collect_samples(samples, METADATA.classes, count=3)
    assert [picture.class_name for picture in pictures] == ["landscape", "landscape", "portrait"]
    assert len(collect_samples(samples, METADATA.classes, count=100)) == len(samples)


def test_samples_of_many_classes_spread_over_all(samples: Samples) -> None:
    many = Samples(samples.paths, range(8))
    pictures = collect_samples(many, [str(label) for label in range(8)], count=3)
    assert [picture.class_name for picture in pictures] == ["0", "4", "7"]


def test_pictures_are_bounded_and_keep_their_proportions(samples: Samples) -> None:
    for picture, sample in zip(collect_samples(samples, METADATA.classes, count=8), samples, strict=True):
        with Image.open(sample.path) as photo:
            width, height = photo.size
        assert max(picture.image.shape[:2]) <= PICTURE_SIZE
        assert picture.image.shape[1] / picture.image.shape[0] == pytest.approx(width / height, rel=0.02)


def test_unreadable_image_is_left_out(samples: Samples, caplog: pytest.LogCaptureFixture) -> None:
    samples[0].path.write_bytes(b"no image")
    samples[1].path.unlink()
    assert len(collect_samples(samples, METADATA.classes, count=8)) == 6
    assert str(samples[0].path) in caplog.text


def test_mistakes_are_sorted_and_explained(model: Model, samples: Samples) -> None:
    second = np.array([0.1, 0.9, 0.6, 0.2, 0.7, 0.3, 0.9, 0.8])
    mistakes = collect_mistakes(model, samples, np.stack([1 - second, second], axis=1))

    assert [mistake.file_name for mistake in mistakes] == ["photo 1.png", "photo 5.png", "photo 2.png"]
    first = mistakes[0]
    assert (first.true_class, first.predicted_class) == ("landscape", "portrait")
    assert (first.true_probability, first.predicted_probability) == pytest.approx((0.1, 0.9))
    for mistake in mistakes:
        assert mistake.heatmap is not None
        assert mistake.heatmap.shape == mistake.image.shape
        assert (mistake.heatmap != mistake.image).any()


def test_each_mistake_has_its_own_map_however_many_are_run_at_a_time(
    model: Model, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = np.eye(2)[[1 - sample.label for sample in samples]]
    together = collect_mistakes(model, samples, wrong)
    monkeypatch.setattr("resnetkit.results.pictures._MAX_BATCH_PIXELS", 1)
    alone = collect_mistakes(model, samples, wrong)
    assert len(together) == len(alone) == len(samples)
    for first, second in zip(together, alone, strict=True):
        assert first.file_name == second.file_name
        assert first.heatmap is not None
        assert second.heatmap is not None
        assert np.abs(first.heatmap.astype(int) - second.heatmap).max() <= 2


def test_no_mistakes_no_pictures(model: Model, samples: Samples) -> None:
    probabilities = np.eye(2)[[sample.label for sample in samples]]
    assert collect_mistakes(model, samples, probabilities) == []


def test_a_map_of_few_cells_is_left_out(model: Model, samples: Samples) -> None:
    small = Model(model.runtime, model.preprocessing.at_size(96), model.classes)  # 3 x 3 cells
    mistakes = collect_mistakes(small, samples, np.eye(2)[[1 - sample.label for sample in samples]])
    assert len(mistakes) == len(samples)
    assert all(mistake.heatmap is None for mistake in mistakes)


def test_a_batch_is_shown_as_the_network_sees_it(photographs: Mapping[str, np.ndarray]) -> None:
    preprocessing = METADATA.preprocessing
    images = torch.from_numpy(
        np.stack([preprocessing.prepare(photographs[name]) for name in ("china", "flower", "astronaut")] * 4)
    )
    sheet = tile_batch(normalize(images, preprocessing.mean, preprocessing.std), preprocessing)
    assert sheet.shape == (2 * 128 + 2, 8 * 130 - 2, 3)
    for number, image in enumerate(images):
        top, left = 130 * (number // 8), 130 * (number % 8)
        tile = sheet[top : top + 128, left : left + 128].astype(int)
        assert np.abs(tile - image.permute(1, 2, 0).numpy()).max() <= 1
