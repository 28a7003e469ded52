"""Make the README's pictures: photographs with infer_resnet's answers, the charts of a training, the demo's digits.

ImageNet weights are not needed: a ResNet-18 is trained on the spot to tell six photographs apart by their parts, and
another one, briefly, to read handwritten digits, so that there are mistakes to show. Writes into docs/images/.
`make pictures` runs it after the demo, whose home folder and answers it uses.
"""

from __future__ import annotations

import os
import runpy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES_FOLDER = REPOSITORY / "docs" / "images"
_CROPS_PER_CLASS = 60
_CROP_SHARE = (0.35, 0.9)
#: Where the photographs stand in the picture of the chained workflow: left, top, width, height.
_BOXES = ((30, 40, 300, 225), (365, 25, 260, 260), (660, 60, 270, 180), (60, 320, 250, 250), (390, 330, 330, 220))
_SCENE = ("temple", "cat", "flower", "astronaut", "coffee")

#: What the chained workflow's picture shows: the photographs this wide, and the table in the rest.
_CHAINED_SIZE = (1200, 500)
_CHAINED_TABLE = (836, 1180)
_ROW_HEIGHT = 52

TRAINING = {
    "use_pretrained": False,
    "feature_extract": False,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "tracking": "off",
    "export_pth": False,
}
PARTS_TRAINING = {"input_size": 128, "epochs": 8, "batch_size": 24}
#: So few epochs that some digits are still taken for others; a mirrored digit is another sign.
DIGITS_TRAINING = {"input_size": 64, "resize_mode": "squash", "augmentation": "none", "epochs": 4, "batch_size": 32}


def load_photographs() -> dict[str, np.ndarray]:
    """Return photographs that scikit-learn and scikit-image ship, by what they show, (height, width, 3) uint8."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    return {
        "astronaut": data.astronaut(),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "flower": load_sample_image("flower.jpg"),
        "rocket": data.rocket(),
        "temple": load_sample_image("china.jpg"),
    }


def write_crops(photographs: dict[str, np.ndarray], folder: Path) -> None:
    """Write random parts of each photograph as class folders, brightness and colours changed a little."""
    generator = np.random.default_rng(0)
    for label, photograph in photographs.items():
        (folder / label).mkdir(parents=True)
        height, width = photograph.shape[:2]
        for number in range(_CROPS_PER_CLASS):
            side = int(min(height, width) * generator.uniform(*_CROP_SHARE))
            top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
            colors = generator.uniform(0.8, 1.2, 3)
            crop = np.clip(photograph[top : top + side, left : left + side] * colors, 0, 255).astype(np.uint8)
            Image.fromarray(crop).resize((160, 160)).save(folder / label / f"{number:02}.jpg")


def train(folder: Path, output_folder: Path, parameters: dict[str, Any]) -> Path:
    """Train on class folders through a workflow; return the run folder."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("Train")
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    folders = {"dataset_folder": str(folder), "output_folder": str(output_folder)}
    task.set_parameters({**folders, **TRAINING, **parameters})
    workflow.run()
    return Path(task.get_checkpoint()).parent


def classify(run_folder: Path, image: np.ndarray, boxes: Sequence[tuple[float, ...]] = (), top_k: int = 5) -> Any:
    """Classify an image, or boxes of it, through a workflow; return the task."""
    from ikomia import core, dataprocess
    from ikomia.dataprocess.workflow import Workflow

    class BoxDetector(dataprocess.CObjectDetectionTask):
        """A detector that knows where things are."""

        def __init__(self) -> None:
            super().__init__("detector")
            self.set_param_object(core.CWorkflowTaskParam())

        def run(self) -> None:
            """Give out the boxes."""
            self.begin_task_run()
            self.set_names(["thing"])
            for number, box in enumerate(boxes):
                self.add_object(number, 0, 1.0, *(float(value) for value in box))
            self.end_task_run()

    workflow = Workflow("Classify")
    if boxes:
        workflow.add_task(BoxDetector(), auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(run_folder), "heatmap": True, "top_k": top_k})
    workflow.run_on(array=image)
    return task


def make_scene(photographs: dict[str, np.ndarray]) -> np.ndarray:
    """Lay photographs on a table, one in each box."""
    scene = Image.new("RGB", (960, 600), (196, 184, 168))
    for label, (left, top, width, height) in zip(_SCENE, _BOXES, strict=True):
        picture = Image.fromarray(photographs[label])
        share = max(width / picture.width, height / picture.height)
        picture = picture.resize((round(picture.width * share), round(picture.height * share)))
        x, y = (picture.width - width) // 2, (picture.height - height) // 2
        scene.paste(picture.crop((x, y, x + width, y + height)), (left, top))
    return np.asarray(scene)


def draw_chained(task: Any) -> np.ndarray:
    """Lay the annotated picture and the table that the task gives out (output 3) side by side."""
    page = Image.new("RGB", _CHAINED_SIZE, "white")
    picture = Image.fromarray(task.get_image_with_graphics())
    height = _CHAINED_SIZE[1]
    page.paste(picture.resize((picture.width * height // picture.height, height), Image.Resampling.LANCZOS))
    table = task.get_output(3)
    rows = [("Class", *table.get_all_header_labels())]
    rows += zip(table.get_all_label_list()[0], *table.get_all_value_list(), strict=True)
    draw = ImageDraw.Draw(page)
    (left, right), top = _CHAINED_TABLE, (height - len(rows) * _ROW_HEIGHT) // 2
    for number, (label, index, confidence) in enumerate(rows):
        font = ImageFont.load_default(size=22 if number else 20)
        color = "#1b2530" if number else "#5d6975"
        y = top + number * _ROW_HEIGHT
        for x, text, anchor in ((left, label, "lm"), (left + 200, index, "rm"), (right, confidence, "rm")):
            draw.text((x, y + _ROW_HEIGHT // 2), text, fill=color, font=font, anchor=anchor)
        draw.line((left, y + _ROW_HEIGHT, right, y + _ROW_HEIGHT), fill="#e2e7ec" if number else "#5d6975", width=2)
    return np.asarray(page)


def save(picture: np.ndarray, name: str, longest_side: int = 720) -> None:
    """Save a picture small."""
    path = IMAGES_FOLDER / name
    image = Image.fromarray(picture)
    image.thumbnail((longest_side, longest_side))
    image.save(path, quality=86, optimize=True)
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1000} kB")


def make_photograph_pictures(folder: Path) -> None:
    """Make the pictures of photographs and their parts, with a model trained in a temporary folder."""
    photographs = load_photographs()
    write_crops(photographs, folder / "parts")
    run_folder = train(folder / "parts", folder / "runs", PARTS_TRAINING)
    # One answer: this model knows six photographs, so that what it says of the others is no news.
    task = classify(run_folder, photographs["cat"], top_k=1)
    save(task.get_image_with_graphics(), "answer.jpg")
    save(task.get_output(4).get_image(), "heatmap.jpg")
    save(draw_chained(classify(run_folder, make_scene(photographs), _BOXES)), "chained.jpg", _CHAINED_SIZE[0])


def make_training_pictures(folder: Path) -> None:
    """Copy the pictures of a training on handwritten digits, made in a temporary folder."""
    demo = runpy.run_path(str(REPOSITORY / "examples" / "demo.py"))
    demo["write_digits"](folder / "digits")
    run_folder = train(folder / "digits", folder / "runs", DIGITS_TRAINING)
    for name, longest_side in (("training_curves", 1000), ("confusion_matrix", 720), ("worst_mistakes", 1100)):
        picture = Image.open(run_folder / f"{name}.png").convert("RGB")
        save(np.asarray(picture), f"{name}.png", longest_side)


def main() -> None:
    """Make all pictures."""
    os.environ.setdefault("IKOMIA_AUTO_COMPLETION", "0")
    IMAGES_FOLDER.mkdir(parents=True, exist_ok=True)
    for make in (make_photograph_pictures, make_training_pictures):
        with tempfile.TemporaryDirectory() as temporary:
            make(Path(temporary))
    answers = REPOSITORY / "demo" / "answers.png"
    if answers.is_file():
        save(np.asarray(Image.open(answers).convert("RGB")), "demo.png")


if __name__ == "__main__":
    main()
