"""Try the claims of docs/RELIABILITY.md and write the page: `python -m soak [claim ...]`, from `make soak`."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.tables import describe_machine
from soak.page import PAGE, render_page
from soak.record import Finding, Record

#: In the order of the page.
CLAIMS = (
    "kills",
    "full_disk",
    "weights",
    "images",
    "parameters",
    "leftovers",
    "processes",
    "jobs",
    "service",
    "determinism",
    "light",
    "dependencies",
)

WORK_FOLDER = Path(__file__).resolve().parent.parent / "build" / "soak"


def load_claims() -> Mapping[str, ModuleType]:
    """Import the modules of all claims, in the order of the page."""
    return {name: importlib.import_module(f"soak.{name}") for name in CLAIMS}


def try_claim(name: str, module: ModuleType) -> Record:
    """Try a claim and write its record."""
    print(f"== {name}: {module.TITLE}", flush=True)
    folder = WORK_FOLDER / name
    if name not in ("light", "dependencies"):  # whose environments take minutes to install
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    findings: list[Finding] = []
    for finding in module.run(folder):
        findings.append(finding)
        print(f"{finding.what} | {finding.count} | {finding.outcome}", *finding.failures[:5], sep="\n  ", flush=True)
    record = Record(name, findings, round(time.monotonic() - began, 1), describe_machine())
    record.write()
    return record


def main(arguments: Sequence[str]) -> int:
    """Try claims; return how many of them failed."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("claims", nargs="*", choices=[*CLAIMS, []], help="all, unless named")
    names = parser.parse_args(arguments).claims or CLAIMS
    os.environ["OMP_NUM_THREADS"] = "1"  # two children at a time would fight for the cores
    claims = load_claims()
    failed = [name for name in names if try_claim(name, claims[name]).failures]
    PAGE.write_text(render_page(claims), encoding="utf-8")
    print(f"written: {PAGE.name}", *[f"against the claim: {name}" for name in failed], sep="\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
