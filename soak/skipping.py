"""A plugin of pytest for an environment that lacks packages: a test that itself needs one of them is skipped.

Where the library, or a program that a test starts, asks for such a package, the test fails as anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_TESTS = str(Path(__file__).resolve().parent.parent / "tests")
#: What the library says where a test asked for PyTorch by name.
_NEEDS_TORCH = "needs PyTorch, which cannot be loaded here"


class _Missing:
    """The last of the finders of modules: it is asked for what no other has found."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        frame = sys._getframe(1)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if path is None and frame.f_code.co_filename.startswith(_TESTS):
            pytest.skip(f"needs {name}", allow_module_level=True)
        return None


def pytest_configure() -> None:
    """Look out for imports of what is not there."""
    sys.meta_path.append(_Missing)  # type: ignore[arg-type] # typeshed wants other names of the arguments


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Skip a test that asks for the runtime torch."""
    try:
        return (yield)
    except Exception as error:
        if _NEEDS_TORCH in str(error):
            pytest.skip("needs torch")
        raise
