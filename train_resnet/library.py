"""Find the library: the installed resnetkit, else the copy that travels in this plugin's zip.

The process module imports this module before anything of resnetkit. What is raised here reaches the user word for word.
It is a module of its own: on a reload the engine runs it afresh before the process module, but the package's `__init__`
last, when an update has already mixed new modules with an old library.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

VERSION = "0.1.0"

#: What this plugin needs besides the library, by the names that Python imports; pip's names are in requirements.txt.
REQUIRED_MODULES = (
    "torch",
    "torchvision",
    "openvino",
    "safetensors",
    "numpy",
    "cv2",
    "PIL",
    "tifffile",
    "matplotlib",
    "pydantic",
    "annotated_types",
    "typing_extensions",
    "tqdm",
    "sklearn",
    "scipy",
    "jinja2",
    "onnx",
    "onnxscript",
    "mlflow",
    "tensorboard",
)

#: Not resolved: a linked plugin is named by the path that the user knows.
_PLUGIN = Path(__file__).absolute().parent
#: Holds the library in a zip. Without an `__init__.py`: with one, a reload would drop each module named like it.
_VENDOR = _PLUGIN / "vendor"


def _is_library_found() -> bool:
    spec = find_spec("resnetkit")
    return spec is not None and spec.origin is not None  # a folder of that name without modules has no origin


if not _is_library_found() and str(_VENDOR) not in sys.path:
    sys.path.append(str(_VENDOR))
if not _is_library_found():
    raise ImportError(
        f"{__package__}: needs the library resnetkit {VERSION}, which is not installed in '{sys.prefix}'; run "
        "'python -m pip install .' in the plugin's repository with that Python, or use the plugin's zip, which has it"
    )

_missing = [name for name in REQUIRED_MODULES if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"{__package__}: needs {', '.join(_missing)}, which the Python in '{sys.prefix}' lacks; "
        f"run 'python -m pip install -r {_PLUGIN / 'requirements.txt'}' with it"
    )

import resnetkit  # noqa: E402 - found only now

if resnetkit.__version__ != VERSION:
    raise ImportError(
        f"{__package__}: version {VERSION} needs resnetkit {VERSION}, found {resnetkit.__version__} in "
        f"'{Path(resnetkit.__file__).parent}'; install plugins and library of one version, then restart Python"
    )
