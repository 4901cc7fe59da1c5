"""Outages of single parts under load, and the books that show afterwards that nothing was lost."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bentos.package.manifest import Outcomes, Serve, Space
from bentos.store import tables
from bentos.tokens import Signer
from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import analyse
from tasks.build.training.environments import describe, make
from tasks.canary import lifecycle, record
from tasks.canary.replay import Canary, verdict
from tasks.canary.units import StoredUnits
from tasks.control.plane import ControlPlane
from tasks.spec.params import Params
from tasks.tracking.release import Release
from tests.bentos.gateway_process import wait_until
from tests.bentos.policy_packages import write_package
from tests.cluster.harness import Cluster
from tests.servers.load import PLAYERS, Load
from tests.tasks.approved import approve

POLICY = "cartpole"
AWAY_SECONDS = 20.0
UNITS_BETWEEN = 20
eventually = partial(wait_until, seconds=900.0, pause=1.0)
CANARY: dict[str, Any] = {"objective": "superiority", "canary_steps": [0.5], "max_units_per_arm": 1_000_000}
"""Parameters of a canary that equal arms never end."""


def asked(made: Release) -> Space:
    """What a trained policy is asked; versions that are asked something else are no match for it."""
    environment = make(made.spec.environment)
    try:
        return describe(environment.observation_space)
    finally:
        environment.close()


def champion(directory: Path) -> str:
    """A first champion, neither trained nor judged; its version."""
    made = Release.open(POLICY, "first", Params(**CANARY))
    # a busy machine shall not bring the fallback in
    serve = Serve(fallback={"constant": 0}, deadline_ms=60_000)
    outcomes = Outcomes(return_range=(0, 500), abandoned_return=0, episode_ttl_seconds=300)
    approve(made, directory, write_package(directory, observation_space=asked(made), serve=serve, outcomes=outcomes))
    begun = lifecycle.start(made)
    state = ControlPlane("test").promote(POLICY, begun["generation"], "it was there")
    return str(state["champion"])


class Books:
    """What was seen of the outages of `cluster` under `load`."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster, self._load = cluster, load
        self.outages: list[dict[str, Any]] = []

    def outage(self, name: str) -> None:
        """Kill a part, see that decisions go on without it, start it again, and see that the canary goes on."""
        load = self._load
        began = time.monotonic()
        decided, refused = load.decisions.total(), load.refused.copy()
        self._cluster.kill(name)
        killed = len(load.begun)
        eventually(lambda: load.decisions.total() > decided + 20, f"decisions go on without {name}")
        time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
        arms = list(load.begun.values())[killed + PLAYERS :]  # but for those whose answer was under way
        book = {
            "killed": name,
            "decisions_meanwhile": load.decisions.total() - decided,
            "starts_meanwhile": len(arms),
            "of_them_in_the_canary": sum(arm != "champion" for arm in arms),
            "outcomes_refused": {str(key): count for key, count in (load.refused - refused).items()},
        }
        self._cluster.start(name)
        self._cluster.wait_healthy(name)
        book["seconds_away"] = round(time.monotonic() - began, 1)
        counted = load.experimental()
        eventually(lambda: load.experimental() > counted + UNITS_BETWEEN, f"the canary goes on after {name}")
        book["seconds_until_it_went_on"] = round(time.monotonic() - began, 1)
        self.outages.append(book)

    def close(self, made: Release, kept: Path) -> dict[str, Any]:
        """Compare what the load was told with what is stored, and the verdict with the one reached again.

        Returns all of it, and writes it to the file `kept` first.
        """
        load = self._load
        live = made.need_json(lifecycle.VERDICT)
        found = recomputed(made)
        rows, starts = stored()
        signer = Signer(self._cluster.secret("episode_key").strip())
        acknowledged = {signer.episode(episode).nonce: value for episode, value in load.acknowledged.items()}
        book = {
            "outages": self.outages,
            "decisions": dict(load.decisions),
            "decisions_failed": len(load.failed),
            "slowest_decision_seconds": round(load.slowest, 2),
            "episodes": len(load.begun),
            "outcomes_acknowledged": len(acknowledged),
            "outcomes_stored": len(rows),
            "outcomes_told": dict(load.told),
            "outcomes_refused": {str(key): count for key, count in load.refused.items()},
            "outcomes_on_broken_connections": load.lost,
            "verdict_live": {key: live[key] for key in ("verdict", "units", "difference", "reason")},
            "verdict_recomputed": found,
        }
        kept.write_text(json.dumps(book, indent=2))
        assert not load.failed
        assert len({episode for episode, _ in rows}) == len(rows), "one outcome an episode"
        reported = {episode: value for episode, value in rows if episode in acknowledged}
        assert reported == acknowledged, "what was acknowledged is stored as it was sent"
        assert load.told["accepted"] + load.told["duplicates"] == len(acknowledged)
        begun = {signer.episode(episode).nonce: arm for episode, arm in load.begun.items() if arm != "champion"}
        assert begun.items() <= starts.items(), "every start in the canary is stored"
        assert load.refused[503, True] > 0, "outcomes were sent while the store was away"
        assert load.refused[503, False] == 0, "each 503 said when to come again"
        assert live["verdict"] == found["verdict"]
        return book


def stored() -> tuple[list[tuple[str, float]], dict[str, str]]:
    """The policy's reported outcomes, and the arms of its starts, by nonce."""
    outcomes, starts = tables.outcomes.c, tables.episodes.c
    reported = sa.select(outcomes.episode, outcomes.episode_return).where(
        outcomes.policy == POLICY, outcomes.kind == "reported"
    )
    with tables.connect(os.environ["AIRLOCK_DATABASE_URL"]).connect() as connection:
        rows = [(row.episode, row.episode_return) for row in connection.execute(reported)]
        begun = connection.execute(sa.select(starts.episode, starts.arm).where(starts.policy == POLICY))
        return rows, {row.episode: row.arm for row in begun}


def recomputed(made: Release) -> dict[str, Any]:
    """The verdict reached again, from what the judge kept and, by the primary test alone, from the stored rows."""
    plan = CanaryPlan.from_json(made.need_json(lifecycle.PLAN))
    kept = made.need_json(record.ARTIFACT)
    again, reason, _ = record.again(plan, kept)
    saw = record.evidence(kept)[0].units
    with tables.connect(os.environ["AIRLOCK_DATABASE_URL"]).connect() as connection:
        rows = StoredUnits(POLICY, plan.generation).read(connection)
    units = analyse(rows, abandoned_return=plan.abandoned_return)
    seen = len(saw.returns)
    assert units.challenger[:seen].tolist() == saw.challenger.tolist(), "the judge saw the units that are stored"
    assert units.returns[:seen].tolist() == saw.returns.tolist()
    replayed = verdict(
        Canary(
            id=plan.generation,
            arm=["challenger" if one else "control" for one in units.challenger.tolist()],
            returns=units.returns.tolist(),
            return_range=plan.bounds,
            margin=plan.margin,
            alpha=plan.alpha,
            max_units_per_arm=plan.max_units_per_arm,
            objective=plan.objective,
        )
    )
    assert again == replayed["verdict"], (reason, replayed)
    return {**replayed, "judged_again": again, "judged_reason": reason, "units_the_judge_saw": seen}
