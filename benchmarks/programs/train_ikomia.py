"""Train a ResNet with train_resnet in an Ikomia workflow, as the README shows it; parameters are name=value."""

from __future__ import annotations

import sys
import time

BEGAN = time.monotonic()

import json  # noqa: E402 - importing is part of the time
from pathlib import Path  # noqa: E402

from ikomia.dataprocess.workflow import Workflow  # noqa: E402


def main() -> None:
    """Train, and say how long each part took."""
    workflow = Workflow()
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters(dict(argument.split("=", 1) for argument in sys.argv[1:]))
    loaded = time.monotonic() - BEGAN
    workflow.run()
    checkpoint = Path(task.get_checkpoint())
    metrics = json.loads((checkpoint.parent / "metrics.json").read_text(encoding="utf-8"))
    print(json.dumps({"loading": loaded, "run": time.monotonic() - BEGAN - loaded, "metrics": metrics}))


if __name__ == "__main__":
    main()
