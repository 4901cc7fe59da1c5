"""Checks that ask the packaged service: a scratch server of the Bento, and one of the same Bento made to break."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bentos.http_client import trusted
from bentos.package.loader import load
from bentos.package.session import Policy
from tasks.build.packaging.scratch_server import Server
from tasks.checklist.fuzz import bad_requests
from tasks.checklist.types import Finding
from tasks.gateway_requests import ask
from tasks.inputs import Inputs, concatenate, observations, only_observations, plain, size, take

PATIENCE_SECONDS = 5.0
METRICS = (
    "rl_inference_total",
    "rl_inference_latency_seconds_bucket",
    "rl_action_total",
    "rl_episode_reward",
    "rl_episode_return_bucket",
    "rl_episodes_total",
    "rl_rejected_total",
    "rl_breaker_open",
    "rl_batch_size_bucket",
)
"""What a lone Bento exposes after decisions, an outcome and a refused request; the others need a canary or faults."""
FAULT_METRICS = ("rl_faults_total",)


@dataclass(frozen=True)
class Served:
    """The scratch servers: `server` serves the package, `broken` the same with a graph that fails on `marker`.

    `given` are rows that the policy was asked with before, `marker` is one of them.
    """

    package: Policy
    given: Inputs
    server: Server
    broken: Server
    marker: Inputs

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return self.package.manifest.name


def input_validation(served: Served) -> Finding:
    """Every bad request is refused with 4xx and problem+json; a good one is answered after each, as before."""
    (observation,) = plain(take(served.given, slice(1)))
    good = {"observation": observation}
    problems: list[str] = []
    statuses: Counter[str] = Counter()
    with httpx.Client(base_url=served.server.url, timeout=30.0, verify=trusted(served.server.url)) as client:
        before = client.post(f"/v1/policies/{served.policy}/act", json=good).raise_for_status().json()["action"]
        requests = list(bad_requests(served.package.manifest, observation, _stateful(served.package)))
        for bad in requests:
            try:
                answer = client.request(
                    bad.method, bad.path, content=bad.body, headers={"content-type": bad.content_type}
                )
            except httpx.HTTPError as error:
                # a server may refuse a huge body by closing the connection; any other loss is a fault
                if bad.name != "a huge body":
                    problems.append(f"{bad.name}: {type(error).__name__}")
                statuses["closed"] += 1
                continue
            statuses[str(answer.status_code)] += 1
            kind = answer.headers.get("content-type", "")
            if not 400 <= answer.status_code < 500:
                problems.append(f"{bad.name}: answered {answer.status_code}")
            elif not kind.startswith("application/problem+json"):
                problems.append(f"{bad.name}: {answer.status_code} without a problem document ({kind or 'no type'})")
        after = client.post(f"/v1/policies/{served.policy}/act", json=good).raise_for_status().json()["action"]
    if before != after:
        problems.append(f"a good request was answered {before} before and {after} after")
    reason = "; ".join(problems[:3]) or f"{len(requests)} kinds of bad requests refused, good ones answered as before"
    return Finding(
        "fail" if problems else "pass",
        reason,
        observed=len(problems),
        threshold=0,
        unit="mishandled",
        sample_size=len(requests),
        evidence={"statuses": dict(statuses), "problems": problems},
    )


def _stateful(package: Policy) -> bool:
    manifest = package.manifest
    recurrent = any(tensor.name.startswith("state_") for tensor in manifest.inputs)
    return recurrent or manifest.safety.rate_limit is not None


def fallback_configured(served: Served) -> Finding:
    """The fallback answers, with the configured action, when the policy's output is not finite, and only then."""
    manifest = served.package.manifest
    good = _another(served)
    answers = ask(served.broken.url, served.policy, concatenate([good, served.marker, good]))
    sources, actions = answers["sources"], answers["actions"]
    problems = []
    if sources != ["policy", "fallback", "policy"]:
        problems.append(f"sources were {sources}, expected the fallback for the broken observation alone")
    configured = manifest.serve.fallback or {}
    own = load(served.package.directory, variant="fp32").predict(observations(good))[0]
    expected = [own, configured.get("constant", actions[1]), own]
    for came, wanted, adjusted in zip(actions, expected, answers["adjusted"], strict=True):
        if not adjusted and not np.allclose(came, wanted, rtol=1e-4, atol=1e-5):
            problems.append(f"the action {came} came where {np.asarray(wanted).tolist()} was expected")
    return Finding(
        "fail" if problems else "pass",
        "; ".join(problems)
        or f"a graph that put out NaN was answered by the fallback {configured}, its neighbours not",
        observed=sources[1] if len(sources) == 3 else sources,
        threshold="fallback",
        sample_size=len(sources),
        evidence={"configured": configured, "actions": actions, "sources": sources},
    )


def _another(served: Served) -> Inputs:
    """One row of observations that is not the marker. Raises ValueError where all are alike."""
    observed = only_observations(served.given)
    alike = np.ones(size(observed), dtype=bool)
    for name, value in observed.items():
        alike &= (value == served.marker[name]).reshape(len(value), -1).all(axis=1)
    if alike.all():
        raise ValueError("all observations of the baseline are the same: the fallback cannot be told from the policy")
    first = int(np.argmin(alike))
    return take(observed, slice(first, first + 1))


def metrics_defined(served: Served) -> Finding:
    """After decisions, an outcome, a refusal and a fault, a scrape shows every metric with its labels."""
    base = f"{served.server.url}/v1/policies/{served.policy}"
    episode = httpx.post(f"{base}/episodes", json={}).raise_for_status().json()["episode_id"]
    low, high = served.package.manifest.outcomes.return_range or (0.0, 1.0)
    outcome = {"episode_id": episode, "return": (low + high) / 2, "length": 1}
    httpx.post(f"{base}/outcomes", json=outcome).raise_for_status()
    ask(served.broken.url, served.policy, served.marker)
    missing = _missing(served.server.url, METRICS, served.policy) | _missing(
        served.broken.url, FAULT_METRICS, served.policy
    )
    wanted = len(METRICS) + len(FAULT_METRICS)
    return Finding(
        "fail" if missing else "pass",
        f"not on /metrics: {', '.join(sorted(missing))}" if missing else f"all {wanted} scraped, labelled by policy",
        observed=wanted - len(missing),
        threshold=wanted,
        unit="metrics",
        sample_size=wanted,
        evidence={"missing": sorted(missing)},
    )


def _missing(url: str, names: tuple[str, ...], policy: str) -> set[str]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        lines = httpx.get(f"{url}/metrics").raise_for_status().text.splitlines()
        labels = (f'policy="{policy}"', "version=", "arm=")
        seen = {line.split("{", 1)[0] for line in lines if all(label in line for label in labels)}
        missing = set(names) - seen
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.1)


def logging_configured(served: Served) -> Finding:
    """The fault that was caused is in the log, as one JSON object with time, level, event, policy and version."""
    ask(served.broken.url, served.policy, served.marker)
    wanted = ("at", "level", "event", "policy", "version")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        lines = _json_lines(served.broken.log)
        faults = [line for line in lines if line.get("level") in ("warning", "error") and line.get("policy")]
        whole = [line for line in faults if all(line.get(name) is not None for name in wanted)]
        if whole or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if not whole:
        return Finding(
            "fail",
            f"no log line of the fault with {', '.join(wanted)} among {len(lines)} structured lines",
            observed=0,
            threshold=1,
            unit="lines",
            evidence={"last": lines[-3:]},
        )
    example = {name: str(text)[:200] for name, text in whole[-1].items() if name != "error"}
    return Finding(
        "pass",
        f"the fault was logged as {example['event']!r} ({example['level']}) and parsed back",
        observed=len(whole),
        threshold=1,
        unit="lines",
        sample_size=len(lines),
        evidence={"line": example},
    )


def _json_lines(log: Path) -> list[dict[str, Any]]:
    lines = []
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                lines.append(dict(json.loads(line)))
            except ValueError:
                continue
    return lines
