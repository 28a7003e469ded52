"""infer_resnet: the plugin as the engine finds it."""

from __future__ import annotations

from ikomia import dataprocess


class IkomiaPlugin(dataprocess.CPluginProcessInterface):
    """Gives the engine the factories; what they need is imported when it is asked for."""

    def __init__(self) -> None:
        dataprocess.CPluginProcessInterface.__init__(self)

    def get_process_factory(self) -> dataprocess.CTaskFactory:
        """Return the factory of the task."""
        from infer_resnet.infer_resnet_process import InferResnetFactory

        return InferResnetFactory()

    def get_widget_factory(self) -> dataprocess.CWidgetFactory:
        """Return the factory of Studio's form."""
        from infer_resnet.infer_resnet_widget import InferResnetWidgetFactory

        return InferResnetWidgetFactory()

    def get_param_factory(self) -> dataprocess.CTaskParamFactory:
        """Return the factory of the parameters."""
        from infer_resnet.infer_resnet_process import InferResnetParamFactory

        return InferResnetParamFactory()
