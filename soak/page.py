"""docs/RELIABILITY.md, made from the records of all claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from soak.record import Record, read_record

PAGE = Path(__file__).resolve().parent.parent / "docs" / "RELIABILITY.md"

_HEAD = """\
# Reliability

What was tried, how often, and what happened. This page is written by `make soak`, which tries everything again
(`make soak ARGS=kills` tries one claim); a smaller number of the same trials is part of `make test`.
Other operating systems than Linux, GPUs and Studio itself were not tried.
"""


def render_page(claims: Mapping[str, ModuleType]) -> str:
    """Return the page; a claim that was never tried says so."""
    lines = [_HEAD]
    for name, module in claims.items():
        lines += [f"## {module.TITLE}", "", " ".join(module.CLAIM.split()), ""]
        record = read_record(name)
        lines += ["Not tried yet."] if record is None else _render_record(record)
        lines.append("")
    return "\n".join(lines)


def _render_record(record: Record) -> Iterator[str]:
    yield "| tried | times | what happened |"
    yield "|---|---:|---|"
    for finding in record.findings:
        verdict = finding.outcome
        if finding.failures:
            verdict += f"; **{len(finding.failures)} against the claim**: {finding.failures[0]}"
        yield f"| {_escape(finding.what)} | {finding.count:,} | {_escape(verdict)} |"
    yield ""
    yield f"{record.machine.rstrip('.')}; took {_format_time(record.seconds)}."


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _format_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
