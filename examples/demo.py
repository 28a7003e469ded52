"""Train ResNet-18 on real handwritten digits and read the ones that it never saw, through two Ikomia workflows.

`make demo` runs this, offline. scikit-learn ships the 1,797 digits, 8x8 pixels each, which 43 people wrote on paper
forms (E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from ikomia.dataprocess.workflow import Workflow
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent
DATASET_FOLDER = REPOSITORY / "build" / "demo" / "digits"
RUNS_FOLDER = REPOSITORY / "build" / "demo" / "runs"
PICTURES_FOLDER = REPOSITORY / "demo"

#: Side in pixels of a stored digit (4 times its own 8x8) and of the network's input.
DIGIT_SIZE = 32

#: From scratch, the whole network; all else is left to the recipe that suits the data.
TRAINING = {
    "model_name": "resnet18",
    "use_pretrained": False,
    "feature_extract": False,
    "input_size": DIGIT_SIZE,
    "resize_mode": "squash",
}


@dataclass(frozen=True)
class Answer:
    """What the network read on one held-out digit.

    Attributes:
        path: The picture.
        truth: The digit that was written.
        label: The digit that was read.
        confidence: Its probability.
    """

    path: Path
    truth: str
    label: str
    confidence: float

    @property
    def is_right(self) -> bool:
        """Tell whether what was read is what was written."""
        return self.label == self.truth


def write_digits(folder: Path) -> None:
    """Write all digits as `{train,val,test}/<digit>/<number>.png`: 70, 10 and 20 %, each digit in equal shares."""
    shutil.rmtree(folder, ignore_errors=True)
    digits = load_digits()
    everything = np.arange(len(digits.target))
    rest, test = train_test_split(everything, test_size=0.2, stratify=digits.target, random_state=0)
    train, val = train_test_split(rest, test_size=0.125, stratify=digits.target[rest], random_state=0)
    for part, indices in (("train", train), ("val", val), ("test", test)):
        for index in indices:
            path = folder / part / str(digits.target[index]) / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarge(digits.images[index])).save(path)
    print(f"digits: {len(train)} to train on, {len(val)} to select the best epoch, {len(test)} held out, in {folder}")


def enlarge(digit: np.ndarray) -> np.ndarray:
    """Return an (8, 8) digit with ink from 0 to 16 as (32, 32) uint8, smoothly."""
    smooth = cv2.resize(digit, (DIGIT_SIZE, DIGIT_SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(smooth * 255 / 16), 0, 255).astype(np.uint8)


def train(dataset_folder: Path) -> Path:
    """Train through a workflow; return the path of the best checkpoint."""
    workflow = Workflow("Train on digits")
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters({"dataset_folder": str(dataset_folder), "output_folder": str(RUNS_FOLDER), **TRAINING})
    workflow.run()
    return Path(task.get_checkpoint())


def classify(checkpoint: Path, paths: Sequence[Path]) -> list[Answer]:
    """Classify pictures through a second workflow that knows nothing but the checkpoint.

    A few are drawn by the plugin itself, large enough to look at, into the folder of pictures.
    """
    workflow = Workflow("Read digits")
    task = workflow.add_task(name="infer_resnet", params={"model_weight_file": str(checkpoint)}, auto_connect=True)
    answers = []
    for path in tqdm(paths, desc="classify", unit=" images", disable=None):
        workflow.run_on(path=str(path))
        prediction = task.get_predictions()[0]
        answers.append(Answer(path, path.parent.name, prediction.label, prediction.confidence))
    for answer in choose_examples(answers):
        pixels = np.asarray(Image.open(answer.path).convert("RGB").resize((480, 480), Image.Resampling.BICUBIC))
        workflow.run_on(array=pixels)
        Image.fromarray(task.get_image_with_graphics()).save(PICTURES_FOLDER / f"digit_{answer.truth}.png")
    return answers


def choose_examples(answers: Sequence[Answer]) -> list[Answer]:
    """Return the first answer for each digit."""
    return list({answer.truth: answer for answer in reversed(answers)}.values())


def draw_sheet(answers: Sequence[Answer], path: Path, columns: int = 10, tile: int = 96) -> None:
    """Draw digits with what was read on them below: green where it is right, red where it is wrong."""
    font = ImageFont.load_default(size=15)
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (columns * (tile + 8) + 8, rows * (tile + 34) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for number, answer in enumerate(answers):
        left, top = 8 + number % columns * (tile + 8), 8 + number // columns * (tile + 34)
        digit = Image.open(answer.path).convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC)
        sheet.paste(digit, (left, top))
        text = f"{answer.label}  {answer.confidence:.0%}"
        color = "#1a7f37" if answer.is_right else "#cf222e"
        if not answer.is_right:
            text += f"  (is {answer.truth})"
            draw.rectangle((left - 2, top - 2, left + tile + 1, top + tile + 1), outline=color, width=2)
        draw.text((left + tile // 2, top + tile + 4), text, fill=color, font=font, anchor="ma")
    sheet.save(path)


def draw_pictures(answers: Sequence[Answer]) -> None:
    """Draw one sheet with a sample of the answers and every mistake, and one with the mistakes alone."""
    mistakes = [answer for answer in answers if not answer.is_right]
    right = [answer for answer in answers if answer.is_right]
    count = max(0, 60 - len(mistakes))
    sample = [right[round(index)] for index in np.linspace(0, len(right) - 1, min(count, len(right)))]
    draw_sheet(sorted(sample + mistakes, key=lambda answer: answer.truth), PICTURES_FOLDER / "answers.png")
    if mistakes:
        draw_sheet(mistakes, PICTURES_FOLDER / "mistakes.png", columns=min(10, max(4, len(mistakes))))


def main() -> None:
    """Write the data set, train, classify, draw."""
    logging.getLogger("ikomia").setLevel(logging.ERROR)
    shutil.rmtree(PICTURES_FOLDER, ignore_errors=True)
    PICTURES_FOLDER.mkdir()
    write_digits(DATASET_FOLDER)
    checkpoint = train(DATASET_FOLDER)
    answers = classify(checkpoint, sorted(DATASET_FOLDER.glob("test/*/*.png")))
    draw_pictures(answers)
    accuracy = sum(answer.is_right for answer in answers) / len(answers)
    print(f"model: {checkpoint}")
    print(f"report: {checkpoint.parent / 'report.html'}")
    print(f"demo: test accuracy {accuracy:.4f} on {len(answers)} images; pictures in {PICTURES_FOLDER.name}/")


if __name__ == "__main__":
    main()
