"""The console as users meet it: Airflow's own sign-in and permissions decide, and pages show what is known."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from airflow.api_fastapi.app import create_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi.testclient import TestClient

from plugins.airlock import AirlockPlugin
from plugins.console import PREFIX, overview
from plugins.console import canary as latest_canary
from plugins.console.canary import CanarySeen
from plugins.console.overview import Glance, Health, Part, PolicyPage, Served
from tasks.checklist.run import run_all
from tasks.checklist.types import PHASES, Finding
from tasks.control.audit import Event
from tasks.monitoring.live import Drift
from tasks.monitoring.reports import Report
from tasks.tracking.history import PastRelease
from tests.tasks.analysis import plans

ATTACK = '<script>alert(1)</script><img src=x onerror="alert(2)">'
PAGES = ("/airlock/", "/airlock/policies/cartpole")
DATA = (
    "/airlock/fragments/policies",
    "/airlock/fragments/policies/cartpole",
    "/airlock/data/policies",
    "/airlock/data/policies/cartpole",
    "/airlock/data/policies/cartpole/canary.svg",
    "/airlock/data/policies/cartpole/history",
)
RELEASE = PastRelease(
    "manual__1", "run", "2", "reported", "rolled_back", "it was worse", 1e9, {"MLflow run": "http://mlflow/#/run"}
)
RAIL = {
    "id": "latency",
    "fired": "roll_back",
    "observed": 80.5,
    "threshold": 50.0,
    "unit": "ms",
    "reason": "the challenger's p99 latency is 80.5 ms",
    "at": None,
}
CANARY = CanarySeen(
    replace(plans.PLAN, shadow_requests=200),
    True,
    "continue",
    "mean return +4.2 against control over 31 and 30 units",
    0.25,
    "step 2 of 3: 25 % of units to each arm",
    {
        "verdict": "continue",
        "units": {"control": 30, "challenger": 31},
        "waiting": 3,
        "step": 1,
        "difference": {"estimate": 4.2, "lower": -30.25, "upper": 38.5},
        "guardrails": [RAIL],
    },
    {
        "arms": {
            "control": {"count": 30, "mean": 470.5, "standard_deviation": 12.0, "total": 1.0, "abandoned": 1},
            "challenger": {"count": 31, "mean": 474.7, "standard_deviation": None, "total": 1.0, "abandoned": 0},
        }
    },
)


def checklist() -> Any:
    checks = {name: lambda: Finding("pass", "as it should", 0.25, 1.0, "ms", 9, {"rows": 512}) for name in PHASES[PRE]}
    return run_all("cartpole", "2", PRE, checks, lambda name: "enforce", "a test")[0]


PRE: Any = "pre_deployment"
FIRING = {"name": "ACTION_SHIFT", "firing": True, "value": 0.31, "threshold": 0.2, "since": 1e9}
REPORT = Report(
    "1", 1e9, "fail", (FIRING, {**FIRING, "name": "LOW_ENTROPY", "firing": False}), "alert: it drifts", None
)


def a_page(policy: str, **changes: Any) -> PolicyPage:
    glance = Glance(policy, "1", "2", 0.25, Health(True, ()), Part(RELEASE))
    override = {"action": 0, "user_id": None, "episode": None, "force": True, "who": "ops", "reason": ATTACK}
    found = PolicyPage(
        policy,
        1e9,
        glance,
        Part(CANARY),
        Part([checklist()]),
        Part([RELEASE]),
        Part([Served("champion", "1", 12345, 40, 480.0, 0.41, 0.3, 1.9, 7, 2)]),
        Part((Drift("1", "champion", "observations", "sequential", "all", 1.5),)),
        Part([{**override, "set_at": 1e9, "until": 1.1e9}]),
        Part([Event(1e9, "grace (console)", "pause", "the audit comes first", {})]),
        Part([REPORT]),
    )
    return replace(found, **changes)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two policies, without a gateway or MLflow."""
    monkeypatch.setattr(overview, "names", lambda: ["cartpole", "pendulum"])
    monkeypatch.setattr(overview, "page", a_page)
    monkeypatch.setattr(overview, "glances", lambda policies: [a_page(policy).glance for policy in policies])
    monkeypatch.setattr(latest_canary, "picture", lambda policy: b"<svg/>")


@pytest.mark.parametrize("role", ["admin", "viewer"])
def test_who_may_read_the_dag_sees_its_policy(visit: Callable[..., TestClient], role: str) -> None:
    browser = visit(role)
    for path in (*PAGES, *DATA):
        answer = browser.get(path)
        assert answer.status_code == 200, (path, answer.text)


def test_a_token_does_as_well_as_a_cookie(visit: Callable[..., TestClient]) -> None:
    browser = visit("viewer")
    token = browser.cookies[COOKIE_NAME_JWT_TOKEN]
    answer = visit().get(DATA[2], headers={"Authorization": f"Bearer {token}"})
    assert [item["policy"] for item in answer.json()["policies"]] == ["cartpole", "pendulum"]


def test_nobody_is_sent_to_the_login_and_gets_no_data(visit: Callable[..., TestClient]) -> None:
    browser = visit()
    for path in PAGES:
        answer = browser.get(path)
        assert answer.status_code == 307
        assert answer.headers["location"] == f"/api/v2/auth/login?next={path.replace('/', '%2F')}"
    for path in (*DATA, "/airlock/data/policies/unheard_of"):
        answer = browser.get(path)
        assert (answer.status_code, answer.json()) == (401, {"detail": "sign in to Airflow first"})


def test_a_cookie_that_is_no_good_counts_as_none(visit: Callable[..., TestClient]) -> None:
    browser = visit()
    browser.cookies.set(COOKIE_NAME_JWT_TOKEN, "forged")
    assert browser.get(PAGES[1]).status_code == 307
    assert browser.get(DATA[3]).status_code == 401


def test_a_user_without_the_permission_is_refused(visit: Callable[..., TestClient]) -> None:
    browser = visit("none", known_role=False)
    for path in ("/airlock/policies/cartpole", DATA[1], DATA[3], DATA[4], DATA[5], "/airlock/policies/unheard_of"):
        answer = browser.get(path)
        assert answer.status_code == 403, path
        assert "470.5" not in answer.text
    assert "There is no policy that you may see" in browser.get("/airlock/").text
    assert browser.get("/airlock/data/policies").json() == {"policies": []}


def test_only_the_policies_whose_dag_may_be_read_are_listed(
    visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = create_auth_manager()
    monkeypatch.setattr(manager, "is_authorized_dag", lambda **asked: asked["details"].id == "release_pendulum")
    browser = visit("admin")
    assert [item["policy"] for item in browser.get(DATA[2]).json()["policies"]] == ["pendulum"]
    assert browser.get("/airlock/policies/pendulum").status_code == 200
    assert browser.get("/airlock/policies/cartpole").status_code == 403


def test_what_does_not_exist_is_not_found(visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    browser = visit("viewer")
    for path in ("/airlock/policies/unheard_of", "/airlock/nothing", "/airlock/openapi.json", "/airlock/docs"):
        assert browser.get(path).status_code == 404, path
    monkeypatch.setattr(latest_canary, "picture", lambda policy: None)
    assert browser.get(DATA[4]).json() == {"detail": "cartpole has had no canary yet"}


def test_pages_and_data_are_only_read(visit: Callable[..., TestClient]) -> None:
    browser = visit("admin")
    for path in (*PAGES, *DATA):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert browser.request(method, path).status_code == 405, (method, path)


def test_every_answer_keeps_foreign_scripts_and_frames_out(visit: Callable[..., TestClient]) -> None:
    for browser in (visit("viewer"), visit()):
        for path in (*PAGES, *DATA, "/airlock/static/console.js", "/airlock/nothing"):
            headers = browser.get(path).headers
            assert "frame-ancestors 'self'" in headers["content-security-policy"], path
            assert "unsafe" not in headers["content-security-policy"] or path.endswith(".svg")
            assert headers["x-content-type-options"] == "nosniff"
            assert path.startswith("/airlock/static") or "cache-control" in headers


def test_the_page_of_a_policy_shows_what_is_known(visit: Callable[..., TestClient]) -> None:
    text = visit("viewer").get("/airlock/policies/cartpole").text
    for shown in (
        "Version 4 against version 3: step 2 of 3: 25 % of units to each arm",
        "mean return +4.2 against control over 31 and 30 units",
        "31 of 2,000",
        "+4.2</dd>",
        "−30.25</dd>",
        "+38.5</dd>",
        "the challenger&#39;s p99 latency is 80.5 ms",
        '<span class="chip bad">roll back</span>',
        "input validation",
        "&#34;rows&#34;: 512",
        "it was worse",
        'href="http://mlflow/#/run"',
        "12,345",
        '<span class="chip bad">raised</span>',
        "all traffic",
        '<a href="/airlock/../dags/release_cartpole/runs/manual__1/tasks/pre_deployment.approval/required_actions">'
        "Release it?</a>",
        "the audit comes first",
        '<span class="chip bad">ACTION_SHIFT</span> 0.31 against 0.2',
        "alert: it drifts",
        '<li aria-current="step">25 %</li>',
    ):
        assert shown in text, shown


def test_what_users_wrote_is_text_and_never_markup(visit: Callable[..., TestClient]) -> None:
    text = visit("viewer").get("/airlock/policies/cartpole").text
    assert ATTACK not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&#34;alert(2)&#34;&gt;" in text
    assert "<script>" not in text


def test_a_part_that_cannot_be_had_says_why_and_the_rest_is_shown(
    visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: Part[Any] = Part(problem="MLflow at http://x did not answer")
    parts = {"canary": gone, "checklists": gone, "releases": gone}
    monkeypatch.setattr(overview, "page", lambda policy: a_page(policy, **parts))
    text = visit("viewer").get("/airlock/policies/cartpole").text
    assert text.count("<strong>Not known now:</strong> MLflow at http://x did not answer") == 3
    assert "12,345" in text
    silent: Part[Any] = Part(problem="the gateway does not answer")
    parts = {"traffic": silent, "drift": silent, "overrides": silent}
    monkeypatch.setattr(overview, "page", lambda policy: a_page(policy, **parts))
    text = visit("viewer").get("/airlock/policies/cartpole").text
    assert text.count("<strong>Not known now:</strong> the gateway does not answer") == 3
    assert "it was worse" in text


@pytest.mark.parametrize(
    "canary",
    [
        None,
        replace(CANARY, running=False, verdict="roll_back"),
        replace(CANARY, plan=replace(plans.PLAN, champion=None)),
        replace(CANARY, judgement={**CANARY.judgement, "difference": dict.fromkeys(("estimate", "lower", "upper"))}),
    ],
    ids=["none yet", "ended", "first release", "nothing known yet"],
)
def test_every_canary_has_a_page(
    visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, canary: CanarySeen | None
) -> None:
    empty: dict[str, Part[Any]] = {name: Part([]) for name in ("checklists", "releases", "traffic", "overrides")}
    monkeypatch.setattr(overview, "page", lambda policy: a_page(policy, canary=Part(canary), drift=Part(()), **empty))
    browser = visit("viewer")
    assert browser.get("/airlock/policies/cartpole").status_code == 200
    assert browser.get("/airlock/data/policies/cartpole").status_code == 200


def test_a_verdict_that_is_not_carried_out_yet_is_shown_beside_the_running_canary(
    visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = replace(CANARY, judgement={**CANARY.judgement, "verdict": "roll_back"})
    monkeypatch.setattr(overview, "page", lambda policy: a_page(policy, canary=Part(decided)))
    text = visit("viewer").get("/airlock/policies/cartpole").text
    assert '<span class="chip live">running</span> <span class="chip bad">decided: roll back</span>' in text


def test_a_page_and_its_fragment_show_the_same(visit: Callable[..., TestClient]) -> None:
    browser = visit("viewer")
    for page, fragment in (PAGES[0], DATA[0]), (PAGES[1], DATA[1]):
        for _ in range(20):  # ages are told to the second, and one may pass between the two
            inner, whole = browser.get(fragment).text.strip(), browser.get(page).text
            if inner in whole:
                break
        assert inner in whole
        assert f'data-fragment="{fragment}"' in whole
        assert "<html" not in inner


def test_a_picture_that_did_not_change_is_not_sent_again(visit: Callable[..., TestClient]) -> None:
    browser = visit("viewer")
    first = browser.get(DATA[4])
    assert (first.content, first.headers["content-type"]) == (b"<svg/>", "image/svg+xml")
    again = browser.get(DATA[4], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_admin_token_stays_with_the_server(
    visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = secrets.token_hex(16)
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN", token)
    browser = visit("admin")
    for path in (*PAGES, *DATA):
        answer = browser.get(path)
        assert token not in answer.text + str(answer.headers)


def test_the_plugin_adds_the_console_and_its_entry_to_airflow() -> None:
    (mounted,) = AirlockPlugin.fastapi_apps
    (entry,) = AirlockPlugin.external_views
    assert mounted["url_prefix"] == PREFIX == "/airlock"
    assert entry == {"name": "Airlock", "href": "airlock/", "url_route": "airlock", "destination": "nav"}


def test_loading_the_plugin_loads_no_web_framework_yet_and_the_console_no_training_library() -> None:
    script = (
        "import sys, plugins.airlock; early = {'fastapi', 'numpy'} & set(sys.modules);"
        "import plugins.console.app;"
        "late = {'torch', 'stable_baselines3', 'mlflow', 'matplotlib'} & set(sys.modules); sys.exit(str((early, late)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "(set(), set())"
