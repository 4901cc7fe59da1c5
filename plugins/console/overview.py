"""What an operator wants to see of all policies, and of one; a part that cannot be had spoils no other."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from plugins.console import canary as latest_canary
from plugins.console.canary import CanarySeen
from tasks.alerts.readings import counters, quantile_ms
from tasks.cache import Fresh
from tasks.checklist.types import PHASES, Checklist
from tasks.control.audit import Event, story
from tasks.errors import Misconfigured, first_line
from tasks.monitoring import live
from tasks.monitoring.live import Drift, GatewaySilent, Live
from tasks.monitoring.reports import Report, reports
from tasks.spec.files import policies_directory
from tasks.tracking.client import RegistryUnavailable
from tasks.tracking.history import PastRelease, releases
from tasks.tracking.registry import Registry
from tasks.tracking.runs import Tracking

T = TypeVar("T")
RELEASES_SECONDS = 3.0
EVENTS = 50
_SEARCHED = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part(Generic[T]):
    """Something to show, or why it cannot be shown."""

    value: T | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Health:
    """How a policy's traffic fares: `ok` null where the gateway does not say; `words` are the reasons, worst first."""

    ok: bool | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class Glance:
    """A policy in one line. `weight` is that of each arm; `last` its newest release."""

    policy: str
    champion: str | None
    challenger: str | None
    weight: float
    health: Health
    last: Part[PastRelease]


@dataclass(frozen=True)
class Served:
    """What one arm of a policy's traffic was answered with.

    `mean_ms` is the arm's latency in milliseconds; `p50_ms` and `p99_ms` are its version's, over all it ever served.
    """

    arm: str
    version: str | None
    decisions: int
    episodes: int
    mean_return: float | None
    mean_ms: float
    p50_ms: float | None
    p99_ms: float | None
    fallbacks: int
    faults: int


@dataclass(frozen=True)
class PolicyPage:
    """Everything on the page of one policy. `at` is in Unix seconds."""

    policy: str
    at: float
    glance: Glance
    canary: Part[CanarySeen | None]
    checklists: Part[list[Checklist]]
    releases: Part[list[PastRelease]]
    traffic: Part[list[Served]]
    drift: Part[tuple[Drift, ...]]
    overrides: Part[list[dict[str, Any]]]
    story: Part[list[Event]]
    reports: Part[list[Report]]


def forget() -> None:
    """What was done to a policy shows at the next look: nothing kept from before it is shown again."""
    live.recent_again()
    latest_canary.recent_again()
    _recent_releases.clear()


def names() -> list[str]:
    """Policies that have a spec, or that the gateway routes, or both."""
    known = {path.stem for path in policies_directory().glob("*.yaml")}
    gateway = attempt(live.recent).value
    return sorted(known | set(gateway.policies if gateway else {}))


def glances(policies: Iterable[str]) -> list[Glance]:
    """The policies, each in one line."""
    gateway = attempt(live.recent)
    return [_glance(policy, gateway, attempt(partial(_recent_releases, policy))) for policy in policies]


def page(policy: str) -> PolicyPage:
    """Everything about one policy."""
    gateway = attempt(live.recent)
    past = attempt(partial(_recent_releases, policy))
    document = gateway.value.policies.get(policy) if gateway.value else None
    routed = Part(document, gateway.problem or (None if document else "the gateway routes no version of it yet"))
    return PolicyPage(
        policy,
        time.time(),
        _glance(policy, gateway, past),
        attempt(partial(latest_canary.recent, policy)),
        _then(past, checklists),
        past,
        _then(routed, lambda found: served(policy, found)),
        _then(gateway, lambda found: found.drift.get(policy, ())),
        _then(routed, lambda found: list(found.get("overrides", []))),
        attempt(lambda: story(tables.connect(settings.database_url()), policy, EVENTS)),
        attempt(lambda: reports(policy)),
    )


def attempt(ask: Callable[[], T]) -> Part[T]:
    """The answer, or in words why there is none."""
    try:
        return Part(ask())
    except (RegistryUnavailable, GatewaySilent, Misconfigured) as error:
        return Part(problem=first_line(error))
    except sa.exc.SQLAlchemyError as error:
        return Part(problem=f"Airlock's database does not answer: {first_line(error)}")
    except Exception as error:  # an operator must still see the rest
        log.exception("a part of the overview failed")
        return Part(problem=f"this cannot be shown, the API server's log says why: {type(error).__name__}")


def _then(part: Part[Any], use: Callable[[Any], T]) -> Part[T]:
    return Part(problem=part.problem) if part.value is None else attempt(lambda: use(part.value))


def _glance(policy: str, gateway: Part[Live], past: Part[list[PastRelease]]) -> Glance:
    last = Part(past.value[0] if past.value else None, past.problem)
    if gateway.value is None:
        health = Health(None, (gateway.problem or "the gateway does not answer",))
        champion = attempt(partial(_champion, policy)).value
        return Glance(policy, champion, None, 0.0, health, last)
    document = gateway.value.policies.get(policy)
    if document is None:
        return Glance(policy, None, None, 0.0, Health(None, ("not released yet",)), last)
    canary = document.get("canary") or {}
    health = health_of(document, gateway.value.drift.get(policy, ()))
    weight = float(canary.get("weight", 0.0))
    return Glance(policy, document.get("champion"), canary.get("version"), weight, health, last)


def _champion(policy: str) -> str | None:
    with Registry() as registry:
        model = registry.model(policy)
    return model.aliases.get("champion") if model else None


def health_of(document: dict[str, Any], drift: Iterable[Drift]) -> Health:
    """What is wrong with a policy as the gateway routes it, if anything."""
    words = [
        f"version {name} is {shown['status']}: {shown.get('reason', 'no reason given')}"
        for name, shown in document.get("versions", {}).items()
        if shown.get("status") in ("refused", "quarantined")
    ]
    arms = document.get("arms", {}).items()
    words += [f"the breaker of the {name} is open" for name, arm in arms if arm.get("breaker_open")]
    words += [f"{figure.subject} of the {figure.arm} have drifted" for figure in drift if figure.alarm]
    registry = document.get("registry", {})
    if not registry.get("ok", True):
        words.append("the gateway cannot reach MLflow and serves what it last knew")
    overrides = len(document.get("overrides", []))
    note = (f"{overrides} override{'s' * (overrides > 1)} in force",) if overrides else ()
    if not words and document.get("champion") is None:
        return Health(None, ("no version is champion yet", *note))
    return Health(not words, (*words, *note))


def served(policy: str, document: dict[str, Any]) -> list[Served]:
    """Each arm of a policy's traffic, from the gateway's document and the stored latency histograms."""
    engine = tables.connect(settings.database_url())
    found = []
    for name, arm in document.get("arms", {}).items():
        latency = counters(engine, policy, arm["version"])["latency"] if arm.get("version") else {"counts": []}
        some, episodes = sum(latency["counts"]) > 0, int(arm["episodes_completed"])
        found.append(
            Served(
                name,
                arm.get("version"),
                int(arm["total_inferences"]),
                episodes,
                float(arm["avg_episode_reward"]) if episodes else None,
                float(arm["avg_latency_ms"]),
                quantile_ms(latency, 0.5) if some else None,
                quantile_ms(latency, 0.99) if some else None,
                int(arm["sources"].get("fallback", 0)),
                sum(arm["faults"].values()),
            )
        )
    return found


def checklists(past: list[PastRelease]) -> list[Checklist]:
    """The checklists of the newest release that has any, pre-deployment first; [] where none was run lately."""
    with Tracking() as tracking:
        for release in past[:_SEARCHED]:
            root = tracking.get(release.run_id).root
            contents = [tracking.read(root, f"checklist/{phase}.json") for phase in PHASES]
            found = [Checklist.from_json(json.loads(content)) for content in contents if content is not None]
            if found:
                return found
    return []


_recent_releases = Fresh(releases, RELEASES_SECONDS)
