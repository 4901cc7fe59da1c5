"""The page of measurements: its section is made by a run, and replaced by the next."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from benchmarks.serving import report

BEGIN, END = "<!-- serving: begin -->", "<!-- serving: end -->"
_SHOWN = ("bentoml", "onnxruntime", "uvicorn", "msgspec", "numpy")


def replaced(page: str, section: str) -> str:
    """The page with another section. Raises ValueError where it has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for measurements: expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def section(found: Mapping[str, Any], seconds: float, rounds: int) -> str:
    """What a run measured, in Markdown."""
    return "\n".join(_lines(found, seconds, rounds)) + "\n"


def _lines(found: Mapping[str, Any], seconds: float, rounds: int) -> Iterator[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    yield (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{versions}; runs of {seconds} s, {rounds} a cell."
    )
    for name, measured in found.items():
        if measured is None:
            continue
        yield ""
        if name == "peers":
            header, rows = report.table(measured)
            yield f"{report.TITLE}:"
            yield ""
            yield f"| {' | '.join(header)} |"
            yield f"|{'---|' * len(header)}"
            for row in rows:
                yield f"| {' | '.join('<br>'.join(cell) for cell in row)} |"
            yield ""
        for sentence in report.sentences(name, measured):
            yield f"- {sentence}" if not sentence.startswith(" ") else f"  - {sentence.strip()}"
