"""train_torchvision_resnet: a second name of train_resnet, as the engine finds it."""

from __future__ import annotations

from ikomia import dataprocess


class IkomiaPlugin(dataprocess.CPluginProcessInterface):
    """Gives the engine the factories; what they need is imported when it is asked for."""

    def __init__(self) -> None:
        dataprocess.CPluginProcessInterface.__init__(self)

    def get_process_factory(self) -> dataprocess.CTaskFactory:
        """Return the factory of the task."""
        from train_torchvision_resnet.train_torchvision_resnet_process import RenamedFactory

        return RenamedFactory()

    def get_widget_factory(self) -> dataprocess.CWidgetFactory:
        """Return the factory of Studio's form."""
        from train_torchvision_resnet.train_torchvision_resnet_widget import RenamedWidgetFactory

        return RenamedWidgetFactory()

    def get_param_factory(self) -> dataprocess.CTaskParamFactory:
        """Return the factory of the parameters."""
        from train_torchvision_resnet.train_torchvision_resnet_process import RenamedParamFactory

        return RenamedParamFactory()
