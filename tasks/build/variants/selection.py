"""The choice of the variant that ships: the fastest that passed its gate, from what was measured alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.build.variants.gate import MAXIMUM_COST, Gain, Verdict, judge, judge_gain


@dataclass(frozen=True)
class Row:
    """One variant as it stood when the choice was made. Latencies at the served batch size, microseconds.

    `relative_cost` is its time as a share of fp32's, measured in turns; `cost_interval` its 95 % interval.
    """

    variant: str
    accepted: bool
    p50_us: float | None
    p99_us: float | None
    relative_cost: float | None
    size_bytes: int | None
    reason: str
    cost_interval: tuple[float, float] | None = None


COMPARED_BATCH = 32
"""The batch size that variants are compared at where the spec leaves it open."""
TIE = 0.9
"""A smaller batch with at least this share of the most rows a second is preferred: its answers come sooner."""


@dataclass(frozen=True)
class BatchSize:
    """Most rows per model call, and why in words."""

    rows: int
    reason: str


@dataclass(frozen=True)
class Selection:
    """The variant that ships and its batch size, why in words, and the table the variant was chosen from."""

    variant: str
    reason: str
    batch_size: int
    table: list[Row]
    batch_reason: str = "the spec says so"

    @property
    def accepted(self) -> list[str]:
        """Variants that passed the quantization gate, fp32 among them."""
        return [row.variant for row in self.table if row.accepted]


def choose(
    measured: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, Mapping[str, Any]],
    batch_size: int | None,
    slo_ms: float,
    deadline_ms: float = float("inf"),
) -> Selection:
    """The fastest variant that passed its gate, within the latency objective; ties go to fp32. Without a `batch_size`
    one is chosen for it.

    `measured` is the benchmark by variant, `judged` how each variant acts; fp32 always passes. A variant ties with fp32
    unless its time is surely at most 90 % of fp32's.
    """
    asked, batch_size = batch_size, batch_size or COMPARED_BATCH
    fp32 = _row("fp32", Verdict(True, "the exported policy itself"), measured, batch_size)
    rows = [
        fp32,
        *(
            _row(name, _last_word(name, entry, measured, batch_size), measured, batch_size)
            for name, entry in sorted(judged.items())
        ),
    ]
    within = [row for row in rows if row.accepted and row.p99_us is not None and row.p99_us <= slo_ms * 1000]
    candidates = within or [fp32]
    faster = [row for row in candidates if row is not fp32 and _upper(row) <= MAXIMUM_COST]
    chosen = min(
        faster if faster or fp32 not in candidates else [fp32],
        key=lambda row: (row.relative_cost or 1.0, row.variant),
        default=min(candidates, key=lambda row: (row.relative_cost or 1.0, row.variant)),
    )
    reason = _explain(chosen, rows, bool(within), batch_size, slo_ms)
    if asked is not None:
        return Selection(chosen.variant, reason, asked, rows)
    size = fastest_batch(measured.get(chosen.variant, {}).get("batch", {}), min(slo_ms, deadline_ms))
    return Selection(
        chosen.variant, f"{reason} Batches of {size.rows} rows: {size.reason}.", size.rows, rows, size.reason
    )


def fastest_batch(curve: Mapping[str, Mapping[str, float]], limit_ms: float) -> BatchSize:
    """The batch size with the most rows a second that keeps to the limit, by a variant's measured `curve`: batch size
    -> `p99_us` and `rows_per_second`.

    A row may come just after a call has begun, so two calls must end within the limit. Without measurements it is
    `COMPARED_BATCH`; where no batch keeps to the limit, the smallest that was measured.
    """
    if not curve:
        return BatchSize(COMPARED_BATCH, "no batch size was measured")
    sizes = sorted(map(int, curve))
    within = [size for size in sizes if 2 * curve[str(size)]["p99_us"] <= limit_ms * 1000]
    if not within:
        return BatchSize(sizes[0], f"two calls of no batch size end within {limit_ms:g} ms")
    rates = {size: curve[str(size)]["rows_per_second"] for size in within}
    most = max(rates.values())
    chosen = next(size for size in within if rates[size] >= TIE * most)
    return BatchSize(
        chosen,
        f"{rates[chosen]:,.0f} rows/s measured, of at most {most:,.0f} where two calls end within {limit_ms:g} ms; "
        f"p99 of a call {curve[str(chosen)]['p99_us'] / 1000:.3g} ms",
    )


def _last_word(
    name: str, entry: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]], batch_size: int
) -> Verdict:
    """The gate's verdict of a variant, from how it acts and what it gains."""
    behaviour = Verdict(entry["accepted_actions"], entry["reason"])
    if name not in measured or "fp32" not in measured:
        return judge(behaviour, Verdict(False, "it was not benchmarked")) if behaviour.accepted else behaviour
    mine = measured[name]
    cost = mine["relative_cost"]
    lower, upper = mine.get("cost_interval", (cost, cost))
    return judge(
        behaviour,
        judge_gain(Gain(batch_size, cost, lower, upper, mine["size_bytes"], measured["fp32"]["size_bytes"])),
    )


def _row(name: str, verdict: Verdict, measured: Mapping[str, Mapping[str, Any]], batch_size: int) -> Row:
    entry = measured.get(name)
    if entry is None:
        return Row(name, verdict.accepted, None, None, None, None, verdict.reason)
    at = entry["batch"][str(batch_size)]
    interval = entry.get("cost_interval")
    return Row(
        name,
        verdict.accepted,
        at["p50_us"],
        at["p99_us"],
        entry["relative_cost"],
        entry["size_bytes"],
        verdict.reason,
        None if interval is None else (interval[0], interval[1]),
    )


def _upper(row: Row) -> float:
    """The most that a variant may take of fp32's time."""
    return row.cost_interval[1] if row.cost_interval else row.relative_cost or 1.0


def _explain(chosen: Row, rows: list[Row], within: bool, batch_size: int, slo_ms: float) -> str:
    head = f"{chosen.variant} ships"
    if chosen.p50_us is not None:
        head += f": p50 {chosen.p50_us:.1f} µs, p99 {chosen.p99_us:.1f} µs at batch {batch_size}"
    if not within:
        head += f", although no variant keeps its p99 within {slo_ms:g} ms"
    others = []
    for row in rows:
        if row.variant == chosen.variant:
            continue
        if not row.accepted:
            others.append(f"{row.variant} was rejected: {row.reason}")
        elif row.p99_us is not None and row.p99_us > slo_ms * 1000:
            others.append(f"{row.variant} misses the latency objective of {slo_ms:g} ms (p99 {row.p99_us:.0f} µs)")
        elif row.variant != "fp32":
            tie = "; a gain of less than 10 % goes to fp32" if chosen.variant == "fp32" else ""
            others.append(f"{row.variant} passed and takes {row.relative_cost or 1.0:.2f} times fp32's time{tie}")
    return ". ".join([head, *others]) + "."
