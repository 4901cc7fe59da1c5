"""How long a call takes, what it costs beside another, and what this process holds."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.inputs import Array

Call = Callable[[], Any]

WARM_UP_CALLS = 20
MINIMUM_CALLS = 200
MAXIMUM_CALLS = 3_000
SECONDS = 0.025
"""Time after which a measurement ends, once it has `MINIMUM_CALLS`."""
PATIENCE = 0.3
"""Time (s) after which a measurement of slow calls ends with as few as `FEWEST_CALLS`."""
FEWEST_CALLS = 5
ROUNDS = 40
ROUND_SECONDS = 0.001
ROUNDS_PATIENCE = 2.0
FEWEST_ROUNDS = 8


def durations(call: Call, calls: int | None = None) -> Array:
    """Seconds of each call, after a warm-up; without `calls`, as many as fit into a fraction of a second."""
    return _timed(call, calls)[0]


def latency(call: Call, batch: int) -> dict[str, float]:
    """Quantiles of a call's duration in microseconds, of how many calls, rows a second at the mean, and the CPU time in
    milliseconds that this process takes for a thousand rows."""
    taken, cpu_seconds = _timed(call)
    quantiles = {f"p{q}_us": round(float(np.quantile(taken, q / 100)) * 1e6, 2) for q in (50, 90, 99)}
    return {
        **quantiles,
        "calls": len(taken),
        "rows_per_second": round(batch / float(taken.mean()), 1),
        "cpu_ms_per_1000": round(cpu_seconds / (len(taken) * batch) * 1e6, 3),
    }


def _timed(call: Call, calls: int | None = None) -> tuple[Array, float]:
    """Seconds of each call, and CPU seconds of all of them."""
    started = time.perf_counter()
    for _ in range(WARM_UP_CALLS):
        call()
        if time.perf_counter() - started > PATIENCE / 4:
            break
    taken: list[float] = []
    cpu_before, started = time.process_time(), time.perf_counter()
    while len(taken) < (calls or MAXIMUM_CALLS):
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        taken.append(after - before)
        enough = SECONDS if len(taken) >= MINIMUM_CALLS else PATIENCE
        if calls is None and len(taken) >= FEWEST_CALLS and after - started > enough:
            break
    return np.array(taken), time.process_time() - cpu_before


def relative_cost(call: Call, reference: Call) -> tuple[float, tuple[float, float]]:
    """Time of a call as a multiple of the reference's: the median over rounds, and its 95 % interval.

    Both are called in turns, so that what slows the machine slows both, and the CPU time of this thread is compared, in
    which waiting for other processes does not count. The interval is that of order statistics, without assumptions on
    the distribution (Conover 1999, section 3.2).
    """
    calls = max(1, min(20, int(ROUND_SECONDS / max(_cpu_seconds(reference, 1), 1e-9))))
    for warmed in (call, reference):
        _cpu_seconds(warmed, calls)
    ratios: list[float] = []
    started = time.perf_counter()
    while len(ratios) < ROUNDS:
        pair = {}
        # Whoever goes first finds the caches of the other: they take turns at that, too.
        for one in (call, reference) if len(ratios) % 2 else (reference, call):
            pair[one] = _cpu_seconds(one, calls)
        ratios.append(pair[call] / max(pair[reference], 1e-9))
        if len(ratios) >= FEWEST_ROUNDS and time.perf_counter() - started > ROUNDS_PATIENCE:
            break
    ordered = np.sort(ratios)
    rank = max(int(np.floor(len(ordered) / 2 - 0.98 * np.sqrt(len(ordered)))), 1)
    return round(float(np.median(ordered)), 4), (
        round(float(ordered[rank - 1]), 4),
        round(float(ordered[len(ordered) - rank]), 4),
    )


def _cpu_seconds(call: Call, calls: int) -> float:
    before = time.thread_time()
    for _ in range(calls):
        call()
    return time.thread_time() - before


def memory_mb() -> tuple[float, float]:
    """Resident memory of this process now and at its peak, MB.

    The peak is the kernel's VmHWM: `ru_maxrss` would be inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return peak, peak
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024
