"""The benchmark as tables: what one would serve instead, fp32 and its variants, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ORIGINALS = {
    "sb3_predict": "SB3 predict",
    "torch": "torch",
    "torchscript": "TorchScript",
    "pt2": "torch.export (.pt2)",
}
Measured = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Lines:
    """One table: its title, its header and its lines, all in words."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]


def latencies(measured: Measured) -> Lines:
    """Microseconds a call by batch size, p50 / p90 / p99: the originals, then each variant plain and io-bound."""
    rows: dict[str, Mapping[str, Any]] = {}
    compared = measured.get("fp32", {}).get("compared_with") or {}
    for name, label in ORIGINALS.items():
        if name in compared:
            rows[label] = compared[name]["batch"]
    for variant, entry in measured.items():
        rows[f"ONNX Runtime, {variant}"] = entry["batch"]
        if entry.get("io_binding"):
            rows[f"ONNX Runtime, {variant}, io-binding"] = entry["io_binding"]
        for provider, found in entry.get("providers", {}).items():
            if "batch" in found:
                rows[f"{provider}, {variant}"] = found["batch"]
    batches = sorted({batch for row in rows.values() for batch in row}, key=int)
    return Lines(
        "Microseconds a call (p50 / p90 / p99) by rows in the batch",
        ["", *batches],
        [[label, *(_quantiles(row.get(batch)) for batch in batches)] for label, row in rows.items()],
    )


def footprints(measured: Measured, served: int) -> Lines:
    """Time to load, memory, size, CPU time and cost beside fp32 of each variant."""
    return Lines(
        f"Footprint, and cost at the served batch of {served}",
        ["", "load ms", "RSS MB", "peak MB", "file kB", "CPU ms a 1000 decisions", "times fp32's time"],
        [
            [
                variant,
                f"{entry.get('load_ms', 0):.1f}",
                f"{entry.get('rss_mb', 0):.0f}",
                f"{entry.get('peak_rss_mb', 0):.0f}",
                f"{entry.get('size_bytes', 0) / 1000:.1f}",
                f"{entry['batch'].get(str(served), {}).get('cpu_ms_per_1000', 0):.2f}",
                _cost(entry),
            ]
            for variant, entry in measured.items()
        ],
    )


def not_measured(measured: Measured) -> list[str]:
    """What could not be measured here, and why, each once."""
    found = {
        f"{provider}: not measured, {entry['not_measured']}"
        for row in measured.values()
        for provider, entry in row.get("providers", {}).items()
        if "not_measured" in entry
    }
    return sorted(found)


def text(measured: Measured, served: int, width: int = 150) -> str:
    """Both tables for a terminal, and what was not measured."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), width=width)
    for lines in (latencies(measured), footprints(measured, served)):
        table = Table(title=lines.title)
        for index, column in enumerate(lines.header):
            table.add_column(column, justify="right" if index else "left")
        for line in lines.lines:
            table.add_row(*line)
        console.print(table)
    for line in not_measured(measured):
        console.print(line)
    return console.file.getvalue() if isinstance(console.file, io.StringIO) else ""


def _quantiles(row: Mapping[str, float] | None) -> str:
    if row is None:
        return ""
    return " / ".join(_microseconds(row[f"p{q}_us"]) for q in (50, 90, 99) if f"p{q}_us" in row)


def _microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _cost(entry: Mapping[str, Any]) -> str:
    cost = f"{entry.get('relative_cost', 1.0):.2f}"
    interval = entry.get("cost_interval")
    return f"{cost} [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else cost
