"""What cached views and the small-image stem bring and cost, on handwritten digits.

Views: a resnet18 learns the digits 0 to 4; then its frozen backbone gets a head for the digits 5 to 9, 15 epochs with
the augmentation `basic`. `cached_views` features of each image are compared with the plain way, which augments every
image anew in every epoch and sends it through the network in PyTorch (fp32). 40 % of the digits are trained on, 10 %
choose the best epoch, 50 % are held out; the accuracy is that on the held-out ones. Every seed draws another split,
another head and other views, the same for each row.

Stem: a resnet18 learns all ten digits from scratch, 32x32 pixels, with and without `small_input_stem`.

scikit-learn ships the 1,797 digits (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tables import DATA_FOLDER, REPOSITORY, Table, describe_spread, parse_arguments

sys.path.insert(0, str(REPOSITORY))

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from resnetkit.data.dataset import read_dataset
from resnetkit.images.preprocessing import normalize
from resnetkit.learners.initialization import initialize
from resnetkit.learners.learner import ImageSplits, shuffle
from resnetkit.learners.optimization import build_optimizer, compute_learning_rate
from resnetkit.learners.recipe import choose_recipe
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import train
from resnetkit.weights.models import load_model

SIZE = 32
EPOCHS = 15
FOLDER = DATA_FOLDER / "digits"


@dataclass
class Scores:
    """Accuracy on held-out digits and seconds of training, one of each a seed."""

    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def describe(self) -> tuple[str, str, str]:
        """Return mean and standard error of the accuracy, the seconds and n, as texts."""
        mean, error = np.mean(self.accuracies), self.compute_error()
        return f"{mean:.4f} ± {error:.4f}", f"{describe_spread(self.seconds, 1)} s", str(len(self.accuracies))

    def compute_error(self) -> float:
        """Return the standard error of the mean accuracy."""
        return float(np.std(self.accuracies, ddof=1) / np.sqrt(len(self.accuracies))) if self.accuracies[1:] else 0.0


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    seeds = range(arguments.repeats or (2 if arguments.quick else 5))
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.chdir(FOLDER)
    table = Table("training_accuracy", __doc__, ("training", "accuracy", "time", "n"))
    compare_views(table, seeds)
    compare_stems(table, seeds[:3], epochs=2 if arguments.quick else 6)
    table.notes.append(
        "Accuracy: mean ± standard error. Time: median and spread, of the whole training in one process, imports apart."
    )
    table.write(arguments)


def compare_views(table: Table, seeds: Sequence[int]) -> None:
    """Add a row for each number of cached views, and one for every epoch anew."""
    backbone = train_backbone()
    rows: dict[str, Callable[[TrainParameters, Path], tuple[float, float]]] = {
        "head, every epoch anew": train_anew,
        **{f"head, cached_views={views}": make_cached(views) for views in (0, 1, 2)},
    }
    scores = {name: Scores() for name in rows}
    for seed in seeds:
        folder = write_digits(FOLDER / f"late-{seed}", range(5, 10), seed)
        parameters = TrainParameters(
            input_size=SIZE,
            small_input_stem=True,
            resize_mode="squash",
            model_weight_file=str(backbone),
            epochs=EPOCHS,
            learning_rate=0.01,
            seed=seed,
            **QUIET,
        )
        for name, run in rows.items():
            accuracy, seconds = run(parameters, folder)
            scores[name].accuracies.append(accuracy)
            scores[name].seconds.append(seconds)
    for name, score in scores.items():
        table.add(name, *score.describe())
    anew = scores["head, every epoch anew"]
    limit = np.mean(anew.accuracies) - anew.compute_error()
    reached = [name for name in list(rows)[1:] if np.mean(scores[name].accuracies) >= limit]
    table.notes.append(f"Not more than one standard error below every epoch anew: {', '.join(reached) or 'none'}.")


def compare_stems(table: Table, seeds: Sequence[int], epochs: int) -> None:
    """Add a row with and one without the small-image stem."""
    scores = {has_stem: Scores() for has_stem in (False, True)}
    for seed in seeds:
        folder = write_digits(FOLDER / f"all-{seed}", range(10), seed)
        for has_stem, score in scores.items():
            accuracy, seconds = train_and_test(make_scratch(seed, epochs, small_input_stem=has_stem), folder)
            score.accuracies.append(accuracy)
            score.seconds.append(seconds)
    for has_stem, score in scores.items():
        table.add(f"from scratch, {epochs} epochs, small_input_stem={has_stem}", *score.describe())


#: What would take time and has no influence on the accuracy.
QUIET = {"tracking": "off", "export_pth": False, "output_folder": str(FOLDER / "runs")}


def make_scratch(seed: int, epochs: int, small_input_stem: bool) -> TrainParameters:
    """Return the parameters of a training on digits from scratch."""
    return TrainParameters(
        input_size=SIZE,
        small_input_stem=small_input_stem,
        resize_mode="squash",
        use_pretrained=False,
        feature_extract=False,
        augmentation="none",
        epochs=epochs,
        batch_size=32,
        learning_rate=0.05,
        weight_decay=5e-4,
        seed=seed,
        **QUIET,
    )


def train_backbone() -> Path:
    """Train on the digits 0 to 4, unless that was done earlier; return the checkpoint."""
    path = FOLDER / "backbone.safetensors"
    if not path.is_file():
        folder = write_digits(FOLDER / "early", range(5), seed=0, test_share=0.1)
        checkpoint = train(make_scratch(0, 6, small_input_stem=True), folder).checkpoint
        shutil.copy(checkpoint, path)
    return path


def write_digits(folder: Path, digits: Sequence[int], seed: int, test_share: float = 0.5) -> Path:
    """Write digits as `folder`/{train,val,test}/<digit>/<number>.png; a fifth of what is not held out is for val."""
    if folder.is_dir():
        return folder
    data = load_digits()
    chosen = np.flatnonzero(np.isin(data.target, list(digits)))
    rest, test = train_test_split(chosen, test_size=test_share, stratify=data.target[chosen], random_state=seed)
    train_, val = train_test_split(rest, test_size=0.2, stratify=data.target[rest], random_state=seed)
    for split, indices in (("train", train_), ("val", val), ("test", test)):
        for index in indices:
            path = folder / split / str(data.target[index]) / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray((data.images[index] * 15.9375).astype(np.uint8))  # 0..16 to 0..255
            pixels.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
    return folder


def train_and_test(parameters: TrainParameters, folder: Path) -> tuple[float, float]:
    """Train with train_resnet; return the accuracy on held-out digits and the seconds."""
    began = time.monotonic()
    result = train(parameters, folder)
    seconds = time.monotonic() - began
    shutil.rmtree(result.folder)
    assert result.test_metrics is not None
    return result.test_metrics["accuracy"], seconds


def make_cached(views: int) -> Callable[[TrainParameters, Path], tuple[float, float]]:
    """Return the training of a head on cached features."""
    return lambda parameters, folder: train_and_test(parameters.updated({"cached_views": views}), folder)


def train_anew(parameters: TrainParameters, folder: Path) -> tuple[float, float]:
    """Train a head the plain way: every image through the frozen network in every epoch, augmented anew."""
    began = time.monotonic()
    dataset = read_dataset(folder, parameters.val_split, parameters.seed)
    start = initialize(parameters, dataset.classes)
    model = load_model(parameters.model_name, start.state_dict, parameters.small_input_stem)
    recipe = choose_recipe(parameters, len(dataset.train))
    splits = ImageSplits(dataset, start.preprocessing, parameters, recipe)
    head = torch.nn.Linear(model.fc.in_features, len(dataset.classes))
    head.load_state_dict(model.fc.state_dict())
    model.fc = torch.nn.Identity()  # in evaluation mode, and run without gradients: frozen
    optimizer = build_optimizer(recipe, head.parameters())
    num_batches = -(-len(dataset.train) // parameters.batch_size)

    def compute_features(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(normalize(images, start.preprocessing.mean, start.preprocessing.std))

    def evaluate(split: str) -> float:
        batches = list(splits.open(split).plain(32))
        answers = [head(compute_features(batch.images)).argmax(1) == batch.labels for batch in batches]
        return float(torch.cat(answers).float().mean())

    best, best_weights = -1.0, None
    for epoch in range(parameters.epochs):
        order = shuffle(np.arange(len(dataset.train)), parameters.seed, epoch)
        for number, batch in enumerate(splits.open("train").augmented(parameters.batch_size, epoch, order)):
            step = epoch * num_batches + number
            rate = compute_learning_rate(recipe, step, recipe.epochs * num_batches)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = F.cross_entropy(head(compute_features(batch.images)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = evaluate("val")
        if accuracy > best:
            best, best_weights = accuracy, {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(best_weights)
    accuracy = evaluate("test")
    splits.close()
    return accuracy, time.monotonic() - began


if __name__ == "__main__":
    main()
