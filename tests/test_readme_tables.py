"""The parameter tables in the documents are those of the declarations, and folder READMEs are fit for Studio."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from resnetkit.parameters.declaration import format_markdown_table
from resnetkit.parameters.inference import InferParameters
from resnetkit.parameters.training import TrainParameters

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = ("infer_resnet/README.md", "train_resnet/README.md")


@pytest.fixture
def script() -> ModuleType:
    """The script that writes the tables."""
    path = REPOSITORY / "scripts" / "write_parameter_tables.py"
    spec = importlib.util.spec_from_file_location("write_parameter_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder with copies of the documents."""
    for name in DOCUMENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def test_the_tables_are_up_to_date(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_changed_table_is_found_and_written_anew(
    name: str, script: ModuleType, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (documents / name).read_text(encoding="utf-8")
    (documents / name).write_text(good.replace("| `model_name` |", "| `model` |"), encoding="utf-8")
    assert script.main(["--check"], documents) == 1
    assert capsys.readouterr().out.startswith(f"{Path(name)}: out of date")
    assert script.main([], documents) == 0
    assert (documents / name).read_text(encoding="utf-8") == good
    assert script.main(["--check"], documents) == 0


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_without_a_place_for_the_table_is_an_error(name: str, script: ModuleType, documents: Path) -> None:
    (documents / name).write_text("# Nothing here\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"expected '.*' once, found it 0 times"):
        script.main([], documents)


def test_text_around_a_table_is_left_alone(script: ModuleType) -> None:
    text = "# A\n\n## Parameters\n\nold\n\n## After\n\nkept\n"
    table = format_markdown_table(InferParameters)
    assert script.write_below_heading(text, InferParameters) == f"# A\n\n## Parameters\n\n{table}\n\n## After\n\nkept\n"
    last = "# A\n\n## Parameters\n\nold\n"
    assert script.write_below_heading(last, InferParameters) == f"# A\n\n## Parameters\n\n{table}\n"


@pytest.mark.parametrize("parameters", [InferParameters, TrainParameters])
def test_studio_shows_the_folder_readme_whole(parameters: type[InferParameters | TrainParameters]) -> None:
    """Studio removes everything between the first "<" and the last closing tag."""
    text = (REPOSITORY / parameters.plugin / "README.md").read_text(encoding="utf-8")
    assert "<" not in text
    assert text.startswith(f"# {parameters.plugin}\n")
    for name in parameters.model_fields:
        assert f"| `{name}` |" in text
