"""Make the pictures of the README from real photographs: a top-k picture, a heat map, boxes, and the demo's answers.

ImageNet weights are not needed: a ResNet-18 is trained on the spot to tell six photographs apart by their parts.
Writes into docs/images/. Run it with the environment of `make setup`; the last picture needs a `make demo` before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES_FOLDER = REPOSITORY / "docs" / "images"
_CROPS_PER_CLASS = 60
_CROP_SHARE = (0.35, 0.9)
#: Where the photographs stand in the picture of the chained workflow: left, top, width, height.
_BOXES = ((30, 40, 300, 225), (365, 25, 260, 260), (660, 60, 270, 180), (60, 320, 250, 250), (390, 330, 330, 220))
_SCENE = ("temple", "cat", "flower", "astronaut", "coffee")

TRAINING = {
    "use_pretrained": False,
    "feature_extract": False,
    "input_size": 128,
    "epochs": 8,
    "batch_size": 24,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "tracking": "off",
    "export_pth": False,
}


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


def train(folder: Path, output_folder: Path) -> Path:
    """Train on the crops through a workflow; return the run folder."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("Train")
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters({"dataset_folder": str(folder), "output_folder": str(output_folder), **TRAINING})
    workflow.run()
    return Path(task.get_checkpoint()).parent


def classify(run_folder: Path, image: np.ndarray, boxes: Sequence[tuple[float, ...]] = ()) -> tuple[np.ndarray, ...]:
    """Classify an image, or boxes of it, through a workflow; return the annotated picture and the heat map."""
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
    task.set_parameters({"model_weight_file": str(run_folder), "heatmap": True})
    workflow.run_on(array=image)
    return task.get_image_with_graphics(), task.get_output(4).get_image()


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


def save(picture: np.ndarray, name: str) -> None:
    """Save a picture small."""
    path = IMAGES_FOLDER / name
    image = Image.fromarray(picture)
    image.thumbnail((720, 720))
    image.save(path, quality=86)
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1000} kB")


def main() -> None:
    """Make all pictures."""
    os.environ.setdefault("IKOMIA_AUTO_COMPLETION", "0")
    IMAGES_FOLDER.mkdir(parents=True, exist_ok=True)
    photographs = load_photographs()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_crops(photographs, folder / "parts")
        run_folder = train(folder / "parts", folder / "runs")
        annotated, heatmap = classify(run_folder, photographs["cat"])
        save(annotated, "top_k.jpg")
        save(heatmap, "heatmap.jpg")
        save(classify(run_folder, make_scene(photographs), _BOXES)[0], "chained.jpg")
        for name in ("training_curves", "confusion_matrix"):
            save(np.asarray(Image.open(run_folder / f"{name}.png").convert("RGB")), f"{name}.png")
    answers = REPOSITORY / "demo" / "answers.png"
    if answers.is_file():
        save(np.asarray(Image.open(answers).convert("RGB")), "demo.png")


if __name__ == "__main__":
    main()
