"""A policy's statistics as Triton's statistics extension has them, of all workers together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bentos.gateway.status import Cell
from bentos.telemetry import counters as stats

_MILLISECONDS, _NANOSECONDS = 1e3, 1e9
_ARMS = ("champion", "control", "challenger")
_UNTIMED = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def of_version(policy: str, version: str, cells: Iterable[Cell]) -> dict[str, Any]:
    """One entry of `model_stats`: decisions, requests, and their time from end to end, of what `version` was given.

    Refused requests never reach a version and are counted without a time; the parts of a decision are not timed.
    """
    total = stats.total(cell[4] for cell in cells if cell[1] == version and cell[2] in _ARMS)
    nothing = {"count": 0, "ns": 0}
    return {
        "name": policy,
        "version": version,
        "last_inference": round(total["last_decided"] * _MILLISECONDS),
        "inference_count": total["decisions"],
        "execution_count": total["requests"],
        "inference_stats": {
            "success": {"count": total["requests"], "ns": round(total["latency"]["sum"] * _NANOSECONDS)},
            "fail": {"count": sum(total["rejected"].values()), "ns": 0},
            **dict.fromkeys(_UNTIMED, nothing),
        },
        "batch_stats": [],
    }
