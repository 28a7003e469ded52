"""What both plugins say about themselves in the same words: authors, paper, licence, version of the engine."""

from __future__ import annotations

from typing import Any


def fill_shared_info(info: Any) -> None:
    """Fill in the fields of an engine's task info that do not depend on the plugin.

    The hub shows authors, article, journal and year together, as the paper's; who wrote the code stands in the plugins'
    README.md. The engine was seen to fail with an unrelated error where some of them are missing.
    """
    info.authors = "Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun"
    info.article = "Deep Residual Learning for Image Recognition"
    info.article_url = "https://arxiv.org/abs/1512.03385"
    info.journal = "CVPR"
    info.year = 2016
    info.path = "Plugins/Python/Classification"
    info.min_ikomia_version = "0.16.1"
    info.min_python_version = "3.10.0"
    info.license = "Apache-2.0"
    info.documentation_link = ""
    info.repository = ""
    info.original_repository = "https://github.com/pytorch/vision"  # the architecture's implementation, and the weights
    info.icon_path = "icons/icon.png"
    info.algo_tasks = "CLASSIFICATION"
    info.hardware_config.gpu_required = False
    info.hardware_config.min_vram = 0
