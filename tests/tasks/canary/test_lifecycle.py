"""A release's canary: planned, started, looked at, taken up its ramp, ended; killed, and deprived of its gateway."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from bentos.telemetry import counters as stats
from tasks.analysis.judge.anchor import Anchor
from tasks.analysis.judge.plan import CanaryPlan
from tasks.canary import lifecycle
from tasks.control.plane import ControlPlane
from tasks.errors import Misconfigured, Rejected
from tasks.spec.params import Params
from tasks.tracking.registry import Registry
from tasks.tracking.release import Release

NO_SHADOW: dict[str, Any] = {"shadow_requests": 0}


class Gateway:
    """Answers what a canary asks of a gateway before it starts."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {"status": "ready"}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"versions": dict.fromkeys("12345", outer.status)}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    double = Gateway()
    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", double.url)
    yield double
    double.close()


class World:
    """One policy, its releases, and the episodes that gateways store for them."""

    def __init__(self, url: str, policy: str) -> None:
        self.policy = policy
        self.control = ControlPlane("ada")
        self._api = f"{url}/api/2.0/mlflow"
        self._post("registered-models/create", {"name": policy})
        self._episodes = 0

    def _post(self, path: str, fields: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self._api}/{path}", json=fields, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def release(self, dag_run_id: str) -> Release:
        """A release that got as far as an approved version."""
        release = Release.open(self.policy, dag_run_id, Params())
        run = self._post("runs/update", {"run_id": release.run_id})["run_info"]
        source = {"source": f"{run['artifact_uri']}/package", "run_id": release.run_id}
        version = str(self._post("model-versions/create", {"name": self.policy, **source})["model_version"]["version"])
        release.tag(version=version)
        self.control.registered(self.policy, version)
        self.control.approve(self.policy, version)
        return release

    def champion(self) -> None:
        """Whatever was approved first is champion, without a release of its own."""
        release = self.release("the first")
        self.control.start_canary(self.policy, "1", "g1", 0.5)
        self.control.promote(self.policy, "g1", "it was first")
        assert release.policy == self.policy

    def play(self, plan: CanaryPlan, units: int, control: float, challenger: float, abandoned: float = 0.0) -> None:
        """Store `units` finished units, half and half by coin, with returns about each arm's mean."""
        generator = np.random.default_rng(self._episodes)
        first = plan.champion is None
        starts, ends = [], []
        for n in range(self._episodes, self._episodes + units):
            arm = "challenger" if first or generator.random() < 0.5 else "control"
            mean = challenger if arm == "challenger" else control
            lost = arm == "challenger" and generator.random() < abandoned
            shared = {
                "episode": f"{plan.generation}-{n}",
                "policy": self.policy,
                "generation": plan.generation,
                "arm": arm,
                "version": plan.version if arm == "challenger" else plan.champion,
            }
            starts.append({**shared, "unit": f"user-{n}", "started_at": time.time()})
            value = float(np.clip(mean + generator.normal(0, 5), 0, 500))
            kind = "abandoned" if lost else "reported"
            ends.append({**shared, "episode_return": value, "length": 9, "kind": kind, "recorded_at": time.time()})
        self._episodes += units
        with tables.connect(settings.database_url()).begin() as connection:
            connection.execute(sa.insert(tables.episodes), starts)
            connection.execute(sa.insert(tables.outcomes), ends)

    def count(self, plan: CanaryPlan, arm: str, worker: str = "w", **counters: Any) -> None:
        """Store the gateway's counters of an arm."""
        with tables.connect(settings.database_url()).begin() as connection:
            connection.execute(
                sa.insert(tables.arm_stats).values(
                    policy=self.policy,
                    generation=plan.generation,
                    version=plan.version,
                    arm=arm,
                    worker=worker,
                    stats={**stats.Arm().to_json(), **counters},
                    updated_at=time.time(),
                )
            )

    def look(self, plan: CanaryPlan) -> dict[str, Any]:
        return lifecycle.look(self.policy, plan.generation, plan.to_json())

    @property
    def state(self) -> dict[str, Any]:
        return self.control.state(self.policy)


@pytest.fixture
def world(mlflow_server: str, gateway: Gateway, make_policy: Callable[..., str]) -> World:
    section = {**NO_SHADOW, "steps": [0.1, 0.5], "max_units_per_arm": 400}
    return World(mlflow_server, make_policy("cartpole", canary=section))


def test_a_first_release_is_judged_against_the_minimum_and_promoted(world: World) -> None:
    release = world.release("run 1")
    plan = lifecycle.plan(release)
    assert (plan.champion, plan.threshold, len(plan.generation) <= 64) == (None, 400.0, True)
    document = lifecycle.start(release)
    assert (document["champion"], document["weight"], document["generation"]) == (None, 0.1, plan.generation)
    assert world.look(plan)["verdict"] == "continue"
    world.play(plan, 60, 0, 490)
    judgement = world.look(plan)
    assert judgement["verdict"] == "promote"
    assert "is above 400, the minimum" in judgement["reason"]
    assert world.state["champion"] is None, "looking changes nothing"
    outcome = lifecycle.finish(release, judgement)
    assert (outcome["verdict"], outcome["version"]) == ("promote", "1")
    assert (world.state["champion"], world.state["canary"]) == ("1", None)
    assert release.get_json("canary/verdict.json") == outcome
    before = world.state
    assert lifecycle.start(release)["verdict"] == "promote"
    assert lifecycle.finish(release) == outcome
    assert world.state == before


def test_a_challenger_is_taken_up_its_ramp_and_rolled_back_when_it_loses(world: World) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    assert lifecycle.start(release)["generation"] == plan.generation
    world.play(plan, 40, 490, 485)
    judgement = world.look(plan)
    assert (judgement["verdict"], judgement["advance"], judgement["step"]) == ("continue", True, 0)
    assert lifecycle.advance(release)["weight"] == 0.5
    assert lifecycle.advance(release)["step"] == 1, "asked again, the ramp stays"
    world.play(plan, 300, 490, 200)
    outcome = lifecycle.finish(release)
    assert outcome["verdict"] == "roll_back"
    assert outcome["difference"]["upper"] < 0
    tags = world.state["versions"]["2"]
    assert (world.state["champion"], tags["validation_status"]) == ("1", "rolled_back")
    assert (tags["verdict"], tags["decided_by"]) == ("roll_back", "release run 2")


@pytest.fixture
def shadowed(mlflow_server: str, gateway: Gateway, make_policy: Callable[..., str]) -> World:
    """A policy whose canary begins with 200 decisions in shadow."""
    return World(mlflow_server, make_policy("cartpole", canary={"steps": [0.1, 0.5], "max_hours": 2}))


def test_a_canary_that_a_person_pauses_waits_for_its_verdict_but_not_for_its_guardrails(world: World) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    world.play(plan, 400, 400, 450)
    seen = world.look(plan)
    assert seen["verdict"] == "promote"
    world.control.pause(world.policy, "the audit comes first")
    assert world.look(plan)["verdict"] == "continue"
    assert lifecycle.finish(release, seen)["verdict"] == "continue", "paused since the look"
    assert lifecycle.advance(release)["weight"] == 0.1
    assert world.state["canary"] is not None
    world.control.resume(world.policy, "it was good")
    assert lifecycle.finish(release, world.look(plan))["verdict"] == "promote"
    third = world.release("run 3")
    lifecycle.start(third)
    world.control.pause(world.policy, "again")
    world.count(lifecycle.plan(third), "challenger", faults={"non_finite": 1, "exception": 0, "deadline": 0})
    assert lifecycle.finish(third, world.look(lifecycle.plan(third)))["verdict"] == "roll_back"


def test_a_pause_that_comes_between_judging_and_promoting_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    world.play(plan, 400, 400, 450)
    judged = lifecycle.judge

    def pause_then_judge(evidence: Any, agreed: CanaryPlan) -> Any:
        world.control.pause(world.policy, "just in time")
        return judged(evidence, agreed)

    monkeypatch.setattr(lifecycle, "judge", pause_then_judge)
    outcome = lifecycle.finish(release)
    assert (outcome["verdict"], "is paused" in outcome["reason"]) == ("continue", True)
    assert world.state["champion"] == "1"


@pytest.mark.parametrize("first", [True, False])
def test_a_canary_begins_in_shadow_and_serves_nobody_before_its_decisions_there_went_well(
    shadowed: World, first: bool
) -> None:
    if not first:
        shadowed.champion()
    release = shadowed.release("run 2")
    plan = lifecycle.plan(release)
    document = lifecycle.start(release)
    assert (document["weight"], document["step"]) == (0.0, -1)
    judgement = shadowed.look(plan)
    assert (judgement["verdict"], judgement["advance"], judgement["step"]) == ("continue", False, -1)
    assert "0 of 200 decisions" in judgement["reason"]
    assert lifecycle.advance(release)["weight"] == 0.0, "it may not begin yet"
    late = stats.Arm().to_json()["sources"] | {"policy": 199, "fallback": 3}
    shadowed.count(plan, "shadow", decisions=202, sources=late, worker="one")
    assert not shadowed.look(plan)["advance"], "decisions past the deadline do not count"
    shadowed.count(plan, "shadow", decisions=1, worker="two")
    assert shadowed.look(plan)["advance"]
    document = lifecycle.advance(release)
    assert (document["weight"], document["step"]) == (0.1, 0)
    assert lifecycle.advance(release)["step"] == 0, "from then on units decide"


def test_a_challenger_that_fails_in_shadow_is_rolled_back_without_an_episode(shadowed: World) -> None:
    shadowed.champion()
    release = shadowed.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    shadowed.count(plan, "shadow", decisions=500, faults={"non_finite": 1, "exception": 0, "deadline": 0})
    judgement = shadowed.look(plan)
    assert (judgement["verdict"], judgement["advance"]) == ("roll_back", False)
    assert lifecycle.finish(release, judgement)["verdict"] == "roll_back"
    assert (shadowed.state["champion"], shadowed.state["canary"]) == ("1", None)


def test_a_canary_that_nobody_asks_anything_ends_inconclusive_with_its_hours(shadowed: World) -> None:
    shadowed.champion()
    release = shadowed.release("run 2")
    plan = lifecycle.plan(release)
    document = lifecycle.start(release)
    with Registry() as registry:
        begun = {**document, "started_at": document["started_at"] - 2 * 3600}
        registry.set_model_tag(shadowed.policy, "canary", json.dumps(begun))
    judgement = shadowed.look(plan)
    assert judgement["verdict"] == "inconclusive"
    assert "2 hours is spent: in shadow: 0 of 200" in judgement["reason"]


def test_what_a_promotion_may_have_lost_is_kept_and_held_against_the_next(world: World) -> None:
    """A small loss within the margin is promoted once; what is left of the margin is all that the next may lose."""
    world.champion()
    second = world.release("run 2")
    plan = lifecycle.plan(second)
    assert plan.anchor is None, "a champion promoted without one is its own anchor"
    lifecycle.start(second)
    world.play(plan, 1_500, 400, 396)
    outcome = lifecycle.finish(second)
    assert outcome["verdict"] == "promote"
    third = lifecycle.plan(world.release("run 3"))
    assert third.champion == "2"
    assert third.anchor == Anchor("1", pytest.approx(outcome["difference"]["lower"]))
    assert third.anchor.lower < 0


def test_an_anchor_damaged_by_hand_is_named_with_what_to_do(world: World) -> None:
    world.champion()
    world._post("model-versions/set-tag", {"name": world.policy, "version": "1", "key": "anchor", "value": "{"})
    with pytest.raises(Misconfigured, match=r"anchor of .* version 1 cannot be read .*: mend it, or remove it"):
        lifecycle.plan(world.release("run 2"))


def test_a_budget_that_ends_is_inconclusive_and_the_champion_stays(
    mlflow_server: str, gateway: Gateway, make_policy: Callable[..., str]
) -> None:
    section = {**NO_SHADOW, "objective": "superiority", "max_units_per_arm": 40}
    world = World(mlflow_server, make_policy("cartpole", canary=section))
    world.champion()
    release = world.release("run 2")
    lifecycle.start(release)
    world.play(lifecycle.plan(release), 40, 400, 400)
    assert lifecycle.finish(release)["verdict"] == "continue"
    assert world.state["canary"] is not None, "nothing was done"
    world.play(lifecycle.plan(release), 60, 400, 400)
    outcome = lifecycle.finish(release)
    assert outcome["verdict"] == "inconclusive"
    assert "40 units an arm is spent" in outcome["reason"]
    assert (world.state["champion"], world.state["versions"]["2"]["validation_status"]) == ("1", "inconclusive")


def test_a_fault_event_of_the_challenger_ends_the_canary(world: World) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    fault = {"policy": world.policy, "package_sha256": "", "kind": "breaker_open", "worker": "w"}
    with tables.connect(settings.database_url()).begin() as connection:
        connection.execute(
            sa.insert(tables.fault_events).values(version="2", detail="old", at=time.time() - 60, **fault)
        )
    lifecycle.start(release)
    assert world.look(plan)["verdict"] == "continue", "what was before the canary does not count"
    with tables.connect(settings.database_url()).begin() as connection:
        connection.execute(sa.insert(tables.fault_events).values(version="1", detail="x", at=time.time(), **fault))
        death = {**fault, "kind": "killed_worker"}
        connection.execute(sa.insert(tables.fault_events).values(version="2", detail="x", at=time.time(), **death))
    assert world.look(plan)["verdict"] == "continue", "nor what the champion did, nor a first death"
    with tables.connect(settings.database_url()).begin() as connection:
        connection.execute(
            sa.insert(tables.fault_events).values(version="2", detail="5 exceptions", at=time.time(), **fault)
        )
    judgement = world.look(plan)
    assert (judgement["verdict"], "5 exceptions" in judgement["reason"]) == ("roll_back", True)


def test_non_finite_outputs_and_abandonment_end_the_canary(world: World) -> None:
    world.champion()
    release = world.release("run 2")
    # scored like any other, an abandoned episode says nothing by its return
    plan = replace(lifecycle.plan(release), abandoned_return=490.0)
    lifecycle.start(release)
    world.play(plan, 60, 490, 490, abandoned=0.9)
    judgement = world.look(plan)
    assert (judgement["verdict"], "abandonment" in judgement["reason"]) == ("roll_back", True)
    world.count(plan, "challenger", faults={"non_finite": 1, "exception": 0, "deadline": 0})
    assert "non_finite" in world.look(plan)["reason"]


def test_what_a_look_saw_can_stop_a_canary_but_never_promote_it(world: World) -> None:
    world.champion()
    release = world.release("run 2")
    lifecycle.start(release)
    outcome = lifecycle.finish(release, {"verdict": "promote", "reason": "so it seemed"})
    assert outcome["verdict"] == "inconclusive"
    assert world.state["champion"] == "1"
    later = world.release("run 3")
    lifecycle.start(later)
    outcome = lifecycle.finish(later, {"verdict": "roll_back", "reason": "guardrail latency: too slow"})
    assert (outcome["verdict"], outcome["reason"]) == ("roll_back", "guardrail latency: too slow")


@pytest.mark.parametrize("what", ["the champion was moved", "the tag is gone"])
def test_a_registry_changed_by_hand_ends_the_canary_as_inconclusive(world: World, what: str) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    with Registry() as registry:
        if what == "the tag is gone":
            registry.delete_model_tag(world.policy, "canary")
        else:
            registry.delete_alias(world.policy, "champion")
    judgement = world.look(plan)
    assert judgement["verdict"] == "inconclusive"
    assert "stopped" in lifecycle.advance(release)
    outcome = lifecycle.finish(release, judgement)
    assert outcome["verdict"] == "inconclusive"
    state = world.state
    assert (state["canary"], state["versions"]["2"]["validation_status"]) == (None, "inconclusive")


def test_killed_between_the_act_and_its_record_the_retry_completes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    world.play(plan, 600, 480, 490)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lifecycle.finish(release)
    assert world.state["champion"] == "2"
    assert not release.has("canary/verdict.json")
    assert lifecycle.start(release)["verdict"] == "promote"
    outcome = lifecycle.finish(release, world.look(plan))
    assert (outcome["verdict"], world.state["champion"]) == ("promote", "2")
    assert "the margin" in outcome["reason"]
    assert release.get_json("canary/verdict.json") == outcome


def test_a_gateway_that_is_down_fails_clearly_and_leaves_the_champion(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.champion()
    release = world.release("run 2")
    gateway.close()
    with pytest.raises(Misconfigured, match=rf"gateway at {gateway.url} is down"):
        lifecycle.start(release, ready_seconds=0.5)
    state = world.state
    assert (state["champion"], state["canary"], state["challenger"]) == ("1", None, None)
    assert state["versions"]["2"]["validation_status"] == "aborted"
    assert "is down" in state["versions"]["2"]["reason"]
    with pytest.raises(Misconfigured):
        lifecycle.start(release, ready_seconds=0.1)
    assert world.state == state


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ({"status": "refused", "reason": "digest mismatch"}, Rejected, "refuses version 2: digest mismatch"),
        ({"status": "loading"}, Misconfigured, "did not load version 2"),
    ],
)
def test_a_version_the_gateway_does_not_load_is_withdrawn(
    world: World, gateway: Gateway, answer: dict[str, str], error: type[Exception], words: str
) -> None:
    world.champion()
    release = world.release("run 2")
    gateway.status = answer
    with pytest.raises(error, match=words):
        lifecycle.start(release, ready_seconds=0.5)
    state = world.state
    assert (state["champion"], state["canary"]) == ("1", None)
    assert state["versions"]["2"]["validation_status"] == "aborted"


def test_the_plan_follows_the_champion_that_the_canary_really_starts_against(world: World) -> None:
    release = world.release("run 2")
    assert lifecycle.plan(release).champion is None
    other = world.release("run 3")
    world.control.start_canary(world.policy, lifecycle.plan(other).version, "g", 0.5)
    world.control.promote(world.policy, "g", "it was quicker")
    lifecycle.start(release)
    assert lifecycle.plan(release).champion == "2"


def test_a_release_without_a_version_has_nothing_to_abort_and_one_with_a_verdict_keeps_it(world: World) -> None:
    lifecycle.abort(Release.open(world.policy, "run 0", Params()), "the trainer failed")
    release = world.release("run 1")
    lifecycle.abort(release, "stopped in the UI")
    assert world.state["versions"]["1"]["validation_status"] == "aborted"
    done = world.release("run 2")
    world.control.start_canary(world.policy, "2", lifecycle.plan(done).generation, 0.5)
    world.control.promote(world.policy, lifecycle.plan(done).generation, "it won")
    lifecycle.abort(done, "a later task failed")
    assert world.state["versions"]["2"]["validation_status"] == "promoted"


def test_a_minimum_outside_the_range_is_refused_before_a_first_release_starts(
    mlflow_server: str, gateway: Gateway, make_policy: Callable[..., str]
) -> None:
    world = World(mlflow_server, make_policy("cartpole", evaluate={"episodes": 2, "minimum_mean_return": 500}))
    with pytest.raises(Misconfigured, match="minimum_mean_return, 500"):
        lifecycle.plan(world.release("run 1"))


def test_later_episodes_of_a_user_do_not_count(world: World) -> None:
    world.champion()
    release = world.release("run 2")
    plan = lifecycle.plan(release)
    lifecycle.start(release)
    world.play(plan, 30, 490, 490)
    with tables.connect(settings.database_url()).begin() as connection:
        for n in range(30):
            row = connection.execute(
                sa.select(tables.episodes).where(
                    tables.episodes.c.unit == f"user-{n}", tables.episodes.c.policy == world.policy
                )
            ).one()
            again = {**row._mapping, "episode": f"again-{n}"}
            del again["start_seq"]
            connection.execute(sa.insert(tables.episodes).values(again))
    found = world.look(plan)
    assert sum(found["units"].values()) == 30
    assert found["waiting"] == 0
