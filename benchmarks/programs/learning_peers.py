"""Train with what people use instead of resnetkit, for benchmarks/learning.py: it knows nothing of this project.

DATA holds `{train,val,test}/<class>/*`. All peers see squashed images, decoded once and kept in memory, and the same
starting weights, mean and deviation; they compute in fp32, their default on a CPU, and keep their own defaults
otherwise:

- fastai: `vision_learner` with its own head and `aug_transforms()`, which mirrors; `fine_tune(5)` from weights,
  `fit_one_cycle(20)` from scratch, in batches of 64. `fastai_16`: batches of 16, since 600 images are 9 steps of 64.
  `fastai_find`: batches of 64 at the learning rate that `lr_find` suggests.
- tutorial: pytorch.org's "Transfer learning for computer vision": SGD 0.001 with momentum 0.9, a tenth every 7 of 25
  epochs, random resized crop and mirror, the epoch of the best validation accuracy kept; in batches of 8.
- timm: timm's parts as its training script puts them together for few images: 30 epochs of AdamW, 5e-4, decay 0.05
  (none on norms and biases), warm-up and cosine, RandAugment `rand-m6-mstd0.5-inc1`, a mirror, crops of at least 0.35
  of the area, label smoothing 0.1, averaged weights, which the script looks at on the validation images after every
  epoch. Those of the last epoch are taken: on these data they are better than those of the best. `timm_still` does not
  mirror.
- sklearn: LogisticRegression on the features of the frozen network; as they are or standardized, and C from 1e-4 to 10
  by decades, whichever is most often right on the validation images (of equals the smaller C).
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import get_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FASTAI_EPOCHS = 5
FASTAI_SCRATCH_EPOCHS = 20
TUTORIAL_EPOCHS = 25
TIMM_EPOCHS = 30


class Images(Dataset):
    """Images of a split, in memory, with their labels."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("*/*"))
        self.classes = sorted({path.parent.name for path in paths})
        self.labels = [self.classes.index(path.parent.name) for path in paths]
        self.images = [Image.open(path).convert("RGB") for path in paths]
        self.transform: Callable[[Any], Any] = transforms.ToTensor()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


@dataclass(frozen=True)
class Task:
    """What every peer is given.

    Attributes:
        data: Folder with `{train,val,test}/<class>/*`.
        weights: State dict of the same architecture to start from, or None.
        input_size: Side in pixels of the squashed image.
        seed: Start of every random draw.
    """

    data: Path
    weights: Path | None
    input_size: int
    seed: int

    def build_network(self, num_classes: int) -> nn.Module:
        """Build the network with the starting weights, and a new last layer."""
        network: nn.Module = get_model("resnet18", weights=None, num_classes=num_classes)
        if self.weights is not None:
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
            network.load_state_dict({k: v.float() for k, v in state.items() if not k.startswith("fc.")}, strict=False)
        return network

    def open(self, split: str, batch_size: int, augment: list[Any] | None = None) -> DataLoader:
        """Open a split; without augmentation, images are squashed and in order."""
        steps = augment or [transforms.Resize((self.input_size, self.input_size))]
        images = Images(self.data / split)
        images.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        return DataLoader(images, batch_size, shuffle=augment is not None, drop_last=augment is not None)


Outcome = tuple[torch.Tensor, torch.Tensor]  # (N, classes) probabilities and (N,) labels
Predict = Callable[[], Outcome]


def train_fastai(task: Task, batch_size: int = 64, has_finder: bool = False) -> Predict:
    """Train with fastai; return how to predict the test images."""
    fv = import_fastai()
    fv.set_seed(task.seed, reproducible=True)
    splits = {name: Images(task.data / name) for name in ("train", "val")}
    images = [image for split in splits.values() for image in split.images]
    labels = [split.classes[label] for split in splits.values() for label in split.labels]
    num_train = len(splits["train"])
    block = fv.DataBlock(
        blocks=(fv.ImageBlock, fv.CategoryBlock),
        get_items=lambda _: list(range(len(images))),
        get_x=lambda index: fv.PILImage.create(np.asarray(images[index])),
        get_y=lambda index: labels[index],
        splitter=fv.IndexSplitter(list(range(num_train, len(images)))),
        item_tfms=fv.Resize(task.input_size, method="squash"),
        batch_tfms=[*fv.aug_transforms(), fv.Normalize.from_stats(MEAN, STD)],
    )
    loaders = block.dataloaders(None, bs=batch_size, num_workers=0)
    learner = fv.vision_learner(loaders, fv.resnet18, pretrained=False, normalize=False, metrics=fv.accuracy)
    # fastai's body is the network without its last two layers, in order.
    learner.model[0] = nn.Sequential(*list(task.build_network(len(splits["train"].classes)).children())[:-2])
    learner.create_opt()
    with learner.no_bar(), learner.no_logging():
        if has_finder:
            learner.freeze() if task.weights else learner.unfreeze()
            rate = float(learner.lr_find(show_plot=False).valley)
        if task.weights:
            learner.fine_tune(FASTAI_EPOCHS, **({"base_lr": rate} if has_finder else {}))
        else:
            learner.fit_one_cycle(FASTAI_SCRATCH_EPOCHS, **({"lr_max": rate} if has_finder else {}))

    def predict() -> Outcome:
        test = task.open("test", 64)
        return predict_torch(learner.model, test)

    return predict


def import_fastai() -> Any:
    """Return the module that fastai's documentation imports everything from."""
    from fastai.vision import all as fv

    return fv


def train_tutorial(task: Task) -> Predict:
    """Train with the loop of pytorch.org's tutorial; the epoch with the best validation accuracy is kept."""
    augment = [transforms.RandomResizedCrop(task.input_size), transforms.RandomHorizontalFlip()]
    train, val = task.open("train", 8, augment), task.open("val", 64)
    network = task.build_network(len(train.dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, best_accuracy = network.state_dict(), -1.0
    for _ in range(TUTORIAL_EPOCHS):
        network.train()
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        if (accuracy := measure(network, val)) > best_accuracy:
            best, best_accuracy = copy.deepcopy(network.state_dict()), accuracy
    network.load_state_dict(best)
    return lambda: predict_torch(network, task.open("test", 64))


def train_timm(task: Task, mirror: float = 0.5) -> Predict:
    """Train with timm's parts; the averaged weights of the last epoch are kept."""
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    steps = create_transform(
        task.input_size, is_training=True, auto_augment="rand-m6-mstd0.5-inc1", scale=(0.35, 1.0), hflip=mirror,
        mean=MEAN, std=STD,
    ).transforms  # fmt: skip
    augment = [step for step in steps if step.__class__.__name__ not in ("ToTensor", "MaybeToTensor", "Normalize")]
    train, val = task.open("train", 32, augment), task.open("val", 64)
    network = task.build_network(len(train.dataset.classes))
    optimizer = create_optimizer_v2(network, opt="adamw", lr=5e-4, weight_decay=0.05)
    total = TIMM_EPOCHS * len(train)
    schedule = CosineLRScheduler(
        optimizer, t_initial=total, warmup_t=total // 10, warmup_lr_init=1e-6, warmup_prefix=True, t_in_epochs=False
    )
    average = ModelEmaV3(network, decay=0.99, use_warmup=True)
    step = 0
    for _ in range(TIMM_EPOCHS):
        network.train()
        for images, labels in train:
            schedule.step_update(step)
            loss = F.cross_entropy(network(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            average.update(network, step=step)
        measure(average.module, val)
    return lambda: predict_torch(average.module, task.open("test", 64))


def fit_sklearn(task: Task) -> Predict:
    """Fit scikit-learn's LogisticRegression to features; the validation images choose among twelve fits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = task.build_network(2)
    network.fc = nn.Identity()

    def compute_features(split: str) -> tuple[np.ndarray, np.ndarray]:
        features, labels = predict_torch(network, task.open(split, 64), is_softmax=False)
        return features.numpy(), labels.numpy()

    train, val = compute_features("train"), compute_features("val")
    best, best_accuracy = None, -1.0
    for is_scaled in (False, True):
        for strength in (1e-4, 1e-3, 1e-2, 0.1, 1, 10):
            fit = LogisticRegression(C=strength, max_iter=1000)
            model = make_pipeline(StandardScaler(), fit) if is_scaled else fit
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of strengths at which it takes more than 1,000 steps
                accuracy = model.fit(*train).score(*val)
            if accuracy > best_accuracy:
                best, best_accuracy = model, accuracy
    assert best is not None

    def predict() -> Outcome:
        features, labels = compute_features("test")
        return torch.from_numpy(best.predict_proba(features)), torch.from_numpy(labels)

    return predict


def predict_torch(network: nn.Module, batches: DataLoader, is_softmax: bool = True) -> Outcome:
    """Return probabilities, or what the network gives, and labels."""
    network.eval()
    with torch.inference_mode():
        pairs: Iterator[Outcome] = ((network(images), labels) for images, labels in batches)
        logits, labels = zip(*pairs, strict=True)
    return torch.cat(logits).softmax(1) if is_softmax else torch.cat(logits), torch.cat(labels)


def measure(network: nn.Module, batches: DataLoader) -> float:
    """Return the accuracy."""
    shares, labels = predict_torch(network, batches)
    return (shares.argmax(1) == labels).float().mean().item()


PEERS: dict[str, Callable[[Task], Predict]] = {
    "fastai": train_fastai,
    "fastai_16": partial(train_fastai, batch_size=16),
    "fastai_find": partial(train_fastai, has_finder=True),
    "tutorial": train_tutorial,
    "timm": train_timm,
    "timm_still": partial(train_timm, mirror=0.0),
    "sklearn": fit_sklearn,
}


#: What a peer imports; the first optimizer of a process imports torch's compiler.
IMPORTS = {
    "fastai": ("torch._dynamo", "fastai.vision.all"),
    "timm": ("torch._dynamo", "timm.data", "timm.optim", "timm.scheduler", "timm.utils"),
    "tutorial": ("torch._dynamo",),
    "sklearn": ("sklearn.linear_model", "sklearn.pipeline", "sklearn.preprocessing"),
}


def main() -> None:
    """Train one peer, write the probabilities of the test images, and print the seconds of both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", type=Path, help="state dict to start from; none trains from scratch")
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    np.random.seed(given.seed)  # timm's and fastai's augmentation draw from the global state
    torch.manual_seed(given.seed)
    for module in IMPORTS.get(given.peer.split("_")[0], ()):  # imports are not counted
        importlib.import_module(module)

    began, began_cpu = time.monotonic(), time.process_time()
    predict = PEERS[given.peer](Task(given.data, given.weights, given.input_size, given.seed))
    probabilities, labels = predict()
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
    np.savez(given.output, labels=labels.numpy(), probabilities=probabilities.double().numpy())
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
