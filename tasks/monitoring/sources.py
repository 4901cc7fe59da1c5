"""What a version served lately, from either source: the gateway's own counters and page, or a Prometheus.

Both give the same `Seen`, so that all that is concluded from it does not depend on where it came from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa

from bentos import settings
from bentos.http_client import trusted
from bentos.telemetry.counters import LATENCY_BUCKETS, Arm, latency_counts
from tasks.alerts.readings import GAUGES, Gauge, counters
from tasks.errors import first_line
from tasks.monitoring.live import GatewaySilent, metrics_page

TIMEOUT_SECONDS = 10.0


class PrometheusSilent(Exception):
    """Prometheus did not answer a query; says which server (without its password) and what came."""


@dataclass(frozen=True)
class Since:
    """Where the stretch begins: Unix seconds, and the version's counters then (null: its very first)."""

    at: float
    counters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Seen:
    """What a version served in a stretch of time.

    `counters` as `arm_stats.stats`, only of the stretch; `figures` by metric of `readings.GAUGES`, as they are now;
    `gateway_up` 1 or 0.
    """

    source: str
    counters: dict[str, Any]
    figures: dict[str, float] = field(default_factory=dict)
    gateway_up: float = 1.0


class Source(Protocol):
    """Where the monitor reads."""

    def seen(self, policy: str, version: str, since: Since, at: float) -> Seen:
        """What the version served from `since` until now, `at` (Unix seconds)."""


class GatewaySource:
    """The counters that gateways store in Airlock's database (of all of them), and the page of metrics of one."""

    def __init__(self, engine: sa.Engine, url: str) -> None:
        self._engine = engine
        self._url = url

    def seen(self, policy: str, version: str, since: Since, at: float) -> Seen:
        """As `Source.seen`. A gateway that does not answer is no error: it is what is seen."""
        gained = difference(counters(self._engine, policy, version), since.counters)
        try:
            return Seen("gateway", gained, figures(metrics_page(self._url), policy, version))
        except GatewaySilent:
            return Seen("gateway", gained, gateway_up=0.0)


class PrometheusSource:
    """A Prometheus that scrapes the gateways as `deploy/prometheus/prometheus.yml` says."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        parts = urlsplit(url)
        self._name = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")

    def seen(self, policy: str, version: str, since: Since, at: float) -> Seen:
        """As `Source.seen`. Raises PrometheusSilent."""
        served = f'policy="{policy}",version="{version}",arm!="shadow"'
        seconds = max(1, math.ceil(at - since.at))
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_SECONDS, verify=trusted(self._url)) as client:

            def gained(series: str, label: str, also: str = "", of: str = "increase") -> dict[str, float]:
                query = f"sum by ({label}) ({of}({series}{{{served}{also}}}[{seconds}s]))"
                return {labels.get(label, ""): value for labels, value in self._ask(client, query, at)}

            def counted(series: str, label: str) -> dict[str, int]:
                # Prometheus extrapolates to the ends of the range: one fault is 1.04
                return {name: round(value) for name, value in gained(series, label).items()}

            def one(series: str, also: str = "", of: str = "increase") -> float:
                return sum(gained(series, "policy", also, of).values())

            found: dict[str, float] = {}
            for metric, gauge in GAUGES.items():
                statistic = f',statistic="{gauge.statistic}"' if gauge.statistic else ""
                worst = "min" if gauge.least else "max"
                query = f'{worst}({gauge.family}{{{served},dimension="all"{statistic}}})'
                for _, value in self._ask(client, query, at):
                    if not math.isnan(value):
                        found[metric] = value
            ups = [value for _, value in self._ask(client, 'min(up{job="airlock"})', at)]
            sources = counted("rl_inference_total", "source")
            summed = Arm().to_json()
            summed |= {
                "decisions": sum(sources.values()),
                "requests": round(one("rl_inference_latency_seconds_count")),
                "sources": summed["sources"] | sources,
                "faults": summed["faults"] | counted("rl_faults_total", "kind"),
                "rejected": counted("rl_rejected_total", "reason"),
                "actions": counted("rl_action_total", "action"),
                "latency": {
                    "buckets": list(LATENCY_BUCKETS),
                    "counts": _apart(gained("rl_inference_latency_seconds_bucket", "le")),
                    "sum": one("rl_inference_latency_seconds_sum"),
                },
                "observation_out_of_range": round(one("rl_observation_outliers_total", ',kind="range"')),
                "observation_outlier": round(one("rl_observation_outliers_total", ',kind="mahalanobis"')),
                "observation_sampled": round(one("rl_observations_sampled_total")),
                # returns may be negative: their sum is no counter
                "episodes": round(one("rl_episode_return_count", of="delta")),
                "return_sum": one("rl_episode_return_sum", of="delta"),
            }
        return Seen("prometheus", summed, found, min(ups) if ups else 0.0)

    def _ask(self, client: httpx.Client, query: str, at: float) -> list[tuple[dict[str, str], float]]:
        """The instant vector of a query, as labels and values."""
        try:
            answer = client.get("/api/v1/query", params={"query": query, "time": f"{at:.3f}"})
            document = answer.json()
            if answer.is_success and document["data"]["resultType"] == "vector":
                return [(item["metric"], float(item["value"][1])) for item in document["data"]["result"]]
            problem = str(document.get("error", f"HTTP {answer.status_code}"))
        except httpx.HTTPError as error:
            problem = type(error).__name__
        except (ValueError, KeyError, TypeError) as error:
            problem = f"not an answer of Prometheus ({first_line(error)})"
        raise PrometheusSilent(f"Prometheus at {self._name} (PROMETHEUS_URL) does not answer {query}: {problem}")


def source(engine: sa.Engine, prometheus_url: str | None) -> Source:
    """Prometheus where one is configured, else the gateway itself."""
    return PrometheusSource(prometheus_url) if prometheus_url else GatewaySource(engine, settings.gateway_url())


def difference(now: dict[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What counters (as `arm_stats.stats`) gained since `before`; all of it where that is null."""
    if before is None:
        return now
    gained: dict[str, Any] = {}
    for name, value in now.items():
        old = before.get(name)
        if name == "latency":
            known = latency_counts(old) if old else [0] * len(value["counts"])
            counts = [a - b for a, b in zip(value["counts"], known, strict=True)]
            gained[name] = {**value, "counts": counts, "sum": value["sum"] - (old["sum"] if old else 0.0)}
        elif isinstance(value, dict):
            gained[name] = {key: times - (old or {}).get(key, 0) for key, times in value.items()}
        elif isinstance(value, bool):
            gained[name] = value
        else:
            gained[name] = value - (old or 0)
    return gained


def figures(page: str, policy: str, version: str) -> dict[str, float]:
    """The figures of `GAUGES` that a page of metrics tells of a version; those it does not tell are left out."""
    from prometheus_client.parser import text_string_to_metric_families

    families = tuple({gauge.family for gauge in GAUGES.values()})
    lines = (line for line in page.splitlines(keepends=True) if line.startswith(families))
    samples = [sample for family in text_string_to_metric_families("".join(lines)) for sample in family.samples]
    found: dict[str, float] = {}
    for metric, gauge in GAUGES.items():
        values = [float(sample.value) for sample in samples if _is(sample, gauge, policy, version)]
        if values:
            found[metric] = min(values) if gauge.least else max(values)
    return found


def _is(sample: Any, gauge: Gauge, policy: str, version: str) -> bool:
    labels = sample.labels
    ours = (labels.get("policy"), labels.get("version"), labels.get("dimension")) == (policy, version, "all")
    told = sample.name == gauge.family and labels.get("statistic") == gauge.statistic
    return ours and told and labels.get("arm") != "shadow" and not math.isnan(sample.value)


def _apart(upto: Mapping[str, float]) -> list[float]:
    """Counts of each bucket from the cumulative ones of Prometheus, by their bounds, the last one open.

    Older gateways have fewer buckets. Where they are summed up with newer ones, a bound that not all have has too small
    a count: it has at least that of the bounds below it.
    """
    known = {float(bound): count for bound, count in upto.items()}
    if math.inf not in known:
        return [0.0] * (len(LATENCY_BUCKETS) + 1)
    rising = list(itertools.accumulate((known.get(bound, 0.0) for bound in (*LATENCY_BUCKETS, math.inf)), max))
    return [later - earlier for earlier, later in itertools.pairwise([0.0, *rising])]
