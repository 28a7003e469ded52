"""Write the parameter tables of the documents from the declarations; with --check, only tell whether they agree.

A table stands in the README of its plugin's folder, below the heading "## Parameters".
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from resnetkit.parameters.declaration import Parameters, format_markdown_table  # noqa: E402
from resnetkit.parameters.inference import InferParameters  # noqa: E402
from resnetkit.parameters.training import TrainParameters  # noqa: E402

PARAMETERS = (InferParameters, TrainParameters)

#: The heading, and all up to the next one of its level or the end.
_SECTION = re.compile(r"(?<=^## Parameters\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def write_below_heading(text: str, parameters: type[Parameters]) -> str:
    """Return the text with the section "Parameters" made anew; nothing but the table stands in it."""
    table = f"\n{format_markdown_table(parameters)}\n"
    is_last = not re.search(r"^## Parameters\n.*?^## ", text, re.MULTILINE | re.DOTALL)
    return _replace(_SECTION, table if is_last else f"{table}\n", text, "## Parameters")


def _replace(pattern: re.Pattern[str], table: str, text: str, place: str) -> str:
    replaced, count = pattern.subn(lambda _: table, text)
    if count != 1:
        raise SystemExit(f"write_parameter_tables: expected '{place}' once, found it {count} times")
    return replaced


def make_documents(repository: Path) -> dict[Path, str]:
    """Return what each document should be."""
    documents = {}
    for parameters in PARAMETERS:
        path = repository / parameters.plugin / "README.md"
        documents[path] = write_below_heading(path.read_text(encoding="utf-8"), parameters)
    return documents


def main(arguments: list[str], repository: Path = REPOSITORY) -> int:
    """Write or check the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is out of date")
    is_check = parser.parse_args(arguments).check
    exit_code = 0
    for path, text in make_documents(repository).items():
        if path.read_text(encoding="utf-8") == text:
            continue
        if is_check:
            print(f"{path.relative_to(repository)}: out of date; run python scripts/write_parameter_tables.py")
            exit_code = 1
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"{path.relative_to(repository)}: written")
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
