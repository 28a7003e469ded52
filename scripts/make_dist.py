"""Pack each plugin as one zip, the way the Ikomia hub unpacks it: the files of the folder at the top of the archive.

The library travels along in `vendor/`, so that each zip works alone.

Needs nothing but Python; with cyclonedx-bom (of requirements-dev.txt) each archive gets a software bill of materials
beside it, made from its requirements. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = ("infer_resnet", "train_resnet")
LIBRARY = REPOSITORY / "resnetkit"

#: What a plugin consists of. Anything else (weights, caches, notes) stays at home.
SUFFIXES = {".py", ".txt", ".md", ".html", ".js", ".css", ".png", ".svg"}
NAMES = {"LICENSE"}

#: The earliest time that a zip can hold; that of the sources would make every archive differ.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def find_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that belong into the archive, in order of their names."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        # `make link` shows the library in vendor/ already.
        is_hidden = parts[0] == "vendor" or any(part.startswith((".", "__pycache__")) for part in parts)
        if path.is_file() and not is_hidden and (path.suffix in SUFFIXES or path.name in NAMES):
            yield path


def read_version() -> str:
    """Return the version of this repository."""
    text = (LIBRARY / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("make dist: resnetkit/__init__.py has no version")
    return found[1]


def pack(plugin: Path, folder: Path) -> Path:
    """Write the archive of one plugin into `folder`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    archive_path = folder / f"{plugin.name}-{read_version()}.zip"
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_DEFLATED) as archive:
        entries = [(path.relative_to(plugin).as_posix(), path) for path in find_files(plugin)]
        entries += [(f"vendor/{path.relative_to(REPOSITORY).as_posix()}", path) for path in find_files(LIBRARY)]
        for name, path in entries:
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return archive_path


def write_bill(plugin: Path, archive_path: Path) -> Path | None:
    """Write what a plugin requires as CycloneDX JSON beside its archive; None where cyclonedx-bom is not installed."""
    if importlib.util.find_spec("cyclonedx_py") is None:
        return None
    path = archive_path.with_suffix(".cdx.json")
    options = ["--output-format", "JSON", "--output-reproducible", "--output-file", str(path)]
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", *options, str(plugin / "requirements.txt")]
    subprocess.run(command, check=True, timeout=120, stderr=subprocess.DEVNULL)
    return path


def main(arguments: list[str]) -> None:
    """Pack both plugins."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", help="folder of the archives")
    folder = parser.parse_args(arguments).output
    for name in PLUGINS:
        archive_path = pack(REPOSITORY / name, folder)
        print(f"{archive_path}: {archive_path.stat().st_size / 1000:.0f} kB")
        bill = write_bill(REPOSITORY / name, archive_path)
        print(bill or "no software bill of materials: cyclonedx-bom is not installed here; `make lint` installs it")


if __name__ == "__main__":
    main(sys.argv[1:])
