"""The control plane: transitions, the order of their writes, kills between any two of them; and on a real MLflow."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from bentos import settings as home
from bentos.canary import Canary
from bentos.routing import faults
from bentos.store import tables
from tasks.control import intents
from tasks.control import plane as promote
from tasks.control import status as validation
from tasks.control.intents import Write
from tasks.control.lease import LeaseHeld, acquire, held
from tasks.control.plane import ControlPlane
from tasks.control.writes import CanaryMoved, CanaryPaused
from tasks.errors import Misconfigured
from tasks.tracking.client import RegistryRefused, RegistryUnavailable
from tasks.tracking.registry import Registry
from tests.tasks.registry_double import RegistryDouble


class World:
    """One policy of a test's own, and the control plane over it."""

    def __init__(self, registry: RegistryDouble) -> None:
        self.policy = f"p{secrets.token_hex(4)}"
        self.registry = registry
        registry.create(self.policy)
        self.control = self.plane("ada")

    def plane(self, who: str, **settings: Any) -> ControlPlane:
        return ControlPlane(who, registry=self.registry, **settings)

    def version(self, status: str | None = "approved") -> str:
        """A fresh model version, taken to a status the way a release would."""
        version = self.registry.create_version(self.policy)
        if status:
            self.control.registered(self.policy, version)
        if status == "approved":
            self.control.approve(self.policy, version)
        return version

    def champion(self) -> str:
        """A version that went all the way."""
        version = self.version()
        self.control.start_canary(self.policy, version, f"g{version}", 0.05)
        self.control.promote(self.policy, f"g{version}", "it won")
        return version

    @property
    def state(self) -> dict[str, Any]:
        return self.control.state(self.policy)

    def status(self, version: str) -> str | None:
        return self.state["versions"][version].get("validation_status")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    return World(RegistryDouble())


def test_a_policy_nobody_released_is_empty(world: World) -> None:
    assert world.control.state("nobody") == {
        "champion": None,
        "previous": None,
        "challenger": None,
        "canary": None,
        "versions": {},
    }


def test_a_first_release_becomes_champion_without_a_previous(world: World) -> None:
    version = world.version()
    document = world.control.start_canary(world.policy, version, "g1", 0.05)
    assert (document["champion"], document["version"], document["weight"], document["step"]) == (None, "1", 0.05, 0)
    assert world.state["challenger"] == "1"
    world.control.promote(world.policy, "g1", "its lower bound is above the minimum")
    state = world.state
    assert (state["champion"], state["previous"], state["challenger"], state["canary"]) == ("1", None, None, None)
    tags = state["versions"]["1"]
    assert (tags["validation_status"], tags["verdict"], tags["decided_by"]) == ("promoted", "promote", "ada")
    assert tags["reason"] == "its lower bound is above the minimum"


def test_a_promotion_keeps_the_champion_as_previous(world: World) -> None:
    assert (world.champion(), world.champion()) == ("1", "2")
    assert (world.state["champion"], world.state["previous"]) == ("2", "1")
    assert (world.status("1"), world.status("2")) == ("promoted", "promoted")


def test_each_gateway_can_read_the_canary(world: World) -> None:
    world.champion()
    document = world.control.start_canary(world.policy, world.version(), "g2", 0.25)
    canary = Canary(**document)
    assert {canary.arm(str(unit)) for unit in range(200)} == {"champion", "control", "challenger"}


@pytest.mark.parametrize("verdict", ["roll_back", "inconclusive"])
def test_a_canary_that_is_not_promoted_leaves_the_champion(world: World, verdict: Any) -> None:
    world.champion()
    version = world.version()
    world.control.start_canary(world.policy, version, "g2", 0.05)
    for _ in range(2):
        world.control.end_canary(world.policy, "g2", verdict, "the upper bound is below 0")
    state = world.state
    assert (state["champion"], state["canary"], state["challenger"]) == ("1", None, None)
    assert world.status(version) == {"roll_back": "rolled_back", "inconclusive": "inconclusive"}[verdict]
    assert state["versions"][version]["verdict"] == verdict


def test_the_same_transition_twice_is_the_same_state(world: World) -> None:
    world.champion()
    version = world.version()
    first = world.control.start_canary(world.policy, version, "g2", 0.05)
    assert world.control.start_canary(world.policy, version, "g2", 0.05) == first
    world.control.promote(world.policy, "g2", "it won")
    before = world.state
    world.control.promote(world.policy, "g2", "it won")
    world.control.registered(world.policy, version)
    world.control.approve(world.policy, version)
    assert world.state == before


def test_the_weight_only_grows(world: World) -> None:
    world.control.start_canary(world.policy, world.version(), "g1", 0.05)
    grown = world.control.set_weight(world.policy, "g1", 0.25, 1)
    assert (grown["weight"], grown["step"]) == (0.25, 1)
    assert world.control.set_weight(world.policy, "g1", 0.25, 1) == grown
    with pytest.raises(ValueError, match="only grows"):
        world.control.set_weight(world.policy, "g1", 0.05, 0)
    with pytest.raises(ValueError, match="must lie in"):
        world.control.set_weight(world.policy, "g1", 0.6, 2)
    assert world.state["canary"] == grown


def test_a_paused_canary_keeps_its_weight_and_its_arms_and_is_not_promoted(world: World) -> None:
    world.champion()
    begun = world.control.start_canary(world.policy, world.version(), "g2", 0.05)
    held = world.control.pause(world.policy, "a holiday")
    assert held == world.state["canary"]
    assert held["paused_at"] >= begun["started_at"]
    assert {**held, "paused_at": 0.0} == begun
    assert world.control.set_weight(world.policy, "g2", 0.25, 1) == held
    with pytest.raises(CanaryPaused):
        world.control.promote(world.policy, "g2", "it won")
    with pytest.raises(Misconfigured, match="paused already"):
        world.control.pause(world.policy, "again")
    resumed = world.control.resume(world.policy, "back")
    assert (resumed["paused_at"], resumed["weight"], resumed["salt"]) == (0.0, 0.05, begun["salt"])
    assert resumed["paused_seconds"] > 0
    with pytest.raises(Misconfigured, match="is not paused"):
        world.control.resume(world.policy, "again")
    assert world.control.set_weight(world.policy, "g2", 0.25, 1)["paused_seconds"] == resumed["paused_seconds"]
    world.control.promote(world.policy, "g2", "it won")
    assert world.state["champion"] == "2"
    with pytest.raises(Misconfigured, match="no canary of"):
        world.control.pause(world.policy, "too late")


def test_a_paused_canary_can_still_be_ended(world: World) -> None:
    world.champion()
    version = world.version()
    world.control.start_canary(world.policy, version, "g2", 0.05)
    world.control.pause(world.policy, "a holiday")
    world.control.end_canary(world.policy, "g2", "roll_back", "a guardrail")
    assert (world.state["canary"], world.status(version)) == (None, "rolled_back")


def test_time_spent_in_a_pause_does_not_age_a_canary() -> None:
    canary = Canary("g", "1", "2", 0.25, "00", started_at=1_000.0)
    assert canary.age(1_600.0) == 600.0
    assert structs.replace(canary, paused_at=1_500.0).age(9_999.0) == 500.0
    assert structs.replace(canary, paused_seconds=400.0).age(1_600.0) == 200.0
    assert Canary("g", "1", "2", 0.25, "00").age(1_600.0) == 0.0


def test_only_an_approved_version_starts_a_canary(world: World) -> None:
    candidate = world.version("candidate")
    with pytest.raises(Misconfigured, match="is candidate: only an approved version"):
        world.control.start_canary(world.policy, candidate, "g1", 0.05)
    world.control.reject(world.policy, candidate, "too slow")
    with pytest.raises(Misconfigured, match="rejected"):
        world.control.start_canary(world.policy, candidate, "g1", 0.05)
    assert world.state["canary"] is None


def test_one_canary_runs_at_a_time(world: World) -> None:
    world.control.start_canary(world.policy, world.version(), "g1", 0.05)
    with pytest.raises(Misconfigured, match="version 1, generation g1"):
        world.control.start_canary(world.policy, world.version(), "g2", 0.05)


WAYS: dict[str, Callable[[World, str], Any]] = {
    "candidate": lambda world, version: world.control.registered(world.policy, version),
    "approved": lambda world, version: world.control.approve(world.policy, version),
    "rejected": lambda world, version: world.control.reject(world.policy, version, "no"),
    "aborted": lambda world, version: world.control.abort(world.policy, version, "stopped"),
    "rolled_back": lambda world, version: world.control.restore_previous(world.policy, version, "worse"),
}


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("candidate", "rolled_back"),
        ("rejected", "approved"),
        ("rejected", "rolled_back"),
        ("approved", "rejected"),
        ("inconclusive", "approved"),
        ("inconclusive", "rolled_back"),
        ("rolled_back", "approved"),
        ("aborted", "approved"),
        ("aborted", "rejected"),
    ],
)
def test_a_version_does_not_go_where_its_status_does_not_lead(world: World, before: str, wanted: str) -> None:
    version = world.version("candidate")
    world.registry.set_version_tag(world.policy, version, "validation_status", before)
    with pytest.raises(validation.IllegalTransition, match=f"cannot become {wanted}: it is {before}"):
        WAYS[wanted](world, version)
    assert world.status(version) == before


@pytest.mark.parametrize("before", ["candidate", "approved", "rejected", "rolled_back", "inconclusive"])
def test_anything_but_the_champion_can_be_aborted(world: World, before: str) -> None:
    version = world.version("candidate")
    world.registry.set_version_tag(world.policy, version, "validation_status", before)
    for _ in range(2):
        world.control.abort(world.policy, version, "stopped")
    assert world.status(version) == "aborted"


def test_the_champion_is_rolled_back_rather_than_aborted(world: World) -> None:
    version = world.champion()
    with pytest.raises(Misconfigured, match="roll back instead"):
        world.control.abort(world.policy, version, "stopped")


def test_aborting_the_challenger_ends_its_canary(world: World) -> None:
    world.champion()
    version = world.version()
    world.control.start_canary(world.policy, version, "g2", 0.05)
    world.control.abort(world.policy, version, "the gateway is down")
    assert (world.state["canary"], world.state["challenger"], world.state["champion"]) == (None, None, "1")


def test_plain_tags_are_free_and_those_of_transitions_are_not(world: World) -> None:
    version = world.version()
    world.control.annotate(world.policy, version, {"check.exported": "pass"})
    assert world.state["versions"][version]["check.exported"] == "pass"
    with pytest.raises(ValueError, match="validation_status"):
        world.control.annotate(world.policy, version, {"validation_status": "promoted"})


def test_a_champion_moved_by_hand_is_not_overwritten_by_a_promotion(world: World) -> None:
    world.champion()
    world.champion()
    version = world.version()
    world.control.start_canary(world.policy, version, "g3", 0.05)
    world.registry.set_alias(world.policy, "champion", "1")
    with pytest.raises(CanaryMoved, match="from version 2 to 1"):
        world.control.promote(world.policy, "g3", "it won")
    world.control.end_canary(world.policy, "g3", "inconclusive", "moved by hand")
    assert (world.state["champion"], world.status(version)) == ("1", "inconclusive")


def test_a_canary_removed_by_hand_is_not_promoted(world: World) -> None:
    world.champion()
    version = world.version()
    world.control.start_canary(world.policy, version, "g2", 0.05)
    world.registry.delete_model_tag(world.policy, "canary")
    with pytest.raises(CanaryMoved, match="its tag was removed"):
        world.control.promote(world.policy, "g2", "it won")
    world.control.end_canary(world.policy, "g2", "inconclusive", "removed by hand")
    assert (world.state["champion"], world.status(version)) == ("1", "inconclusive")


def test_a_rollback_goes_to_previous_and_then_to_none(world: World) -> None:
    world.champion()
    world.champion()
    assert world.control.rollback(world.policy, "it wobbles") == {"from": "2", "to": "1"}
    assert (world.state["champion"], world.state["previous"], world.status("2")) == ("1", None, "rolled_back")
    assert world.control.rollback(world.policy, "this one too") == {"from": "1", "to": None}
    assert world.state["champion"] is None
    with pytest.raises(Misconfigured, match="no champion"):
        world.control.rollback(world.policy, "again")


def test_a_rollback_ends_a_running_canary_as_inconclusive(world: World) -> None:
    world.champion()
    world.champion()
    version = world.version()
    world.control.start_canary(world.policy, version, "g3", 0.05)
    world.control.rollback(world.policy, "it wobbles")
    assert (world.state["canary"], world.state["champion"], world.status(version)) == (None, "1", "inconclusive")


def test_a_rollback_now_tells_the_gateways_to_move_running_episodes(world: World) -> None:
    world.champion()
    world.champion()
    world.registry.set_version_tag(world.policy, "2", "package_sha256", "ab" * 32)
    world.control.rollback(world.policy, "it wobbles", now=True)
    with tables.connect(home.database_url()).connect() as connection:
        row = connection.execute(
            sa.select(tables.fault_events).where(tables.fault_events.c.policy == world.policy)
        ).one()
    assert (row.version, row.kind, row.package_sha256) == ("2", faults.SAFETY_ROLLBACK, "ab" * 32)
    assert row.detail.startswith("it wobbles")


def test_a_rollback_to_a_version_gateways_would_not_route_is_refused(world: World) -> None:
    world.champion()
    world.champion()
    world.registry.set_version_tag(world.policy, "1", "validation_status", "rolled_back")
    with pytest.raises(Misconfigured, match="is rolled_back: gateways would not route it"):
        world.control.rollback(world.policy, "it wobbles")
    assert world.state["champion"] == "2"


def test_a_failed_promotion_is_undone_once(world: World) -> None:
    world.champion()
    version = world.champion()
    assert world.control.restore_previous(world.policy, version, "latency") == {"from": "2", "to": "1"}
    assert world.control.restore_previous(world.policy, version, "latency") == {"from": "2", "to": "1"}
    assert (world.state["champion"], world.status(version)) == ("1", "rolled_back")


def test_a_failed_first_release_leaves_no_champion(world: World) -> None:
    version = world.champion()
    assert world.control.restore_previous(world.policy, version, "latency") == {"from": "1", "to": None}
    assert (world.state["champion"], world.status(version)) == (None, "rolled_back")


def test_a_drill_moves_the_champion_and_brings_it_back(world: World) -> None:
    world.champion()
    world.champion()
    with world.control.drill(world.policy) as drill:
        assert drill == {"champion": "2", "previous": "1"}
        assert world.state["champion"] == "1"
        world.control.annotate(world.policy, "2", {"check.rollback_tested": "pass"})
    assert (world.state["champion"], world.state["previous"], world.status("2")) == ("2", "1", "promoted")


def test_a_drill_of_a_first_release_goes_to_the_fallback_and_back(world: World) -> None:
    world.champion()
    with contextlib.suppress(RuntimeError), world.control.drill(world.policy) as drill:
        assert drill["previous"] is None
        assert world.state["champion"] is None
        raise RuntimeError("the load generator failed")
    assert world.state["champion"] == "1"


def test_a_drill_does_not_disturb_a_canary(world: World) -> None:
    world.champion()
    world.control.start_canary(world.policy, world.version(), "g2", 0.05)
    with pytest.raises(Misconfigured, match="a canary"), world.control.drill(world.policy):
        pass


def test_a_killed_drill_is_undone_by_whoever_comes_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.champion()
    world.champion()
    drill = world.control.drill(world.policy)
    drill.__enter__()
    assert world.state["champion"] == "1"
    expire_leases()
    assert world.plane("supervisor").reconcile(world.policy) == 1
    assert world.state["champion"] == "2"
    with pytest.raises(Exception, match="ran out"):
        drill.__exit__(None, None, None)
    assert world.state["champion"] == "2"


def test_while_one_changes_a_policy_another_is_told_who(world: World) -> None:
    world.champion()
    lease = acquire(tables.connect(home.database_url()), world.policy, "release manual__7")
    with pytest.raises(LeaseHeld, match="release manual__7"):
        world.plane("console", wait=0.2).rollback(world.policy, "it wobbles")
    threading.Timer(0.3, lease.release).start()
    world.plane("console", wait=5).rollback(world.policy, "it wobbles")
    assert world.state["champion"] is None


class Killed(BaseException):
    """Nothing catches a SIGKILL."""


def expire_leases() -> None:
    """Time passes: the leases of killed holders run out."""
    with tables.connect(home.database_url()).begin() as connection:
        connection.execute(sa.update(tables.leases).values(expires_at=time.time() - 1))


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """`kill_after(n)`: the process dies after its n-th registry write; the lease is left behind. None: no more."""
    left: list[int | None] = [None]
    honest = intents.make

    def make(registry: Registry, engine: sa.Engine, policy: str, write: Write) -> None:
        if left[0] == 0:
            raise Killed
        honest(registry, engine, policy, write)
        if left[0] is not None:
            left[0] -= 1

    def arm(count: int | None) -> None:
        left[0] = count

    monkeypatch.setattr(intents, "make", make)
    return arm


def routable(state: dict[str, Any]) -> bool:
    """Whether gateways can route what the registry says at this moment: the champion, and the canary if it is valid."""
    may = {version for version, tags in state["versions"].items() if tags["validation_status"] in validation.ROUTABLE}
    canary = state["canary"]
    valid = canary is not None and canary["champion"] == state["champion"]
    return state["champion"] in may and (not valid or canary["version"] in may)


TRANSITIONS: dict[str, tuple[Callable[[ControlPlane, str], Any], tuple[str, str | None], str]] = {
    "promote": (lambda control, policy: control.promote(policy, "g3", "it won"), ("3", "2"), "promoted"),
    "roll_back": (
        lambda control, policy: control.end_canary(policy, "g3", "roll_back", "worse"),
        ("2", "1"),
        "rolled_back",
    ),
    "rollback by hand": (
        lambda control, policy: control.rollback(policy, "now", now=True),
        ("1", None),
        "inconclusive",
    ),
    "abort": (lambda control, policy: control.abort(policy, "3", "stopped"), ("2", "1"), "aborted"),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_killed_after_any_write_every_state_is_safe_and_the_next_one_finishes_it(
    world: World, kill_after: Callable[[int | None], None], name: str
) -> None:
    transition, aliases, status = TRANSITIONS[name]
    kills = 0
    while True:
        policy = World(RegistryDouble())
        policy.champion()
        policy.champion()
        policy.control.start_canary(policy.policy, policy.version(), "g3", 0.05)
        kill_after(kills)
        try:
            transition(policy.plane("killed"), policy.policy)
        except Killed:
            kill_after(None)
            assert routable(policy.state)
            assert policy.state["champion"] in ("1", "2", "3")
            expire_leases()
            assert policy.control.reconcile(policy.policy) == 1
        else:
            kill_after(None)
        state = policy.state
        assert (state["champion"], state["previous"]) == aliases
        assert (state["canary"], state["challenger"]) == (None, None)
        assert state["versions"]["3"]["validation_status"] == status
        assert policy.control.reconcile(policy.policy) == 0
        if intents_done_without_kill(policy.policy, kills):
            break
        kills += 1
    assert kills >= 4


def intents_done_without_kill(policy: str, kills: int) -> bool:
    """Whether the last transition had no more writes than it was allowed before the kill."""
    with tables.connect(home.database_url()).connect() as connection:
        query = sa.select(tables.intents).where(tables.intents.c.policy == policy).order_by(tables.intents.c.id.desc())
        last = connection.execute(query).first()
    assert last is not None
    return len(last.writes) <= kills


def test_the_next_transition_finishes_what_was_left_before_its_own(
    world: World, kill_after: Callable[[int | None], None]
) -> None:
    world.champion()
    world.control.start_canary(world.policy, world.version(), "g2", 0.05)
    kill_after(2)
    with pytest.raises(Killed):
        world.plane("killed").promote(world.policy, "g2", "it won")
    kill_after(None)
    expire_leases()
    world.control.start_canary(world.policy, world.version(), "g3", 0.05)
    assert (world.state["champion"], world.state["canary"]["champion"]) == ("2", "2")
    assert world.status("2") == "promoted"


def test_a_registry_that_goes_away_in_the_middle_leaves_an_intent_that_is_finished_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.champion()
    world.control.start_canary(world.policy, world.version(), "g2", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(
            RegistryDouble, "delete_model_tag", lambda *_: (_ for _ in ()).throw(RegistryUnavailable("MLflow is down"))
        )
        with pytest.raises(RegistryUnavailable):
            world.control.promote(world.policy, "g2", "it won")
    assert world.state["canary"] is not None
    world.control.promote(world.policy, "g2", "it won")
    assert (world.state["champion"], world.state["canary"], world.status("2")) == ("2", None, "promoted")


def test_what_mlflow_refuses_for_good_does_not_block_the_policy_for_ever(world: World) -> None:
    version = world.version()
    engine = tables.connect(home.database_url())
    with held(engine, world.policy, "killed") as lease:
        intents.begin(engine, lease, "promote", "killed", "gone", [intents.set_alias("champion", "99")])
    with pytest.raises(Misconfigured):
        world.control.reconcile(world.policy)
    world.control.annotate(world.policy, version, {"check.exported": "pass"})
    assert world.control.reconcile(world.policy) == 0


@pytest.fixture
def real(mlflow_server: str) -> tuple[str, ControlPlane]:
    """A policy with two registered versions in a real MLflow."""
    policy = f"p{secrets.token_hex(4)}"

    def post(path: str, fields: dict[str, Any]) -> Any:
        answer = httpx.post(f"{mlflow_server}/api/2.0/mlflow/{path}", json=fields, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    run = post("runs/create", {"experiment_id": "0"})["run"]["info"]
    post("registered-models/create", {"name": policy})
    source = {"source": f"{run['artifact_uri']}/package", "run_id": run["run_id"]}
    control = ControlPlane("ada")
    for version in ("1", "2"):
        post("model-versions/create", {"name": policy, **source})
        control.registered(policy, version)
        control.approve(policy, version)
    return policy, control


def test_on_a_real_mlflow_a_policy_is_released_drilled_tried_again_and_rolled_back(
    real: tuple[str, ControlPlane], kill_after: Callable[[int | None], None]
) -> None:
    policy, control = real
    control.start_canary(policy, "1", "g1", 0.05)
    control.set_weight(policy, "g1", 0.5, 1)
    control.promote(policy, "g1", "it won")
    with control.drill(policy):
        assert control.state(policy)["champion"] is None
    control.start_canary(policy, "2", "g2", 0.05)
    kill_after(2)
    with pytest.raises(Killed):
        ControlPlane("killed").promote(policy, "g2", "it won")
    kill_after(None)
    expire_leases()
    assert promote.reconcile_all("supervisor") == 1
    state = control.state(policy)
    assert (state["champion"], state["previous"], state["challenger"], state["canary"]) == ("2", "1", None, None)
    assert {tags["validation_status"] for tags in state["versions"].values()} == {"promoted"}
    assert control.rollback(policy, "it wobbles") == {"from": "2", "to": "1"}
    assert control.rollback(policy, "that one too") == {"from": "1", "to": None}
    assert control.state(policy)["versions"]["2"]["decided_by"] == "ada"


def test_a_real_mlflow_says_what_is_not_there(real: tuple[str, ControlPlane]) -> None:
    policy, control = real
    registry = Registry()
    assert registry.model("nobody") is None
    assert registry.version(policy, "9") is None
    assert registry.artifact("0" * 32, "canary/plan.json") is None
    registry.delete_alias(policy, "champion")
    registry.delete_model_tag(policy, "canary")
    with pytest.raises(RegistryRefused, match="registered-models/alias"):
        registry.set_alias(policy, "champion", "9")
    assert control.state("nobody")["versions"] == {}


def test_a_registry_that_does_not_answer_is_worth_another_try() -> None:
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        Registry("http://127.0.0.1:13299").model("cartpole")
    with pytest.raises(Misconfigured, match="must be the URL"):
        Registry("sqlite:///mlflow.db")


def test_nothing_done_by_hand_stands_in_the_way_of_a_rollback(world: World) -> None:
    world.champion()
    world.champion()
    rejected = world.version("candidate")
    world.control.reject(world.policy, rejected, "too slow")
    world.registry.set_alias(world.policy, "champion", rejected)
    world.registry.set_model_tag(world.policy, "canary", "not a canary")
    assert world.control.rollback(world.policy, "what is this") == {"from": rejected, "to": "1"}
    assert (world.state["champion"], world.state["canary"], world.status(rejected)) == ("1", None, "rejected")
