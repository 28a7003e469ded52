"""infer_resnet in the real engine where PyTorch is not installed: images, boxes, videos and all that answers hold."""

from __future__ import annotations

import json

from tests.conftest import HIDE_TORCH, link_plugins

#: Runs a workflow on a file, an array, a video and boxes; prints the labels, and which slow modules were imported.
RUN = (
    HIDE_TORCH
    + """
import json
import numpy as np
from ikomia import core, dataprocess
from ikomia.dataprocess.workflow import Workflow

weights, image, video = sys.argv[1:]
workflow = Workflow()
task = workflow.add_task(name="infer_resnet", auto_connect=True)
task.set_parameters({"model_weight_file": weights})
workflow.run_on(path=image)
labels = [task.get_predictions()[0].label]
slow = ("torch", "torchvision", "matplotlib", "cv2", "sklearn", "scipy", "mlflow", "openvino.tools.ovc")
loaded = [name for name in slow if name in sys.modules]

task.set_parameters({"heatmap": True, "embedding": True, "smoothing": 0.5})
workflow.run_on(path=video)
labels.append(task.get_predictions()[0].label)

class Detector(dataprocess.CObjectDetectionTask):
    def __init__(self):
        dataprocess.CObjectDetectionTask.__init__(self, "detector")
        self.set_param_object(core.CWorkflowTaskParam())

    def run(self):
        self.begin_task_run()
        self.set_names(["thing"])
        self.add_object(0, 0, 1.0, 10, 10, 200, 150)
        self.end_task_run()

workflow = Workflow()
workflow.add_task(task=Detector(), auto_connect=True)
task = workflow.add_task(name="infer_resnet", auto_connect=True)
task.set_parameters({"model_weight_file": weights, "precision": "auto"})
workflow.run_on(array=np.full((200, 300, 3), 90, np.uint8))
labels += [prediction.label for prediction in task.get_predictions()]
task.get_image_with_graphics()
with_torch = [name for name in ("torch", "torchvision") if name in sys.modules]
print(json.dumps({"labels": labels, "loaded": loaded, "torch": with_torch}))
"""
)


def test_the_engine_answers_without_torch(checkpoint_path, photograph_folder, video_path, tmp_path, run_script):
    link_plugins(tmp_path)
    arguments = [str(checkpoint_path), str(photograph_folder / "china.png"), str(video_path)]
    for cache in ("empty", "full"):
        result = run_script(RUN, arguments, home=tmp_path)
        found = json.loads(result.output.splitlines()[-1])
        assert len(found["labels"]) == 3, cache
        assert set(found["labels"]) <= {"cat", "dog", "fish"}
        assert found["loaded"] == []
        assert found["torch"] == []
