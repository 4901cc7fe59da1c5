"""The console in a real browser, on the live stack, during a canary: what admin, viewer and nobody see and can do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import httpx
import pytest

from bentos import settings as home
from bentos.package.manifest import Outcomes
from bentos.store import tables
from tasks.build.training.environments import describe
from tasks.canary import lifecycle
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tasks.spec.params import Params
from tasks.stack.airflow_api import Airflow
from tasks.stack.environment import passwords
from tasks.stack.lifecycle import Running
from tasks.stack.release_progress import outcome
from tasks.tracking.release import Release
from tests.bentos.gateway_process import wait_until
from tests.bentos.policy_packages import write_package
from tests.e2e.test_verdicts import DAG, HARMLESS, Application
from tests.tasks.approved import approve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]
POLICY = "cartpole"
PARAMS = Params(objective="superiority", canary_steps=[0.25], max_units_per_arm=1_000_000)
IMPORTED = {
    "source": "zip",
    "minimum_mean_return": 1,
    "objective": "superiority",
    "canary_steps": [0.5],
    "max_units_per_arm": 1_000_000,
    "dry_run_checks": ["action_distribution", "reward_trend", "finite_outputs"],
}
CONSOLE = "/airlock/policies/cartpole"
WAIT = 180_000
"""Patience, milliseconds: the first picture of a home builds its fonts, on a busy machine for more than a minute.

What is waited for is asked again from here: a page's own policy lets no script of Playwright wait inside it (eval).
"""


def state() -> dict[str, Any]:
    return ControlPlane("test").state("cartpole")


def story() -> list[tuple[str, str, str]]:
    engine = tables.connect(home.database_url())
    return [(event.who, event.what, event.words) for event in audit.story(engine, "cartpole")]


def answered() -> dict[str, Any]:
    url = f"{home.gateway_url()}/v1/policies/cartpole/act"
    document: dict[str, Any] = httpx.post(url, json={"observation": HARMLESS}, timeout=10).json()
    return document


def published(directory: Path, number: int) -> Release:
    """A release that came as far as an approved version, without having trained one."""
    made = Release.open(POLICY, f"release {number}", PARAMS)
    package = directory / str(number)
    outcomes = Outcomes(return_range=(0, 500), abandoned_return=0, episode_ttl_seconds=900.0 + number)
    observed = describe(gymnasium.make("CartPole-v1").observation_space)  # as of a policy that is imported later
    digest = write_package(package, observation_space=observed, outcomes=outcomes)
    approve(made, package, digest)
    return made


@pytest.fixture(scope="module")
def canary(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Two promoted versions, and under traffic the canary of a third, which its returns, all equal, leave undecided."""
    directory = tmp_path_factory.mktemp("packages")
    control = ControlPlane("test")
    for number in (1, 2):
        made = published(directory, number)
        begun = lifecycle.start(made, ready_seconds=120)
        control.promote(POLICY, begun["generation"], "it was there")
    third = published(directory, 3)
    lifecycle.start(third, ready_seconds=120)
    with Application(deviation=0.0):
        wait_until(lambda: lifecycle.advance(third).get("weight"), "the canary leaves its shadow", 120, 0.3)
        yield {**state(), "release": third}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(chromium: Browser, stack: Running) -> Iterator[Callable[..., Page]]:
    """`visit("viewer")` is a new page of a browser in which that user signed in, on the policy's page."""
    contexts: dict[str, BrowserContext] = {}

    def page(user: str, path: str = CONSOLE, **settings: Any) -> Page:
        context = contexts.get(user)
        if context is None:
            context = contexts[user] = chromium.new_context(base_url=stack.airflow)
            context.set_default_timeout(WAIT)
            login = context.new_page()
            login.goto(CONSOLE)
            login.fill('input[name="username"]', user)
            login.fill('input[name="password"]', passwords()[user])
            login.click('button[type="submit"]')
            login.wait_for_url(f"**{CONSOLE}")
            login.close()
        opened = context.new_page()
        if settings:
            opened.set_viewport_size(settings["size"])
        opened.goto(path)
        return opened

    yield page
    for context in contexts.values():
        context.close()


def do(page: Any, deed: str, **fields: str | bool) -> str:
    """Open a deed's form, fill it in and send it; what the page then says. `page` may be a frame."""
    box: Locator = page.locator(f"#do-{deed}")
    box.locator("summary").click()
    for name, value in {"reason": f"a test of {deed}", **fields}.items():
        place = box.locator(f'[name="{name}"]')
        if isinstance(value, bool):
            place.set_checked(value)
        else:
            place.fill(value)
    box.locator("button").click()
    page.locator(".said.good, .said.bad").wait_for()
    return str(page.locator(".said").text_content())


def test_nobody_is_led_to_the_login(stack: Running, chromium: Browser, canary: dict[str, Any]) -> None:
    page = chromium.new_page()
    page.goto(f"{stack.airflow}{CONSOLE}")
    assert "/login" in page.url
    assert "Canary" not in page.content()
    page.close()
    assert httpx.post(f"{stack.airflow}{CONSOLE}/rollback", data={"reason": "x"}).status_code == 303
    assert httpx.get(f"{stack.airflow}/airlock/data/policies").status_code == 401


def test_a_viewer_sees_the_canary_live_and_can_do_nothing(visit: Callable[..., Page], canary: dict[str, Any]) -> None:
    before = state()
    version = before["canary"]["version"]
    page = visit("viewer")
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    assert f"Version {version} against version {before['champion']}" in str(page.text_content('[data-part="canary"]'))
    page.evaluate("window.stayed = true")
    shown = page.text_content(".reason")
    wait_until(lambda: page.text_content(".reason") != shown, "the page is kept fresh", WAIT / 1000, pause=0.3)
    assert page.evaluate("window.stayed"), "fresh without reloading"
    drawn = "document.querySelector('figure img').naturalWidth > 0"
    wait_until(lambda: page.evaluate(drawn), "the canary is drawn", WAIT / 1000, pause=0.3)
    returns = page.locator('[data-chart="returns"] [role="img"]')
    returns.locator("canvas").wait_for()
    assert str(returns.get_attribute("aria-label")).startswith("Returns over time. version ")
    assert page.locator("form").count() == 0
    script = """async (path) => (await fetch(path, {
        method: "POST", body: new URLSearchParams({ reason: "let me" }), headers: { Accept: "application/json" },
    })).status"""
    assert faults == []
    for deed in ("rollback", "abort", "pause", "override", "release"):
        assert page.evaluate(script, f"{CONSOLE}/{deed}") == 403
    assert {"champion": state()["champion"], "canary": state()["canary"]} == {
        "champion": before["champion"],
        "canary": before["canary"],
    }
    assert [event[:2] for event in story()[:5]] == [("viewer (console)", "refused")] * 5
    page.close()


def test_it_fits_a_phone(visit: Callable[..., Page], canary: dict[str, Any]) -> None:
    for path in ("/airlock/", CONSOLE):
        page = visit("admin", path, size={"width": 390, "height": 800})
        page.locator("h1").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.close()


def test_it_is_worked_by_keyboard_and_keeps_what_is_typed(visit: Callable[..., Page], canary: dict[str, Any]) -> None:
    page = visit("admin")
    page.locator("#do-pause summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("typed while the page is kept fresh")
    shown = page.text_content(".reason")
    wait_until(lambda: page.text_content(".reason") != shown, "the page is kept fresh", WAIT / 1000, pause=0.3)
    assert page.evaluate("document.activeElement.id") == "pause-reason"
    assert page.input_value("#pause-reason") == "typed while the page is kept fresh"
    page.close()


def test_an_admin_pauses_and_resumes_from_inside_airflows_own_page(
    visit: Callable[..., Page], canary: dict[str, Any]
) -> None:
    page = visit("admin", "/plugin/airlock")
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="cartpole").click()
    assert "is paused" in do(frame, "pause")
    held = state()["canary"]
    assert held["paused_at"] > 0
    frame.locator('[data-part="canary"] .chip', has_text="paused").wait_for()
    assert story()[0] == ("admin (console)", "pause", "a test of pause")
    assert "goes on" in do(frame, "resume")
    assert state()["canary"]["paused_at"] == 0
    assert state()["canary"]["weight"] == held["weight"]
    page.close()


def test_an_admin_overrides_and_ends_that(visit: Callable[..., Page], canary: dict[str, Any]) -> None:
    page = visit("admin")
    assert "does not fit" in do(page, "override", action='"left"', minutes="5")
    page.reload()
    assert "5 minutes" in do(page, "override", action="1", minutes="5")
    wait_until(lambda: answered()["source"] == "override", "the gateway follows the override", 120, 0.3)
    row = page.locator('[data-part="overrides"] tbody tr')
    row.wait_for()
    assert "admin (console)" in str(row.text_content())
    row.locator("button").click()
    page.locator('[data-part="overrides"]', has_text="None: the policy decides").wait_for()
    wait_until(lambda: answered()["source"] == "policy", "the gateway follows the end of the override", 120, 0.3)
    assert [event[1] for event in story()[:2]] == ["override_cleared", "override_set"]
    page.close()


def test_an_admin_aborts_the_canary_releases_and_rolls_back(
    visit: Callable[..., Page], canary: dict[str, Any], airflow: Airflow
) -> None:
    page = visit("admin")
    assert "version 3 was aborted" in do(page, "abort")
    after = state()
    assert (after["canary"], after["champion"], after["previous"]) == (None, "2", "1")
    assert after["versions"]["3"]["validation_status"] == "aborted"
    assert after["versions"]["3"]["decided_by"] == "admin (console)"
    assert "ended from outside" in lifecycle.advance(canary["release"])["stopped"]
    page.reload()
    assert "was triggered" in do(page, "release", timesteps="256", seed="11")
    run = airflow.request("GET", f"/dags/{DAG}/dagRuns?order_by=-run_after&limit=1").json()["dag_runs"][0]
    assert (run["conf"], run["note"]) == ({"timesteps": 256, "seed": 11}, "a test of release")
    assert run["triggering_user_name"] == "admin"
    assert story()[0][:2] == ("admin (console)", "release_triggered")
    page.reload()
    assert do(page, "rollback", now=True) == "Rolled back from version 2 to version 1."
    assert (state()["champion"], state()["previous"]) == ("1", None)
    wait_until(lambda: answered()["version"] == "1", "the gateway follows the rollback", 120, 0.3)
    page.locator('[data-part="story"]', has_text="a test of rollback").wait_for()
    page.close()


def test_a_release_gets_no_verdict_while_an_admin_has_paused_its_canary(
    visit: Callable[..., Page], canary: dict[str, Any], airflow: Airflow, tmp_path: Path
) -> None:
    from stable_baselines3 import PPO

    PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu").save(tmp_path / "policy.zip")
    begun = airflow.trigger(DAG, {**IMPORTED, "zip_path": str(tmp_path / "policy.zip")})
    with Application(deviation=0.0) as application:
        wait_until(lambda: (state()["canary"] or {}).get("weight"), "the release's canary leaves its shadow", 900, 0.3)
        page = visit("admin")
        assert "is paused" in do(page, "pause")
        application.shift = 50.0  # from here on its challenger is far better
        played = application.sources.total()
        wait_until(lambda: application.sources.total() > played + 1_000, "a thousand episodes end meanwhile", 300)
        assert state()["canary"]["paused_at"] > 0
        assert not airflow.run(DAG, begun.run_id).ended
        page.reload()
        assert "goes on" in do(page, "resume")
        run = airflow.follow(DAG, begun.run_id, timeout=600)
    assert outcome(POLICY, run)["outcome"] == "promoted", outcome(POLICY, run)
    assert state()["champion"] == Release.get(POLICY, run.run_id).need_json("canary/verdict.json")["version"]
    page.locator('[data-part="canary"] .chip', has_text="promoted").wait_for()
    page.close()
