"""What users do from the console: who may, from where, with what effect, and what is kept of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.app import create_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.configuration import conf
from fastapi import FastAPI
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner

from bentos import settings
from bentos.store import overrides, tables
from plugins.console import commands, overview
from plugins.console.forms import TOKEN
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tests.plugins.console.test_console import a_page
from tests.tasks.registry_double import RegistryDouble

Visit = Callable[..., TestClient]
PAGE = "/airlock/policies/cartpole"
DEEDS = ("rollback", "pause", "resume", "abort", "override", "clear-override", "release")
JSON = {"Accept": "application/json"}


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """Two versions were promoted; the canary of a third runs."""
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    monkeypatch.setattr(overview, "names", lambda: ["cartpole"])
    monkeypatch.setattr(overview, "page", a_page)
    registry = RegistryDouble()
    registry.create("cartpole")
    monkeypatch.setattr(commands, "ControlPlane", lambda who: ControlPlane(who, registry=registry))
    plane = ControlPlane("a release", registry=registry)
    for version in ("1", "2", "3"):
        assert registry.create_version("cartpole") == version
        plane.registered("cartpole", version)
        plane.approve("cartpole", version)
        plane.start_canary("cartpole", version, f"g{version}", 0.25)
        if version != "3":
            plane.promote("cartpole", f"g{version}", "it won")
    return plane


def token(browser: TestClient) -> str:
    """What the forms of this user's page carry."""
    found = re.search(f'name="{TOKEN}" value="([^"]+)"', browser.get(PAGE).text)
    assert found
    return found[1]


def send(browser: TestClient, deed: str, **fields: str) -> tuple[int, str]:
    """Send a form of the user's own page, as the page's script does; status and what was said."""
    sent = {TOKEN: token(browser), "reason": "because", **fields}
    answer = browser.post(f"{PAGE}/{deed}", data=sent, headers=JSON)
    document = answer.json()
    return answer.status_code, document.get("said") or document["detail"]


def told() -> list[tuple[str, str, str]]:
    """The story, newest first: who, what, in words."""
    engine = tables.connect(settings.database_url())
    return [(event.who, event.what, event.words) for event in audit.story(engine, "cartpole")]


def test_pause_resume_and_abort_reach_the_registry_with_the_users_name(control: ControlPlane, visit: Visit) -> None:
    browser = visit("admin", name="grace")
    status, said = send(browser, "pause", reason="the audit comes first")
    assert (status, said) == (200, "The canary of version 3 is paused; its guardrails still guard.")
    assert control.state("cartpole")["canary"]["paused_at"] > 0
    assert told()[0] == ("grace (console)", "pause", "the audit comes first")
    assert send(browser, "pause") == (409, "the canary of cartpole version 3 is paused already")
    assert send(browser, "resume") == (200, "The canary of version 3 goes on.")
    assert control.state("cartpole")["canary"]["paused_at"] == 0
    assert send(browser, "abort", reason="enough")[0] == 200
    state = control.state("cartpole")
    assert (state["canary"], state["champion"]) == (None, "2")
    assert state["versions"]["3"]["decided_by"] == "grace (console)"
    assert send(browser, "abort") == (409, "no canary of cartpole is running")


@pytest.mark.parametrize("now", [True, False])
def test_a_rollback_takes_the_champion_back(control: ControlPlane, visit: Visit, now: bool) -> None:
    status, said = send(visit("admin"), "rollback", **({"now": "on"} if now else {}))
    assert (status, said) == (200, "Rolled back from version 2 to version 1.")
    assert control.state("cartpole")["champion"] == "1"
    with tables.connect(settings.database_url()).connect() as connection:
        moved = connection.execute(tables.fault_events.select()).all()
    assert [row.kind for row in moved] == (["safety_rollback"] if now else [])


def test_an_override_is_cleared_as_the_page_shows_it(control: ControlPlane, visit: Visit) -> None:
    engine = tables.connect(settings.database_url())
    shown = {
        "policy": "cartpole",
        "action": 1,
        "force": False,
        "who": "ops",
        "reason": "x",
        "set_at": 1.0,
        "until": 9e9,
    }
    with engine.begin() as connection:
        overrides.put(connection, {**shown, "user_id": None, "episode": "abc"})
        overrides.put(connection, {**shown, "user_id": None, "episode": None})
    browser = visit("admin", name="grace")
    fields = {TOKEN: token(browser), "episode": "abc"}
    assert browser.post(f"{PAGE}/clear-override", data=fields, headers=JSON).status_code == 200
    with engine.connect() as connection:
        (left,) = overrides.read(connection, 10.0)
    assert left.episode == ""
    assert told()[0][:2] == ("grace (console)", "override_cleared")
    again = browser.post(f"{PAGE}/clear-override", data=fields, headers=JSON)
    assert (again.status_code, again.json()["detail"]) == (409, "that override had ended already")


def test_an_override_that_no_gateway_takes_is_told(
    control: ControlPlane, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", "http://127.0.0.1:9")
    status, said = send(visit("admin"), "override", action="1", minutes="5")
    assert (status, "cannot be reached" in said) == (409, True)
    assert told()[0][1] == "refused"


def test_a_release_is_triggered_by_airflow_as_the_user(control: ControlPlane, visit: Visit, airflow: FastAPI) -> None:
    browser = visit("admin", name="grace")
    fields = {"reason": "a new seed", "seed": "7", "timesteps": "", "approval": "on"}
    assert send(browser, "release", **fields) == (200, "The release manual__2 was triggered.")
    dag, body, authorization = airflow.state.triggered[-1]
    assert dag == "release_cartpole"
    assert body == {"logical_date": None, "conf": {"seed": 7, "approval": True}, "note": "a new seed"}
    assert authorization == f"Bearer {browser.cookies[COOKIE_NAME_JWT_TOKEN]}"
    assert told()[0] == ("grace (console)", "release_triggered", "a new seed")
    assert send(browser, "release", timesteps="101") == (400, "timesteps: too many")
    assert told()[0] == ("grace (console)", "refused", "release: timesteps: too many")


@pytest.mark.parametrize("deed", DEEDS)
def test_a_viewer_is_refused_and_that_is_kept(control: ControlPlane, visit: Visit, deed: str) -> None:
    viewer = visit("viewer", name="vera")
    before = control.state("cartpole")
    page = viewer.get(PAGE).text
    assert "You may look, not act" in page
    assert "<form" not in page
    for fields in ({"reason": "x"}, {"reason": "x", TOKEN: token(visit("admin", name="vera"))}):
        answer = viewer.post(f"{PAGE}/{deed}", data=fields)
        assert answer.status_code == 403
        assert "may edit and trigger" in answer.text
    assert control.state("cartpole") == before
    assert [event[:2] for event in told()[:2]] == [("vera (console)", "refused")] * 2


@pytest.mark.parametrize("deed", DEEDS)
def test_nobody_is_sent_to_the_login_or_told_so(control: ControlPlane, visit: Visit, deed: str) -> None:
    nobody = visit()
    answer = nobody.post(f"{PAGE}/{deed}", data={"reason": "x"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/api/v2/auth/login?next=%2Fairlock%2Fpolicies%2Fcartpole"
    assert nobody.post(f"{PAGE}/{deed}", data={"reason": "x"}, headers=JSON).status_code == 401
    assert all(event[0] == "a release" for event in told())


def forged() -> str:
    return TimestampSigner("another key", salt="airlock.console.forms").sign("grace").decode()


def outdated() -> str:
    class Past(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - 13 * 3600

    return Past(conf.get_mandatory_value("api", "secret_key"), salt="airlock.console.forms").sign("grace").decode()


@pytest.mark.parametrize("found", ["none", "forged", "outdated", "another user's"])
def test_a_form_that_is_not_of_the_users_own_page_does_nothing(control: ControlPlane, visit: Visit, found: str) -> None:
    grace = visit("admin", name="grace")
    tokens = {
        "none": lambda: "",
        "forged": forged,
        "outdated": outdated,
        "another user's": lambda: token(visit("admin", name="eve")),
    }
    answer = grace.post(f"{PAGE}/rollback", data={"reason": "x", TOKEN: tokens[found]()})
    assert answer.status_code == 403
    assert "reload the page" in answer.text
    assert control.state("cartpole")["champion"] == "2"
    assert told()[0][:2] == ("grace (console)", "refused")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Authorization": "Basic ZTpl", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://testserver"}, 200),
    ],
)
def test_a_form_from_another_site_does_nothing_even_with_the_token(
    control: ControlPlane, visit: Visit, headers: dict[str, str], status: int
) -> None:
    grace = visit("admin", name="grace")
    fields = {"reason": "x", TOKEN: token(grace)}
    assert grace.post(f"{PAGE}/pause", data=fields, headers={**JSON, **headers}).status_code == status
    assert bool(control.state("cartpole")["canary"]["paused_at"]) == (status == 200)


def test_a_program_with_a_token_of_airflow_needs_no_form(control: ControlPlane, visit: Visit) -> None:
    secret = visit("admin").cookies[COOKIE_NAME_JWT_TOKEN]
    headers = {**JSON, "Authorization": f"Bearer {secret}"}
    assert visit().post(f"{PAGE}/pause", data={"reason": "x"}, headers=headers).status_code == 200
    assert control.state("cartpole")["canary"]["paused_at"] > 0


@pytest.mark.parametrize(
    ("deed", "fields", "said"),
    [
        ("rollback", {"reason": " "}, "reason: Field required"),
        ("rollback", {"reason": "x" * 1001}, "reason: String should have at most 1000 characters"),
        ("rollback", {"now": "perhaps"}, "now: Input should be a valid boolean"),
        ("pause", {"weight": "0.5"}, "weight: Extra inputs are not permitted"),
        ("override", {"action": "left", "minutes": "5"}, "action: Invalid JSON"),
        ("override", {"action": "1", "minutes": "0"}, "minutes: Input should be greater than 0"),
        ("override", {"action": "1", "minutes": "nan"}, "minutes: Input should be"),
        ("release", {"seed": "seven"}, "seed: Input should be a valid integer"),
        ("release", {"zip_path": "/etc/passwd"}, "zip_path: Extra inputs are not permitted"),
    ],
)
def test_a_form_filled_in_badly_says_which_field(
    control: ControlPlane, visit: Visit, deed: str, fields: dict[str, str], said: str
) -> None:
    status, found = send(visit("admin"), deed, **fields)
    assert (status, found.startswith(said)) == (422, True), found


def test_what_is_no_form_is_refused(control: ControlPlane, visit: Visit) -> None:
    browser = visit("admin")
    body: Any
    for body, status in ((b"\xff\xfe", 422), (b"reason", 422), (b"a=1&" * 50, 422), (b"a=" + b"x" * 70_000, 413)):
        assert browser.post(f"{PAGE}/pause", content=body).status_code == status
    for path in (f"{PAGE}/unheard-of", "/airlock/policies/unheard_of/pause"):
        assert browser.post(path, data={"reason": "x"}).status_code == 404


def test_without_the_script_a_form_leads_back_to_the_page(control: ControlPlane, visit: Visit) -> None:
    browser = visit("admin")
    answer = browser.post(f"{PAGE}/pause", data={"reason": "x", TOKEN: token(browser)})
    assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    again = browser.post(f"{PAGE}/pause", data={"reason": "x", TOKEN: token(browser)})
    assert (again.status_code, "is paused already" in again.text) == (409, True)


def test_who_may_look_at_the_dag_but_not_edit_it_has_no_buttons(
    control: ControlPlane, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = create_auth_manager()
    monkeypatch.setattr(manager, "is_authorized_dag", lambda **asked: asked["method"] in ("GET", "POST"))
    browser = visit("admin")
    assert "<form" not in browser.get(PAGE).text
    assert browser.post(f"{PAGE}/pause", data={"reason": "x"}).status_code == 403
