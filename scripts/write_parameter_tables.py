"""Write the parameter tables of the documents, between `<!-- parameters:PLUGIN -->` and `<!-- end -->`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from infer_resnet.parameters import InferParameters  # noqa: E402
from infer_resnet.schema import format_markdown_table  # noqa: E402
from train_resnet.parameters import TrainParameters  # noqa: E402

PARAMETERS = (InferParameters, TrainParameters)


def write_tables(text: str) -> str:
    """Return the text with its tables made anew."""
    for parameters in PARAMETERS:
        mark = f"<!-- parameters:{parameters.plugin} -->"
        table = f"{mark}\n{format_markdown_table(parameters)}\n<!-- end -->"
        text = re.sub(rf"{mark}\n.*?<!-- end -->", lambda _, table=table: table, text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main() -> None:
    """Rewrite the README."""
    path = REPOSITORY / "README.md"
    path.write_text(write_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
