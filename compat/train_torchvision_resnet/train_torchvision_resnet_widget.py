"""train_torchvision_resnet: the form of train_resnet."""

from __future__ import annotations

from train_resnet.train_resnet_widget import TrainResnetWidgetFactory


class RenamedWidgetFactory(TrainResnetWidgetFactory):
    """Makes the form under the task's second name."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "train_torchvision_resnet"
