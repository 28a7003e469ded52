"""Results on disk, where the engine saves: each under a name of its own.

The engine names a file by task and image alone. Of two outputs of one kind, the second would lie over the first: the
heat map over the picture, an embedding, even an empty one, over the table. So what it would lay over each other is kept
from it and saved here, beside what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ikomia import dataprocess

from resnetkit.answers.model import Prediction
from resnetkit.folders.cells import write_text
from resnetkit.folders.tables import write_csv
from resnetkit.machine.files import atomic_path

#: Outputs that the engine does not save: detections (the graphics, of the same kind, say the same), table, heat map,
#: embedding.
_KEPT_FROM_ENGINE = (1, 3, 4, 5)
#: An output that stays the engine's: it tells whether results are saved at all.
_GRAPHICS, _HEATMAP = 2, 4


class ResultFiles:
    """Saves the results of a task while the engine saves, as it always does after `run_on(folder=)`.

    Args:
        task: The engine's task.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self._sources: dict[Path, str] = {}  # of each base of names that was used

    def keep_from_engine(self) -> None:
        """Have the engine not save what it would lay over each other; it forgets that at the next `run_on(folder=)`."""
        for index in _KEPT_FROM_ENGINE:
            self._task.get_output(index).auto_save = False

    def save(self, predictions: Sequence[Prediction]) -> None:
        """Save table, heat map and embedding of the last image, if the engine saves; frames of videos are not saved.

        They are `<task><image>.csv`, `<task><image>_heatmap.png` and `<task><image>_embedding.csv`, beside the engine's
        picture `<task><image>.png` and graphics `<task><image>.json`.

        Raises:
            OSError: The folder cannot be written to.
        """
        source = self._task.get_input(0)
        folder = self._task.output_folder
        if not folder or not self._task.get_output(_GRAPHICS).auto_save or isinstance(source, dataprocess.CVideoIO):
            return
        base = self._choose_base(folder, source.source_file_path)
        base.parent.mkdir(parents=True, exist_ok=True)
        write_csv(base.with_name(f"{base.name}.csv"), _make_rows(predictions))
        if predictions and predictions[0].embedding is not None:
            rows = [[str(index), *_format(row.embedding)] for index, row in enumerate(predictions)]
            header = ["index", *(f"embedding_{index}" for index in range(len(rows[0]) - 1))]
            write_csv(base.with_name(f"{base.name}_embedding.csv"), [header, *rows])
        heatmap = self._task.get_output(_HEATMAP)
        if heatmap.is_data_available():
            _save_picture(base.with_name(f"{base.name}_heatmap.png"), heatmap.get_image())

    def _choose_base(self, folder: str, source: str) -> Path:
        """Return the engine's own base of names, with a number where another image of that name came before."""
        name = f"{Path(folder).name}{Path(source).stem or 'empty'}"  # the engine's word for an image without a file
        base, number = Path(folder).with_name(name), 1
        while self._sources.setdefault(base, source) != source:
            number += 1
            base = base.with_name(f"{name}~{number}")
        return base


def _make_rows(predictions: Sequence[Prediction]) -> list[list[str]]:
    """Return header and rows: the top-k list of a whole image, or a row a box."""
    if len(predictions) == 1 and predictions[0].box is None:
        scores = [[write_text(each.label), str(each.index), f"{each.confidence:.6g}"] for each in predictions[0].top_k]
        return [["class", "index", "confidence"], *scores]
    rows = [
        [write_text(each.label), str(each.index), f"{each.confidence:.6g}", *_format(each.box)] for each in predictions
    ]
    return [["class", "index", "confidence", "left", "top", "width", "height"], *rows]


def _format(numbers: Any) -> list[str]:
    return [f"{number:.9g}" for number in numbers]


def _save_picture(path: Path, picture: Any) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary)
