"""Link the plugins of this repository into an Ikomia folder, or take the links away again.

Needs nothing but Python. An existing plugin of the same name that is not ours is never touched.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = ("infer_resnet", "train_resnet")
LIBRARY = REPOSITORY / "resnetkit"
COMPAT_PLUGINS = ("infer_torchvision_resnet", "train_torchvision_resnet")

#: Marks a folder that is a copy made by this script, and names what it was copied from.
COPY_MARK = ".copied_from"


class LinkError(Exception):
    """A plugin cannot be linked or unlinked without touching something that is not ours."""


def link_plugin(source: Path, target: Path) -> str:
    """Make `target` show the plugin in `source`: a link, a junction on Windows, or else a copy.

    Returns:
        What was done, in a few words.

    Raises:
        LinkError: Something else has this name.
    """
    if not (source / f"{source.name}.py").is_file():
        raise LinkError(f"{source} is not a plugin: it has no {source.name}.py")
    if is_ours(target, source) and not (target / COPY_MARK).exists():
        return "already linked"
    if target.is_symlink() and not target.exists():
        target.unlink()  # broken, as after this repository was moved: no plugin is lost
    remove_plugin(target, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source, target_is_directory=True)
        return "linked"
    except OSError:
        if os.name == "nt" and _make_junction(source, target):
            return "linked (junction)"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / COPY_MARK).write_text(f"{source}\n", encoding="utf-8")
    return "copied (no links here: repeat this after every change)"


def link_library(plugin: Path) -> None:
    """Show the library in a plugin's folder, where its zip has it: what packs a workflow for SCALE takes it along.

    The link stays in this repository when the plugin is unlinked, where git does not see it. Where there are no links,
    nothing is done, and the plugin's zip is the one to push.
    """
    target = plugin / "vendor" / LIBRARY.name
    if os.path.lexists(target):
        return
    target.parent.mkdir(exist_ok=True)
    try:
        target.symlink_to(LIBRARY, target_is_directory=True)
    except OSError:
        if os.name == "nt":
            _make_junction(LIBRARY, target)


def remove_plugin(target: Path, source: Path) -> str:
    """Take our link or copy at `target` away.

    Raises:
        LinkError: What is there is not ours.
    """
    if not os.path.lexists(target):
        return "was not linked"
    if not is_ours(target, source):
        raise LinkError(f"{target} is another plugin of that name and was left alone; move it away first")
    if target.is_symlink():
        target.unlink()
    elif (target / COPY_MARK).exists():
        shutil.rmtree(target)
    else:
        target.rmdir()  # a junction: removes the link, not what it shows
    return "removed"


def is_ours(target: Path, source: Path) -> bool:
    """Tell whether `target` is a link to `source`, broken or not, or a copy that this script made of it."""
    if target.is_symlink() or (target.exists() and target.resolve() != target.parent.resolve() / target.name):
        return target.resolve() == source.resolve()
    mark = target / COPY_MARK
    return mark.is_file() and Path(mark.read_text(encoding="utf-8").strip()) == source


def tell_where_the_library_is() -> int:
    """Say what this Python lacks for the plugins, and what Studio's own Python needs; return the exit code."""
    install = f"-m pip install '{REPOSITORY}[train,tracking]'"
    print(f"Studio's own Python needs the library, too: PYTHON_OF_STUDIO {install}")
    if importlib.util.find_spec("resnetkit") is not None:
        return 0
    print(f"{sys.executable} lacks the library: run 'make setup', or {sys.executable} {install}", file=sys.stderr)
    return 1


def _make_junction(source: Path, target: Path) -> bool:
    command = ["cmd", "/c", "mklink", "/J", str(target), str(source)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--remove", action="store_true", help="take the links away")
    parser.add_argument("--compat", action="store_true", help=f"the second names: {', '.join(COMPAT_PLUGINS)}")
    parser.add_argument("--home", type=Path, default=Path.home(), help="folder that holds the Ikomia folder")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Link or unlink; return the exit code."""
    options = parse_arguments(arguments)
    sources = [REPOSITORY / "compat" / name for name in COMPAT_PLUGINS] if options.compat else []
    sources = sources or [REPOSITORY / name for name in PLUGINS]
    folder = options.home.expanduser().resolve() / "Ikomia" / "Plugins" / "Python"
    exit_code = 0 if options.remove else tell_where_the_library_is()
    for source in sources:
        target = folder / source.name
        try:
            outcome = remove_plugin(target, source) if options.remove else link_plugin(source, target)
            if source.name in PLUGINS and not options.remove:
                link_library(source)
            print(f"{source.name}: {outcome}: {target}")
        except (LinkError, OSError) as error:
            print(f"{source.name}: {error}", file=sys.stderr)
            exit_code = 1
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
