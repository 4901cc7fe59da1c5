"""Aliases moved by hand in MLflow: noticed once, audited, tagged; what Airlock does itself is no such move."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bentos import settings
from bentos.store import tables
from tasks.control import audit
from tasks.control.audit import Event
from tasks.control.lease import held
from tasks.control.manual_moves import notice, notice_all
from tasks.control.plane import ControlPlane
from tasks.stack import status
from tasks.tracking.client import RegistryUnavailable
from tests.tasks.registry_double import RegistryDouble

POLICY = "cartpole"


class Double(RegistryDouble):
    """With two promoted versions (the second is champion) and an approved third."""

    def __init__(self) -> None:
        super().__init__()
        self.create(POLICY)
        control = ControlPlane("a release", registry=self)
        for number in ("1", "2", "3"):
            self.create_version(POLICY)
            control.registered(POLICY, number)
            control.approve(POLICY, number)
            if number != "3":
                control.start_canary(POLICY, number, f"g{number}", 0.05)
                control.promote(POLICY, f"g{number}", "it won")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegistryDouble:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    double = Double()
    monkeypatch.setattr("tasks.control.plane.Registry", lambda: double)
    return double


def told() -> list[Event]:
    return [e for e in audit.story(tables.connect(settings.database_url()), POLICY) if e.what == "alias_moved"]


def tag(registry: RegistryDouble, version: str, key: str = "moved_by_hand") -> str | None:
    found = registry.version(POLICY, version)
    assert found is not None
    return found.tags.get(key)


def test_nothing_is_said_of_what_airlock_moved_itself(registry: RegistryDouble) -> None:
    assert notice(POLICY) == []
    ControlPlane("ada", registry=registry).rollback(POLICY, "a wish")
    assert notice(POLICY) == []
    assert notice("nobody_released_it") == []
    assert told() == []


def test_a_champion_moved_by_hand_stays_and_is_noticed_once(registry: RegistryDouble) -> None:
    registry.set_alias(POLICY, "champion", "1")
    (said,) = notice(POLICY)
    assert "`champion` was moved by hand from version 2 to version 1, which is promoted" in said
    assert notice(POLICY) == []
    (event,) = told()
    assert (event.words, event.detail) == (said, {"alias": "champion", "before": "2", "now": "1"})
    assert tag(registry, "1") == said
    model = registry.model(POLICY)
    assert model is not None
    assert model.aliases["champion"] == "1"


def test_the_way_back_moved_by_hand_is_noticed_too_and_a_version_that_may_not_be_routed_is_named(
    registry: RegistryDouble,
) -> None:
    fourth = registry.create_version(POLICY)
    registry.set_alias(POLICY, "previous", fourth)
    (said,) = notice(POLICY)
    assert "`previous`" in said
    assert "not released: gateways do not route it" in said


def test_a_removed_alias_is_noticed_even_where_its_version_is_gone(registry: RegistryDouble) -> None:
    registry.delete_alias(POLICY, "champion")
    registry._versions[POLICY].pop("2")
    assert notice(POLICY) == ["the alias `champion` was removed by hand from version 2"]


def test_a_canary_whose_champion_is_gone_ends_inconclusive(registry: RegistryDouble) -> None:
    ControlPlane("a release", registry=registry).start_canary(POLICY, "3", "g3", 0.05)
    registry.set_alias(POLICY, "champion", "1")
    assert len(notice(POLICY)) == 1
    state = ControlPlane("test", registry=registry).state(POLICY)
    assert (state["canary"], state["challenger"], state["champion"]) == (None, None, "1")
    assert tag(registry, "3", "validation_status") == "inconclusive"
    assert "version 2, was moved by hand" in str(tag(registry, "3", "reason"))


def test_a_canary_whose_champion_stands_goes_on_when_the_way_back_is_moved(registry: RegistryDouble) -> None:
    ControlPlane("a release", registry=registry).start_canary(POLICY, "3", "g3", 0.05)
    registry.delete_alias(POLICY, "previous")
    assert len(notice(POLICY)) == 1
    assert ControlPlane("test", registry=registry).state(POLICY)["canary"]["version"] == "3"


def test_a_drill_that_moves_the_champion_for_a_moment_is_no_move_by_hand(registry: RegistryDouble) -> None:
    with ControlPlane("a release", registry=registry).drill(POLICY):
        assert notice(POLICY) == []
    assert notice(POLICY) == []
    assert told() == []


def test_a_move_by_airlock_after_one_by_hand_leaves_nothing_to_notice_later(registry: RegistryDouble) -> None:
    registry.set_alias(POLICY, "champion", "1")
    notice(POLICY)
    ControlPlane("ada", registry=registry).start_canary(POLICY, "3", "g3", 0.05)
    ControlPlane("ada", registry=registry).promote(POLICY, "g3", "it won")
    assert notice(POLICY) == []
    assert len(told()) == 1


def test_whoever_changes_the_policy_now_is_not_waited_for(registry: RegistryDouble) -> None:
    registry.set_alias(POLICY, "champion", "1")
    with held(tables.connect(settings.database_url()), POLICY, "somebody"):
        assert notice(POLICY) == []
    assert len(notice(POLICY)) == 1


def test_status_shows_what_it_noticed_and_is_not_stopped_by_a_registry_that_is_down(
    registry: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_alias(POLICY, "champion", "1")
    (said,) = notice_all([POLICY, "nobody_released_it"], "airlock status")[POLICY]
    found = {"policies": {POLICY: status._policy({})}, "policies_unknown": None, "components": {}}
    console = Console(width=160, record=True, file=io.StringIO())
    status.render({**found, "moved_by_hand": {POLICY: [said]}}, console)
    assert said in console.export_text()

    def down(*arguments: object) -> None:
        raise RegistryUnavailable("MLflow is down")

    monkeypatch.setattr(registry, "model", down)
    assert notice_all([POLICY], "airlock status") == {}
