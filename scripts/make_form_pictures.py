"""Photograph both forms, as Ikomia Studio shows them, into docs/images; needs no display.

python scripts/make_form_pictures.py [folder]
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

logger = logging.getLogger("make_form_pictures")

ROOT = Path(__file__).resolve().parent.parent
#: Pixels; about the panel of Ikomia Studio.
WIDTH = 440


def main(folder: Path) -> None:
    """Write form_infer.png and form_train.png."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as home:
        # Before ikomia is imported: it makes its folders there.
        os.environ.update(HOME=home, XDG_RUNTIME_DIR=home, QT_QPA_PLATFORM="offscreen", IKOMIA_AUTO_COMPLETION="0")
        _write_pictures(folder)


def _write_pictures(folder: Path) -> None:
    from PyQt6.QtWidgets import QApplication

    application = QApplication([])
    _use_fixed_font()

    from infer_resnet.infer_resnet_widget import InferResnetWidgetFactory
    from resnetkit.parameters.inference import InferParameters
    from resnetkit.parameters.training import TrainParameters
    from train_resnet.train_resnet_widget import TrainResnetWidgetFactory

    infer_values = InferParameters(model_weight_file=_make_weights_file(), confidence_threshold=0.5, heatmap=True)
    train_values = TrainParameters(dataset_folder=_make_dataset_folder(), input_size=160)
    _photograph(InferResnetWidgetFactory(), infer_values, folder / "form_infer.png")
    _photograph(TrainResnetWidgetFactory(), train_values, folder / "form_train.png")
    application.processEvents()


def _use_fixed_font() -> None:
    """Use the font that matplotlib brings: PyQt6 brings none, and a machine without a display may have none."""
    import matplotlib as mpl
    from PyQt6.QtGui import QFont, QFontDatabase
    from PyQt6.QtWidgets import QApplication

    QFontDatabase.addApplicationFont(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"))
    QApplication.setFont(QFont("DejaVu Sans", 9))
    QApplication.setStyle("Fusion")


def _make_weights_file() -> str:
    """Write the header of a weights file of train_resnet, which is all that the form reads."""
    from resnetkit.images.preprocessing import Preprocessing
    from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
    from resnetkit.weights.checkpoint import write_checkpoint
    from resnetkit.weights.metadata import ModelMetadata

    folder = Path.home() / "Ikomia" / "Models" / "train_resnet" / "latest"
    folder.mkdir(parents=True)
    classes = ("apple", "banana", "cherry", "grape", "kiwi", "lemon", "mango", "orange", "pear")
    preprocessing = Preprocessing(160, 166, "crop", IMAGENET_MEAN, IMAGENET_STD)
    write_checkpoint(folder / "best.safetensors", {}, ModelMetadata("resnet18", classes, preprocessing))
    return "~/Ikomia/Models/train_resnet/latest"


def _make_dataset_folder() -> str:
    (Path.home() / "Pictures" / "fruit").mkdir(parents=True)
    return "~/Pictures/fruit"


def _photograph(factory: Any, values: Any, path: Path) -> None:
    from ikomia import core
    from PyQt6.QtWidgets import QApplication, QScrollArea

    from resnetkit.parameters.adapter import ParametersAdapter

    class Param(ParametersAdapter, core.CWorkflowTaskParam):
        parameters_class = type(values)

    param = Param()
    param.values = values
    widget = factory.create(param)
    window = widget.form.window()
    window.resize(WIDTH, 200)
    window.show()
    QApplication.processEvents()
    # As tall as nothing needs to be scrolled.
    window.resize(WIDTH, 200 + window.findChild(QScrollArea).verticalScrollBar().maximum())
    QApplication.processEvents()
    window.resize(WIDTH, window.height() + window.findChild(QScrollArea).verticalScrollBar().maximum())
    QApplication.processEvents()
    window.grab().save(str(path))
    logger.info("%s: %d x %d", path, window.width(), window.height())
    # The widgets go before the application, or Qt ends with a segmentation fault.
    window.close()
    del window, widget
    gc.collect()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
