"""Checks on what the build stages left behind: the package's evidence, the thresholds and the plan."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import numpy as np

from bentos.package.digests import verify_file
from bentos.package.session import Policy
from tasks.alerts import rules as alerts
from tasks.alerts.readings import Reading
from tasks.build.export.graph import cast
from tasks.checklist.types import Finding
from tasks.inputs import only_observations, take
from tasks.spec.sections import PolicySpec

FORMATS = ("policy.onnx", "policy.ts", "policy.pt2")
NO_BASELINE = (
    "the package was exported where its environment could not run; install the environment and release it through the "
    "DAG, which evaluates it"
)
MAX_RSS_MB = 1_500.0
"""A lone Bento keeps to a tenth of this; past it something holds what serving does not need."""


def exported(package: Policy) -> Finding:
    """All formats are there with the digests the manifest gives, parity was proved, and the graph flags NaN."""
    manifest = package.manifest
    for name in manifest.files:
        verify_file(package.directory, manifest, name)
    problems = [f"no {name}" for name in FORMATS if name not in manifest.files]
    if not manifest.parity.get("equal"):
        problems.append("parity with the trained policy was not proved")
    feeds = cast(take(package.baseline().inputs, slice(1)), {tensor.name: tensor.dtype for tensor in manifest.inputs})
    floats = [name for name, array in only_observations(feeds).items() if array.dtype.kind == "f"]
    if floats:
        spoilt = feeds | {name: np.full_like(feeds[name], np.nan) for name in floats}
        if package.run(spoilt, ["finite"])["finite"].any():
            problems.append("the graph calls its output finite on an observation of NaN")
    compared = int(manifest.parity.get("observations", 0))
    return Finding(
        "fail" if problems else "pass",
        "; ".join(problems)
        or f"{len(manifest.files)} digests right, {', '.join(FORMATS)} equal on {compared} observations",
        observed=sum(name in manifest.files for name in FORMATS),
        threshold=len(FORMATS),
        unit="formats",
        sample_size=compared,
        evidence={"files": sorted(manifest.files), "shipped": manifest.shipped_variant},
    )


def latency_benchmarked(package: Policy, spec: PolicySpec) -> Finding:
    """The shipped variant was benchmarked, and its p99 at the served batch size is within the objective."""
    batches = package.manifest.benchmark.get(package.manifest.shipped_variant, {}).get("batch", {})
    if not batches:
        return Finding("fail", f"the shipped variant {package.manifest.shipped_variant} was not benchmarked")
    served = spec.serve.batch_size or package.manifest.serve.batch_size
    at_least = [int(batch) for batch in batches if int(batch) >= served]
    batch = min(at_least) if at_least else max(int(batch) for batch in batches)
    p99_ms = batches[str(batch)]["p99_us"] / 1000
    ok = p99_ms <= spec.serve.latency_slo_ms and bool(at_least)
    reason = f"p99 {p99_ms:.3g} ms for {batch} rows, objective {spec.serve.latency_slo_ms:g} ms"
    return Finding(
        "pass" if ok else "fail",
        reason if at_least else f"{reason}; no batch of {served} rows was measured",
        observed=p99_ms,
        threshold=spec.serve.latency_slo_ms,
        unit="ms",
        sample_size=len(batches),
        evidence={"variant": package.manifest.shipped_variant, "batch": batch, "batches": batches},
    )


def memory_profiled(package: Policy, rss_mb: float) -> Finding:
    """RSS and peak of the shipped variant were measured, and the whole scratch server (`rss_mb`) keeps to a limit."""
    row: dict[str, Any] = package.manifest.benchmark.get(package.manifest.shipped_variant, {})
    measured = {name: row.get(name) for name in ("rss_mb", "peak_rss_mb", "load_ms", "size_bytes")}
    missing = [name for name in ("rss_mb", "peak_rss_mb") if not row.get(name)]
    if missing:
        return Finding("fail", f"not profiled: {', '.join(missing)}", evidence=measured)
    return Finding(
        "pass" if rss_mb <= MAX_RSS_MB else "fail",
        f"the server holds {rss_mb:.0f} MB, the policy alone peaked at {row['peak_rss_mb']:.0f} MB",
        observed=rss_mb,
        threshold=MAX_RSS_MB,
        unit="MB",
        sample_size=1,
        evidence=measured,
    )


def alert_thresholds(spec: PolicySpec) -> Finding:
    """Every alert has a threshold, is silent just inside it and raised just beyond it."""
    rules = alerts.rules(spec)
    missing = sorted(set(alerts.NAMES) - {rule.alert for rule in rules})
    problems = [f"no rule for {name}" for name in missing]
    for rule in rules:
        step = max(abs(rule.threshold), 1.0) * (0.01 if rule.comparison == "above" else -0.01)
        samples = max(rule.minimum_samples, 1)
        for value, expected in ((rule.threshold, False), (rule.threshold + step, True)):
            raised = alerts.evaluate([rule], {rule.metric: Reading(value, samples)}, spec.name, None, 0.0)
            if bool(raised) != expected:
                problems.append(f"{rule.alert} was {'raised' if raised else 'silent'} at {value:g} {rule.unit}")
    return Finding(
        "fail" if problems else "pass",
        "; ".join(problems) or f"{len(alerts.NAMES)} alerts have thresholds, each tried on both sides",
        observed=len({rule.alert for rule in rules}),
        threshold=len(alerts.NAMES),
        unit="alerts",
        sample_size=2 * len(rules),
        evidence={f"{rule.alert} {rule.metric}": {"threshold": rule.threshold, "unit": rule.unit} for rule in rules},
    )


def detectable_loss(std: float, alpha: float, units_per_arm: int) -> float:
    """The smallest loss of mean return that a canary shows with power 0.8 within its budget, roughly.

    The fixed-sample formula (z_alpha + z_power) s sqrt(2/n), with n halved for looking after every unit.
    """
    z = statistics.NormalDist().inv_cdf
    return float((z(1 - alpha) + z(0.8)) * std * (4.0 / units_per_arm) ** 0.5)


def ab_plan(spec: PolicySpec, baseline: dict[str, Any], champion: str | None, comparable: bool = True) -> Finding:
    """The canary can be decided: bounds that hold, growing steps, someone to compare with, a budget that shows a loss.

    `baseline` is the evaluated return: mean, std, count. `champion` is the version it runs against, None on a first
    release; `comparable` says that its spaces are the candidate's. Not to see a loss of twice the margin within the
    budget makes a canary a formality.
    """
    canary, problems = spec.canary, []
    if not baseline.get("count"):
        return Finding("fail", f"there are no evaluated returns to plan with: {NO_BASELINE}")
    bounds = canary.bounds
    if not comparable:
        problems.append(
            f"champion {champion} has other observation or action spaces, so that no client can be served by both: "
            "release it as another policy, or roll back first until there is no champion"
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(canary.steps)):
        problems.append(f"steps do not grow: {canary.steps}")
    if canary.return_range and not canary.return_range[0] <= baseline["mean"] <= canary.return_range[1]:
        problems.append(f"the evaluated mean return {baseline['mean']:.1f} lies outside {list(canary.return_range)}")
    minimum = spec.evaluate.minimum_mean_return
    if champion is None and bounds and not bounds[0] <= minimum < bounds[1]:
        problems.append(f"a first release is held against {minimum:g}, which lies outside {list(bounds)}")
    if champion is None and not spec.serve.fallback:
        problems.append("a first release needs a fallback for everyone outside its canary")
    loss = detectable_loss(float(baseline["std"]), canary.alpha, canary.max_units_per_arm)
    if loss > 2 * canary.margin:
        problems.append(
            f"{canary.max_units_per_arm} units an arm show a loss of {loss:.1f} at best; twice the margin is "
            f"{2 * canary.margin:g}: give more units or a wider margin"
        )
    opponent = f"champion {champion}" if champion else f"the required mean {minimum:g} (a first release)"
    test = "exact test" if bounds else "asymptotic test (returns are unbounded)"
    return Finding(
        "fail" if problems else "pass",
        "; ".join(problems)
        or f"{canary.objective} against {opponent}, {test}, steps {canary.steps}, "
        f"{canary.max_units_per_arm} units an arm show a loss of {loss:.1f}",
        observed=loss,
        threshold=2 * canary.margin,
        unit="return lost",
        sample_size=int(baseline.get("count", 0)),
        evidence={
            "objective": canary.objective,
            "margin": canary.margin,
            "alpha": canary.alpha,
            "bounds": list(bounds) if bounds else None,
            "clipped": canary.return_clip is not None,
            "champion": champion,
        },
    )
