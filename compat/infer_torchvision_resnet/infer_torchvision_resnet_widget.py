"""infer_torchvision_resnet: the form of infer_resnet."""

from __future__ import annotations

from infer_resnet.infer_resnet_widget import InferResnetWidgetFactory


class RenamedWidgetFactory(InferResnetWidgetFactory):
    """Makes the form under the task's second name."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "infer_torchvision_resnet"
