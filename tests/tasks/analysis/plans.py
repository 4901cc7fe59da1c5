"""A plan for tests to vary."""

from __future__ import annotations

from tasks.analysis.judge.plan import CanaryPlan

PLAN = CanaryPlan(
    policy="cartpole",
    version="4",
    champion="3",
    generation="4-abc",
    steps=(0.05, 0.25, 0.5),
    units_per_step=10,
    objective="non_inferiority",
    margin=25.0,
    alpha=0.05,
    bounds=(0.0, 500.0),
    clipped=False,
    abandoned_return=0.0,
    threshold=400.0,
    max_units_per_arm=2000,
    max_hours=24.0,
    latency_slo_ms=50.0,
)
