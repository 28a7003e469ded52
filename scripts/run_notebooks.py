"""Run the notebooks of `examples/` from top to bottom and store them with their outputs.

On a quiet machine, after a change of a notebook or of what it shows: `make notebooks`.
Each notebook runs in a kernel of its own, with an empty home folder, as on a machine that never saw the plugins.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "examples"

#: Quiet threads: OpenMP's own waits would take the cores from each other on a busy machine.
KERNEL_ENVIRONMENT = {"IKOMIA_AUTO_COMPLETION": "0", "QT_QPA_PLATFORM": "offscreen", "OMP_WAIT_POLICY": "PASSIVE"}

#: Pictures that the README shows: the cell of a notebook, and the file.
README_PICTURES = {
    "classify-20": REPOSITORY / "docs" / "images" / "notebook.jpg",
    "classify-22": REPOSITORY / "docs" / "images" / "similar.jpg",
}

#: Quality of the stored photographs.
JPEG_QUALITY = 85


def run_notebook(path: Path, home: Path, timeout_s: int = 300) -> Any:
    """Return the notebook with new outputs.

    Args:
        path: The notebook; it runs in the folder where it lies.
        home: Home folder and temporary folder of the kernel.
        timeout_s: Limit for each cell.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised; the message shows which and why.
    """
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "MPLBACKEND"},  # the kernel's own draws inline
        **KERNEL_ENVIRONMENT,
        "HOME": str(home),
        "USERPROFILE": str(home),
        "TMPDIR": str(temporary),
    }
    manager = AsyncKernelManager()
    # The interpreter that runs this, whatever kernels the machine knows; it says only what went wrong.
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
    manager._kernel_spec = KernelSpec(argv=command, language="python")
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout_s,
        coalesce_streams=True,  # of a progress bar, the last state
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=environment, cleanup_kc=True)
    return tidy(notebook, home)


def tidy(notebook: Any, home: Path) -> Any:
    """Make the outputs small and the same on every machine: photographs as JPEG, no path of this one."""
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = _hide_paths(output.text, home)
            elif "data" in output:
                _shrink_picture(output.data)
                if "text/html" in output.data:
                    output.data["text/html"] = _hide_paths(output.data["text/html"], home)
    return notebook


def _hide_paths(text: str, home: Path) -> str:
    return text.replace(str(home), "~").replace(str(REPOSITORY), "..")


def _shrink_picture(data: dict[str, str]) -> None:
    """Replace a PNG by a JPEG where that is smaller: photographs, but not drawings."""
    from PIL import Image

    if "image/png" not in data:
        return
    png, buffer = base64.b64decode(data["image/png"]), io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    data.pop("image/jpeg", None)
    if len(buffer.getvalue()) < len(png):
        del data["image/png"]
        data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()


def store(path: Path, folder: Path) -> str:
    """Run a notebook, write it with its outputs into `folder`; say how long it took and how large it is."""
    import nbformat

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        notebook = run_notebook(path.resolve(), Path(home))
    target = folder / path.name
    nbformat.write(notebook, target)
    if folder == FOLDER:
        write_readme_pictures(notebook)
    return f"{path.name}: {time.perf_counter() - start:.0f} s, {target.stat().st_size / 1000:.0f} kB"


def write_readme_pictures(notebook: Any) -> None:
    """Write those pictures of a notebook that the README shows, too."""
    for cell in notebook.cells:
        if path := README_PICTURES.get(cell.id):
            (picture,) = (output.data["image/jpeg"] for output in cell.outputs if "data" in output)
            path.write_bytes(base64.b64decode(picture))


def main() -> None:
    """Run and store the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    parser.add_argument("--output", type=Path, default=FOLDER, help="where they are stored")
    parser.add_argument("--jobs", type=int, default=1, help="how many run at once; times are true with 1 only")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(partial(store, folder=options.output), options.notebooks):
            print(line)


if __name__ == "__main__":
    main()
