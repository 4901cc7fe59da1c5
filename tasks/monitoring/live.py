"""What the gateway says is live: each policy's route and statistics, and how far its traffic has drifted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from bentos import settings
from bentos.http_client import trusted
from tasks.cache import Fresh
from tasks.errors import first_line

TIMEOUT_SECONDS = 4.0
_DRIFT = {"rl_observation_drift": "observations", "rl_action_drift": "actions"}


class GatewaySilent(Exception):
    """The gateway did not answer, or not as a gateway does; the message says which one and what came."""


@dataclass(frozen=True)
class Drift:
    """One figure of how far a version's traffic is from its package's baseline.

    `subject` is observations or actions, `statistic` as in `bentos.telemetry.drift` ("sequential" raises its alarm at
    1), `dimension` the one furthest off, or "all".
    """

    version: str
    arm: str
    subject: str
    statistic: str
    dimension: str
    value: float

    @property
    def alarm(self) -> bool:
        """Whether the figure is evidence enough that something has changed."""
        return self.statistic == "sequential" and self.value >= 1.0


@dataclass(frozen=True)
class Live:
    """The gateway's documents of `GET /v1/policies`, as an admin sees them, by policy; and drift, by policy."""

    policies: dict[str, dict[str, Any]]
    drift: dict[str, tuple[Drift, ...]]


def live(url: str | None = None) -> Live:
    """Ask the gateway, with the admin token, which stays here. Raises GatewaySilent."""
    base = (url or settings.gateway_url()).rstrip("/")
    token = {"Authorization": f"Bearer {settings.secret('admin_token')}"}
    try:
        with httpx.Client(base_url=base, timeout=TIMEOUT_SECONDS, verify=trusted(base)) as client:
            answer = client.get("/v1/policies", headers=token).raise_for_status().json()
            metrics = client.get("/metrics")
        found = {str(item["policy"]): dict(item) for item in answer["policies"]}
    except httpx.HTTPError as error:
        raise GatewaySilent(f"the gateway at {base} does not answer: {first_line(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise GatewaySilent(f"what answers at {base} is no gateway: {first_line(error)}") from error
    return Live(found, drift(metrics.text) if metrics.status_code == 200 else {})


def metrics_page(url: str) -> str:
    """The gateway's page of metrics. Raises GatewaySilent."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/metrics", timeout=TIMEOUT_SECONDS, verify=trusted(url))
        return answer.raise_for_status().text
    except httpx.HTTPError as error:
        raise GatewaySilent(f"the gateway at {url} does not answer: {first_line(error)}") from error


def drift(metrics: str) -> dict[str, tuple[Drift, ...]]:
    """Drift figures by policy from a page of metrics: of each statistic the worst dimension, the alarm's own first."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = (line for line in metrics.splitlines(keepends=True) if line.startswith(tuple(_DRIFT)))
    worst: dict[tuple[str, ...], Drift] = {}
    for family in text_string_to_metric_families("".join(lines)):
        for sample in family.samples:
            labels = sample.labels
            found = Drift(
                labels.get("version", ""),
                labels.get("arm", ""),
                _DRIFT[sample.name],
                labels.get("statistic", ""),
                labels.get("dimension", ""),
                float(sample.value),
            )
            key = (labels.get("policy", ""), found.version, found.arm, found.subject, found.statistic)
            if found.value == found.value and (key not in worst or found.value > worst[key].value):  # NaN: told no more
                worst[key] = found
    return {policy: _ordered(worst, policy) for policy in {key[0] for key in worst}}


def _ordered(worst: dict[tuple[str, ...], Drift], policy: str) -> tuple[Drift, ...]:
    found: Iterable[Drift] = (figure for key, figure in worst.items() if key[0] == policy)
    return tuple(sorted(found, key=lambda f: (f.arm, f.subject, f.statistic != "sequential", f.statistic)))


_recent = Fresh(live, 1.0)


def recent_again() -> None:
    """Ask anew at the next call of `recent`."""
    _recent.clear()


def recent() -> Live:
    """What the gateway said, at most a second ago. Raises GatewaySilent."""
    return _recent(settings.gateway_url())
