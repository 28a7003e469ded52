"""The light installation, without PyTorch: what it takes, and all tests of answers that need no more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.installation import read_requirements
from soak.children import REPOSITORY, make_environment
from soak.dependencies import install
from soak.record import Finding

TITLE = "Answers need no more than the light installation"
CLAIM = """
An environment of its own got what `infer_resnet/requirements.txt` names, which is what `pip install .` brings, and what
the tests themselves need (pytest, hypothesis, psutil, scikit-image, scikit-learn). In it, the tests of images, weights
files, runtimes, answers, folders and `resnetkit classify` must pass, with weights files and answers that PyTorch has
written elsewhere; a test that itself imports what is not there is skipped. torch, torchvision, mlflow and the engine
must not be there.
"""

#: Of the packages of requirements-dev.txt.
_FOR_TESTS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil", "scikit-image", "scikit-learn")
_ABSENT = ("torch", "torchvision", "mlflow", "ikomia", "onnx", "nncf")
_MAKING_WEIGHTS = "tests/answers/test_without_torch.py"
_TESTS = (
    *(f"tests/{name}" for name in ("machine", "parameters", "decoding", "images", "weights", "runtimes", "answers")),
    "tests/folders",
    "tests/commands/test_classify.py",
    "tests/commands/test_options.py",
    "--ignore=tests/runtimes/test_telemetry.py",  # of packages for training and quantization
)
_MEASURE = """
import sys
from pathlib import Path
from benchmarks.installation import find_distributions, measure_installation, read_requirements
requirements = read_requirements(Path(sys.argv[1]))
print(len(find_distributions(requirements)), measure_installation(requirements))
"""


def run(folder: Path) -> Iterator[Finding]:
    """Install, measure, and run the tests."""
    light = read_requirements(REPOSITORY / "infer_resnet" / "requirements.txt")
    try:
        python = install(sorted([*light, *list_test_requirements()]), folder / "environment")
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("the light installation", 0, f"not tried: it cannot be installed here ({error})")
        return
    yield look_at_installation(python, folder)
    shutil.rmtree(folder / "weights", ignore_errors=True)
    (folder / "weights").mkdir()
    yield try_tests("with PyTorch, which writes the weights files", Path(sys.executable), folder, (_MAKING_WEIGHTS,))
    yield try_tests("in the light installation", python, folder, _TESTS)


def list_test_requirements() -> list[str]:
    """Return the requirements of the tests themselves."""
    lines = set(read_requirements(REPOSITORY / "requirements-dev.txt"))
    return [line for line in lines if re.split("[<>=]", line)[0] in _FOR_TESTS]


def look_at_installation(python: Path, folder: Path) -> Finding:
    """Measure what the requirements of infer_resnet brought, and look for what must not be there."""
    requirements = str(REPOSITORY / "infer_resnet" / "requirements.txt")
    count, size = _run([str(python), "-c", _MEASURE, requirements], folder, 120).stdout.split()
    listed = _run([str(python), "-m", "pip", "list", "--format=freeze"], folder, 120).stdout
    names = {line.partition("==")[0] for line in listed.splitlines()}
    failures = [f"{name} is installed" for name in _ABSENT if name in names]
    check = _run([str(python), "-m", "pip", "check", "--disable-pip-version-check"], folder, 120)
    failures += [f"pip check: {line}" for line in check.stdout.splitlines() if check.returncode]
    outcome = f"{int(size) / 1e9:.2f} GB; without {', '.join(_ABSENT)}; pip check: {check.stdout.strip()[:200]}"
    return Finding("packages that `infer_resnet/requirements.txt` needs", int(count), outcome, failures)


def try_tests(where: str, python: Path, folder: Path, tests: tuple[str, ...]) -> Finding:
    """Run tests with an interpreter."""
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "-n0", "-p", "soak.skipping", "-p", "no:cacheprovider"]
    ended = _run([*command, f"--junitxml={report}", *tests], folder, 900)
    if not report.is_file():
        return Finding(f"tests {where}", 0, "did not run", [ended.stdout[-400:] + ended.stderr[-400:]])
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    texts = [str(found.text) for case in cases if (found := case.find("skipped")) is not None]
    reasons = Counter(text.rpartition("needs ")[2].rstrip("')") for text in texts)
    failures = [f"{case.get('classname')}.{case.get('name')}" for case in bad]
    if ended.returncode and not bad:
        failures.append(f"pytest ended with {ended.returncode}: {ended.stdout[-400:]}")
    passed = len(cases) - len(bad) - reasons.total()
    outcome = f"{passed:,} passed"
    if reasons:
        outcome += f", {reasons.total()} tests or modules of tests skipped, which need {', '.join(sorted(reasons))}"
    return Finding(f"tests {where}", len(cases), outcome, failures)


def _run(command: list[str], folder: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        **make_environment(folder / "home", temporary),
        "RESNETKIT_TEST_WEIGHTS": str(folder / "weights"),
    }
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
