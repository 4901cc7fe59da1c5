"""The sections of a model card that tell what was measured: parity, variants, benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.build.variants.table import Measured, footprints, latencies, not_measured
from tasks.markdown import brief, table


def parity(document: Mapping[str, Any]) -> str:
    """The proof of equality, format by format."""
    formats = document.get("formats", {})
    if not formats:
        return ""
    rows = [
        [
            name,
            f"{min(row['agreement'] for row in batches.values()):.2%}",
            f"{max(row['max_error'] for row in batches.values()):.1e}",
            ", ".join(sorted(batches, key=int)),
            f"{max(row['rows'] for row in batches.values()):,}",
        ]
        for name, batches in sorted(formats.items())
    ]
    header = ["format", "equal actions", "largest error, share of span", "batch sizes", "observations"]
    return "### Parity with the trained policy\n\n" + table(header, rows) + _proved(document)


def _proved(parity: Mapping[str, Any]) -> str:
    """What the proof covers beside the table, in a sentence or two; nothing for what the document does not tell."""
    parts = []
    if "source" in parity:
        parts.append(f"{parity.get('observations', 0):,} observations: {parity['source']}")
    edges = sorted({case for cases in parity.get("edges", {}).values() for case in cases})
    refused = sorted({case for cases in parity.get("refused", {}).values() for case in cases})
    if edges:
        parts.append(f"equal at the edges ({', '.join(edges)})")
    if refused:
        parts.append(f"flagged as not finite: {', '.join(refused)}")
    errors = [error for entry in parity.get("parameters", {}).values() for error in entry.values()]
    if errors:
        parts.append(f"distribution parameters within {max(errors):.0e}")
    returns = parity.get("returns", {})
    if "skipped" in returns:
        parts.append(f"returns not compared: {returns['skipped']}")
    elif returns:
        parts.append(
            f"returns on {returns['episodes']} paired seeds: {returns['exported']:.2f} exported, "
            f"{returns['original']:.2f} original"
        )
    return f"\n\nProved on {'; '.join(parts)}." if parts else ""


def variants(
    benchmark: Measured,
    quantization: Mapping[str, Mapping[str, Any]],
    selection: Mapping[str, Any],
    batch_size: int,
    reason_limit: int,
) -> str:
    """What each variant costs and how it acts, and what became of it."""
    if not benchmark:
        return ""
    shipped, batch = selection.get("variant"), str(batch_size)
    decisions = {row["variant"]: row for row in selection.get("table", [])}
    rows = []
    for variant, row in benchmark.items():
        kept = quantization.get(variant, {})
        one, many = row["batch"].get("1", {}), row["batch"].get(batch, {})
        rows.append(
            [
                f"**{variant}**" if variant == shipped else variant,
                _latencies(one),
                _latencies(many),
                f"{row.get('peak_rss_mb', 0):.0f}",
                f"{row.get('size_bytes', 0) / 1000:.1f}",
                _actions(kept),
                f"{kept['return_difference']['mean']:+.1f}" if kept.get("return_difference") else "",
                _decision(decisions.get(variant, {}), variant == shipped, min(reason_limit or 48, 48)),
            ]
        )
    header = ["variant", "1 row, µs", f"{batch} rows, µs", "peak MB", "kB", "actions", "return", "decision"]
    why = selection.get("batch_reason")
    batches = f"\n\nBatches of {selection['batch_size']} rows: {brief(why, reason_limit or len(why))}." if why else ""
    return "### Variants (latency p50 / p99)\n\n" + table(header, rows) + batches


def _actions(kept: Mapping[str, Any]) -> str:
    """How a variant's actions compare with fp32's: equal ones weighted by margin, or the error of continuous ones."""
    if kept.get("discrete", True):
        share = kept.get("weighted_agreement", kept.get("agreement"))
        return "" if share is None else f"{share:.2%} equal"
    return f"p99 error {kept['p99_error']:.1e}"


def _latencies(row: Mapping[str, float]) -> str:
    return f"{row.get('p50_us', 0):.0f}\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}{row.get('p99_us', 0):.0f}"


def _decision(row: Mapping[str, Any], ships: bool, limit: int) -> str:
    if ships:
        return "ships"
    if not row.get("accepted"):
        return brief(f"rejected: {row.get('reason', 'not measured')}", limit)
    return f"{row['relative_cost']:.2f} times fp32's time" if row.get("relative_cost") else "not benchmarked"


def benchmark(measured: Measured, batch_size: int) -> str:
    """Every batch size, and every way to run the policy."""
    if not measured:
        return ""
    tables = (
        latencies(measured),
        footprints(measured, batch_size),
    )
    sections = [f"{lines.title}:\n\n{table(lines.header, lines.lines)}" for lines in tables]
    missing = not_measured(measured)
    return "### Benchmark\n\n" + "\n\n".join([*sections, *missing])
