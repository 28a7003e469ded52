"""Batches from files: the same whatever reads them, in whatever order, kept or not."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from resnetkit.data.augmentation import Changes
from resnetkit.data.dataset import DatasetError, Samples
from resnetkit.data.loading import Batch, ImageLoader, LoaderSettings
from resnetkit.data.views import ImageMemory, _reduce_short_side
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.reading import read_image
from resnetkit.sources.paths import PathList
from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD

CROP = Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD)
AUGMENTATIONS = ("none", "gentle", "basic", "strong")


@pytest.fixture(scope="module")
def samples(photographs: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Twelve JPEG files: photographs, parts of them, and a panorama of 4x600."""
    folder = tmp_path_factory.mktemp("images")
    china, flower = photographs["china"], photographs["flower"]
    images = [
        *photographs.values(),
        china[:4, :600],
        china[:90],
        flower[:, :90],
        flower[:300],
        china[100:],
        flower[50:],
    ]
    paths = [folder / f"{number}.jpg" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path, quality=90)
    return Samples(PathList(folder, paths), [number % 3 for number in range(len(images))])


def open_loader(samples: Samples, preprocessing: Preprocessing = CROP, **settings: object) -> ImageLoader:
    changes = Changes(str(settings.pop("augmentation", "basic")))
    return ImageLoader(samples, preprocessing, LoaderSettings(changes, **settings))  # type: ignore[arg-type]


def collect(batches: Iterator[Batch]) -> dict[int, bytes]:
    """Return the pixels of each image by its index."""
    return {
        int(index): image.numpy().tobytes()
        for batch in batches
        for index, image in zip(batch.indices, batch.images, strict=True)
    }


@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
def test_plain_views_are_what_inference_sees(samples: Samples, mode: str) -> None:
    preprocessing = Preprocessing(64, 73, mode, IMAGENET_MEAN, IMAGENET_STD)
    with closing(open_loader(samples, preprocessing)) as loader:
        for _ in range(2):  # read, then kept
            batches = list(loader.plain(5))
            assert [len(batch.indices) for batch in batches] == [5, 5, 2]
            for batch in batches:
                assert batch.images.dtype == torch.uint8
                assert batch.labels.dtype == torch.int64
                for index, image, label in zip(batch.indices, batch.images, batch.labels, strict=True):
                    assert np.array_equal(image, preprocessing.prepare(read_image(samples[index].path)))
                    assert label == samples[index].label


def test_batches_follow_the_order_asked_for(samples: Samples) -> None:
    order = [7, 3, 3, 0, 11]
    with closing(open_loader(samples)) as loader:
        for batches in (list(loader.plain(2, order)), list(loader.augmented(2, 0, np.array(order)))):
            assert [batch.indices.tolist() for batch in batches] == [[7, 3], [3, 0], [11]]
        assert list(loader.plain(2, [])) == []


def test_without_augmentation_every_epoch_is_plain(samples: Samples) -> None:
    with closing(open_loader(samples, augmentation="none")) as loader:
        assert collect(loader.augmented(4, 3, range(12))) == collect(loader.plain(4))


@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_order_batch_size_and_memory_have_no_influence(samples: Samples, augmentation: str, mode: str) -> None:
    preprocessing = Preprocessing(64, 73, mode, IMAGENET_MEAN, IMAGENET_STD)
    with closing(open_loader(samples, preprocessing, augmentation=augmentation, memory_bound_mb=0)) as loader:
        expected = {epoch: collect(loader.augmented(12, epoch, range(12))) for epoch in (0, 1)}
    with closing(open_loader(samples, preprocessing, augmentation=augmentation)) as loader:
        for epoch in (1, 0, 1):
            assert collect(loader.augmented(5, epoch, range(11, -1, -1))) == expected[epoch]
        assert collect(loader.augmented(1, 0, [4])) == {4: expected[0][4]}
    assert (expected[0] == expected[1]) == (augmentation == "none")


def test_processes_give_what_threads_give(samples: Samples) -> None:
    augmentation = "strong"
    torch.manual_seed(1)
    with closing(open_loader(samples, augmentation=augmentation)) as loader:
        expected = [collect(loader.plain(5)), *(collect(loader.augmented(5, epoch, range(12))) for epoch in (0, 1))]
    torch.manual_seed(2)
    with closing(open_loader(samples, augmentation=augmentation, num_workers=2)) as loader:
        assert [
            collect(loader.plain(3)),
            *(collect(loader.augmented(4, epoch, range(12))) for epoch in (0, 1)),
        ] == expected


def test_seeds_give_different_views(samples: Samples) -> None:
    views = []
    for seed in (0, 1):
        with closing(open_loader(samples, seed=seed)) as loader:
            views.append(collect(loader.augmented(12, 0, range(12))))
    assert all(views[0][index] != views[1][index] for index in range(12) if index != 6)


def test_large_images_are_reduced_by_averages_first(photographs: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    large = np.repeat(np.repeat(photographs["china"], 3, 0), 3, 1)  # 1281x1920: more than four times 91
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(photographs["china"]).save(tmp_path / "small.png")
    loader = open_loader(
        Samples(PathList(tmp_path, [tmp_path / "large.png", tmp_path / "small.png"]), [0, 0]), augmentation="basic"
    )
    with closing(loader):
        maker_views = collect(loader.augmented(2, 0, [0, 1]))
        assert len(maker_views) == 2
        team = loader._team
        assert team is not None
        large_reduced, small_reduced = (
            team._maker._memory.get("reduced", (tmp_path / name).absolute())  # type: ignore[union-attr]
            for name in ("large.png", "small.png")
        )
        assert large_reduced is not None
        assert small_reduced is not None
    assert large_reduced.shape == small_reduced.shape == (91, 136, 3)
    assert np.abs(large_reduced.astype(int) - small_reduced).mean() < 4


def test_images_that_would_lose_less_than_half_of_their_pixels_are_not_reduced() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    np.testing.assert_array_equal(_reduce_short_side(image, 71), image)
    np.testing.assert_array_equal(_reduce_short_side(image[:50], 71), image[:50])
    assert _reduce_short_side(image, 70).shape == (70, 84, 3)


# --- Keeping ---


@pytest.mark.parametrize("num_workers", [0, 1])
def test_kept_images_are_not_read_again(samples: Samples, tmp_path: Path, num_workers: int) -> None:
    copies = copy_samples(samples, tmp_path)
    with closing(open_loader(copies, augmentation="basic", num_workers=num_workers)) as loader:
        plain, view = collect(loader.plain(4)), collect(loader.augmented(4, 0, range(12)))
        for sample in copies:
            sample.path.unlink()
        assert collect(loader.plain(4)) == plain
        assert collect(loader.augmented(4, 0, range(12))) == view
        assert loader.skipped == []


def test_kept_images_stay_within_the_bound(samples: Samples, tmp_path: Path) -> None:
    room_for = 5
    copies = copy_samples(samples.select([2] * 12), tmp_path)
    preprocessing = Preprocessing(256, 292, "crop", IMAGENET_MEAN, IMAGENET_STD)  # 196,608 bytes a view
    with closing(open_loader(copies, preprocessing, augmentation="none", memory_bound_mb=1)) as loader:
        list(loader.plain(4))
        for sample in copies:
            sample.path.unlink()
        assert sum(len(batch.indices) for batch in loader.plain(4)) == room_for


# --- What goes wrong ---


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_that_becomes_unreadable_is_left_out_and_noted_once(
    samples: Samples, tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    copies = copy_samples(samples, tmp_path)
    copies[3].path.write_bytes(b"broken")
    copies[8].path.unlink()
    with closing(open_loader(copies, num_workers=num_workers)) as loader:
        for _ in range(2):
            for batches in (loader.plain(4), loader.augmented(4, 0, range(12))):
                assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [4, 5, 6, 7], [9, 10, 11]]
        assert list(loader.plain(1, [3, 8])) == [], "no empty batches"
        assert [path for path, _ in loader.skipped] == [copies[3].path, copies[8].path]
        assert "no image of a known format" in loader.skipped[0][1]
        assert "no such file" in loader.skipped[1][1]
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("lost", "is_an_error"), [(1, False), (2, True), (6, True), (12, True)], ids=["one", "two", "half", "all"]
)
def test_checked_files_that_are_lost_end_the_reading(
    samples: Samples, tmp_path: Path, lost: int, is_an_error: bool
) -> None:
    copies = copy_samples(samples, tmp_path)
    for sample in copies[:lost]:
        sample.path.unlink()
    with closing(open_loader(copies, is_checked=True)) as loader:
        if is_an_error:
            with pytest.raises(DatasetError, match=f"of {len(copies)} images can no longer be read.*'{tmp_path}"):
                list(loader.plain(4))
        else:
            assert sum(len(batch.indices) for batch in loader.plain(4)) == len(copies) - 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_folder_that_is_gone_is_named_at_once(
    samples: Samples, tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    copies = copy_samples(samples, tmp_path / "drive")
    shutil.rmtree(tmp_path / "drive")
    with closing(open_loader(copies, is_checked=True, num_workers=num_workers)) as loader:
        with pytest.raises(DatasetError, match=r"the folder '.*drive.*' is no longer there"):
            list(loader.plain(4))
        assert len(loader.skipped) == 1


def test_image_over_the_limit_is_left_out(samples: Samples) -> None:
    with closing(open_loader(samples, max_megapixels=0.2)) as loader:
        list(loader.plain(4))
        sizes = [read_image(sample.path).shape for sample in samples]
        large = [index for index, (height, width, _) in enumerate(sizes) if height * width > 200_000]
        assert 2 <= len(large) < len(samples)
        assert [path.name for path, _ in loader.skipped] == [f"{index}.jpg" for index in large]
        assert all("more than the limit of 0.2 megapixels" in reason for _, reason in loader.skipped)


def test_process_that_dies_is_an_error_that_says_what_to_do(samples: Samples) -> None:
    others = set(psutil.Process().children())
    with closing(open_loader(samples, num_workers=1, memory_bound_mb=0)) as loader:
        list(loader.plain(4))
        [process] = set(psutil.Process().children()) - others
        process.kill()
        with pytest.raises(RuntimeError, match=r"ended unexpectedly with exit code -?\d+.*'num_workers'"):
            list(loader.plain(4))


def test_program_that_is_not_python_reads_in_threads(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/Ikomia/IkomiaStudio")
    with closing(open_loader(samples, num_workers=2)) as loader:
        assert len(collect(loader.plain(4))) == 12
    assert "images are read in threads" in caplog.text


def test_a_shared_memory_keeps_the_first_that_fit_and_forgets_when_closed() -> None:
    memory = ImageMemory(bound_mb=0.001)
    first, second, third = (np.full(400, number, np.uint8) for number in range(3))
    memory.keep("plain", Path("a"), first)
    memory.keep("plain", Path("a"), second)
    memory.keep("reduced", Path("a"), second)
    assert not memory.is_full
    memory.keep("plain", Path("b"), third)
    assert memory.is_full
    assert memory.get("plain", Path("a")) is first
    assert memory.get("reduced", Path("a")) is second
    assert memory.get("plain", Path("b")) is None
    memory.close()
    memory.keep("plain", Path("a"), first)
    assert memory.get("plain", Path("a")) is None


# --- Nothing is left behind ---


@pytest.mark.parametrize("num_workers", [0, 1])
def test_closing_ends_threads_and_processes_also_in_the_middle(samples: Samples, num_workers: int) -> None:
    threads, others = set(threading.enumerate()), set(psutil.Process().children())
    loader = open_loader(samples, num_workers=num_workers)
    assert set(threading.enumerate()) == threads, "constructing starts nothing"
    batches = loader.augmented(2, 0, range(12))
    next(batches)
    assert len(set(psutil.Process().children()) - others) == num_workers
    batches.close()
    loader.close()
    loader.close()
    gc.collect()
    assert set(threading.enumerate()) == threads
    assert set(psutil.Process().children()) <= others


def test_loader_can_be_used_again_after_closing(samples: Samples) -> None:
    loader = open_loader(samples)
    for _ in range(2):
        assert len(collect(loader.plain(4))) == 12
        loader.close()


SCRIPT = """
import json, sys
from pathlib import Path

print("main script runs", flush=True)
sys.path.insert(0, sys.argv[1])
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.data.augmentation import Changes
from resnetkit.data.dataset import DatasetError, Samples
from resnetkit.data.loading import ImageLoader, LoaderSettings
from resnetkit.sources.paths import PathList

samples = Samples(PathList(Path(sys.argv[2]), sorted(Path(sys.argv[2]).glob("*.jpg"))), [0] * 12)
loader = ImageLoader(samples, Preprocessing(64, 73, "crop", (0.5,) * 3, (0.5,) * 3), LoaderSettings(num_workers=1))
print(sum(len(batch.indices) for batch in loader.plain(4)), "images", flush=True)
if sys.argv[3] == "wait":
    import time

    time.sleep(60)
loader.close()
"""


def test_main_script_needs_no_guard_and_runs_once(samples: Samples, run_script) -> None:  # type: ignore[no-untyped-def]
    root = Path(__file__).resolve().parents[2]
    result = run_script(SCRIPT, [str(root), str(samples[0].path.parent), "end"])
    assert result.output.splitlines() == ["main script runs", "12 images"]


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_processes_end_when_their_parent_is_killed(samples: Samples, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    script, output = tmp_path / "script.py", tmp_path / "output.txt"
    script.write_text(SCRIPT)
    with output.open("wb") as file:
        process = psutil.Popen(
            [sys.executable, str(script), str(root), str(samples[0].path.parent), "wait"], stdout=file, stderr=file
        )
    deadline = time.monotonic() + 90
    while "images" not in output.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = process.children()
    assert len(workers) == 1, output.read_text()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def copy_samples(samples: Samples, folder: Path) -> Samples:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.jpg" for number in range(len(samples))]
    for path, sample in zip(paths, samples, strict=True):
        path.write_bytes(sample.path.read_bytes())
    return Samples(PathList(folder, paths), samples.labels)
