"""What trying a claim came to: kept as JSON beside this module, so that claims can be tried one at a time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"


@dataclass
class Finding:
    """One line of a claim's table.

    Attributes:
        what: What was tried.
        count: How often.
        outcome: What happened, in words and figures.
        failures: What went against the claim, one sentence each.
    """

    what: str
    count: int
    outcome: str
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """A claim that was tried.

    Attributes:
        name: Of its module.
        findings: The lines of its table.
        seconds: How long it took.
        machine: On what, with what and when.
    """

    name: str
    findings: list[Finding]
    seconds: float
    machine: str

    @property
    def failures(self) -> list[str]:
        """What went against the claim."""
        return [failure for finding in self.findings for failure in finding.failures]

    def write(self) -> None:
        """Replace the claim's earlier record."""
        RESULTS_FOLDER.mkdir(exist_ok=True)
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        text = text.replace(str(RESULTS_FOLDER.parent.parent), "...")  # where this repository lies is no result
        _get_path(self.name).write_text(f"{text}\n", encoding="utf-8")


def read_record(name: str) -> Record | None:
    """Return the last record of a claim; None if it was never tried."""
    if not _get_path(name).is_file():
        return None
    content = json.loads(_get_path(name).read_text(encoding="utf-8"))
    findings = [Finding(**finding) for finding in content.pop("findings")]
    return Record(findings=findings, **content)


def _get_path(name: str) -> Path:
    return RESULTS_FOLDER / f"{name}.json"
