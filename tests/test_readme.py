"""Every Python snippet of the documents runs in the real engine, as it stands, in the order of reading.

A snippet is a block that starts with ```python. What it names is there when it runs:

- `https://.../name.jpg` becomes the address of a photograph on a local server, any query kept;
- a relative `name.jpg` or `name.png` is a photograph, `name.mp4` a video of five frames;
- `FOLDERS` lists the names of data sets;
- a task that is not ours is a detector that finds two boxes;
- ImageNet weights are seeded ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path
    for name in ("README.md", "infer_resnet/README.md", "train_resnet/README.md", "docs/RELIABILITY.md")
    if (path := REPOSITORY / name).is_file()
]

#: Names of folders in snippets that are data sets of class folders.
FOLDERS = ("fruit", "photographs")

SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WEB_ADDRESS = re.compile(r"https?://[^\s\"']*/([\w.-]+\.(?:jpg|png))")


def find_snippets(text: str) -> list[tuple[int, str]]:
    """Return the Python snippets of a document, each with the number of its first line."""
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in SNIPPET.finditer(text)]


def find_names(code: str, suffixes: str) -> set[str]:
    """Return the relative paths with one of the suffixes ("jpg|png") that stand in quotes."""
    return set(re.findall(rf"[\"']([\w-][\w/-]*\.(?:{suffixes}))[\"']", code))


def find_tasks(code: str) -> set[str]:
    """Return the names of tasks that the code adds."""
    return set(re.findall(r"add_task\(\s*(?:name=)?[\"'](\w+)[\"']", code))


def write_class_folders(folder: Path, photographs: dict) -> None:
    """Write a data set of two classes, six small photographs each."""
    for label, name in (("apple", "china"), ("pear", "flower")):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            crop = photographs[name][number * 20 :, number * 30 :]
            Image.fromarray(crop).resize((120, 90)).save(folder / label / f"{number}.jpg")


@pytest.fixture
def prepare(tmp_path, monkeypatch, photographs, local_server, ikomia_root, imagenet_weights, request):
    """Make what a document's snippets name, in an empty current folder; return the code with local addresses."""
    conftest = request.config.pluginmanager.get_plugin(str(REPOSITORY / "tests" / "conftest.py"))

    def prepare_code(code: str) -> str:
        monkeypatch.chdir(tmp_path)
        for name in WEB_ADDRESS.findall(code):
            Image.fromarray(photographs["china"]).save(local_server.folder / name)
        for name in find_names(code, "jpg|png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photographs["flower"]).save(tmp_path / name)
        for name in find_names(code, "mp4"):
            conftest.write_video(tmp_path / name, [photographs["china"]] * 5)
        for name in FOLDERS:
            if re.search(rf"[\"']{name}/?[\"']", code) and not (tmp_path / name).exists():
                write_class_folders(tmp_path / name, photographs)
        for name in find_tasks(code) - {"infer_resnet", "train_resnet"}:
            conftest.write_detector(ikomia_root.parent, name)
        for name in {"resnet18", *re.findall(r"model_name=[\"'](\w+)[\"']", code)}:
            imagenet_weights(name)
        return WEB_ADDRESS.sub(lambda match: f"{local_server.url}/{match[1]}", code)

    return prepare_code


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_snippets_run(document, prepare, completion, monkeypatch):
    snippets = find_snippets(document.read_text(encoding="utf-8"))
    monkeypatch.setattr(Image.Image, "show", lambda *_, **__: None)
    for line, code in snippets:
        program = "\n" * (line - 1) + prepare(code)
        exec(compile(program, str(document), "exec"), {"__name__": "__main__"})


def test_the_readme_has_snippets():
    assert len(find_snippets((REPOSITORY / "README.md").read_text(encoding="utf-8"))) >= 2


def test_snippets_names_and_addresses_are_found():
    text = 'Text\n\n```python\nwf.run_on(path="a/cat.jpg")\n```\n\n```\nmake demo\n```\n'
    ((line, code),) = find_snippets(text)
    assert line == 4
    assert find_names(code, "jpg|png") == {"a/cat.jpg"}
    assert WEB_ADDRESS.sub(r"local/\1", 'url="https://x.y/z/img.jpg?raw=true"') == 'url="local/img.jpg?raw=true"'
    assert find_tasks('wf.add_task(name="infer_yolo_v8", auto_connect=True)') == {"infer_yolo_v8"}


def test_a_failing_snippet_fails_with_its_line(tmp_path, prepare):
    (line, code), _ = find_snippets("1\n2\n```python\nimport nowhere_to_be_found\n```\n```python\npass\n```\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        exec(compile("\n" * (line - 1) + prepare(code), "README.md", "exec"), {})
    assert caught.traceback[-1].lineno + 1 == 4
