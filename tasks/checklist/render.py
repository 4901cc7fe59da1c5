"""A checklist as text for a task log and as Markdown for a card or a form."""

from __future__ import annotations

from typing import Any

from tasks.checklist.types import Check, Checklist

MARKS = {"pass": "✓", "fail": "✗", "skip": "–", "inconclusive": "?"}


def value(observed: Any, unit: str = "") -> str:
    """A measured value in at most a dozen characters of text, with its unit."""
    if observed is None:
        return ""
    if isinstance(observed, bool):
        return "yes" if observed else "no"
    if isinstance(observed, float):
        observed = f"{observed:.3g}" if abs(observed) < 1000 else f"{observed:,.0f}"
    elif isinstance(observed, int):
        observed = f"{observed:,}"
    elif isinstance(observed, dict):
        observed = ", ".join(f"{key} {value(item)}" for key, item in observed.items())
    elif isinstance(observed, list | tuple):
        observed = ", ".join(value(item) for item in observed)
    return f"{observed} {unit}".strip()


def status(check: Check) -> str:
    """The status as a reviewer reads it: `dry run` stands beside a result that does not gate."""
    note = {"enforce": "", "dry_run": " (dry run)", "off": " (off)"}[check.mode]
    return f"{MARKS[check.status]} {check.status}{note}"


def _title(checklist: Checklist) -> str:
    name = checklist.phase.replace("_", "-")
    return f"{name} checklist of {checklist.policy} version {checklist.version}: {checklist.verdict}"


def as_text(checklist: Checklist) -> str:
    """An aligned table, one check a line, for a task log."""
    rows = [("check", "status", "observed", "threshold", "n", "s", "what was seen")]
    rows += [
        (
            check.id,
            status(check),
            value(check.observed, check.unit),
            value(check.threshold, check.unit),
            str(check.sample_size or ""),
            f"{check.seconds:.1f}",
            check.reason,
        )
        for check in checklist.checks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]]) for row in rows
    ]
    return "\n".join([_title(checklist), *(line.rstrip() for line in lines)])


def _cell(text: str, limit: int) -> str:
    if limit <= 0:
        return ""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def as_markdown(checklist: Checklist, reason_limit: int = 200, problem_limit: int = 400) -> str:
    """A Markdown table: status, observed, threshold and the reason, cut to `problem_limit` where a check did not pass.

    Reasons of passed checks are cut to `reason_limit`, and left out when it is 0.
    """
    header = ["check", "status", "observed", "threshold"]
    rows = [
        [
            check.id,
            status(check).replace(" ", "\N{NO-BREAK SPACE}"),
            _cell(value(check.observed, check.unit), 40),
            _cell(value(check.threshold, check.unit), 40),
            _cell(check.reason, reason_limit if check.status == "pass" else problem_limit),
        ]
        for check in checklist.checks
    ]
    width = 5 if any(row[4] for row in rows) else 4
    lines = [f"| {' | '.join([*header, 'what was seen'][:width])} |", "|" + "---|" * width]
    return "\n".join([*lines, *(f"| {' | '.join(row[:width])} |" for row in rows)])
