"""Who may ask: the wrong person is refused, counted and logged, and no token is ever shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bentos.errors import Problem
from bentos.http import auth
from bentos.http.auth import ClientToken, Guard, Headers
from tests.bentos.gateway_process import ADMIN_TOKEN, GatewayProcess, wait_until
from tests.bentos.policy_packages import write_package

P = "/v1/policies/cartpole"
ACT = {"observation": [0.0, 0.0, 0.0, 1.0]}
TENSOR = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 0.0, 0.0, 1.0]}
ASKED = [
    (f"{P}/act", ACT),
    (f"{P}/episodes", {}),
    (f"{P}/outcomes", {"outcomes": []}),
    ("/v2/models/cartpole/infer", {"inputs": [TENSOR]}),
    ("/act", {"policy": "cartpole", "observations": [[0.0, 0.0, 0.0, 1.0]]}),
]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("guarded")
    write_package(home / "package")
    tokens = home / "tokens"
    tokens.write_text(f"robot:right-token\nguest:old-token:{time.time() - 1}\nshop:new-token:{time.time() + 3600}\n")
    gateway = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_CLIENT_TOKENS=f"@{tokens}")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def http(guarded: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_only_a_client_that_is_known_is_answered(http: httpx.Client, path: str, body: dict[str, object]) -> None:
    for headers, status in (
        ({}, 401),
        ({"authorization": "Basic cm9ib3Q6cmlnaHQtdG9rZW4="}, 401),
        (bearer("wrong-token"), 403),
        (bearer("right-toke"), 403),
        (bearer("old-token"), 403),
        (bearer("right-token"), 200),
        (bearer("new-token"), 200),
        (bearer(ADMIN_TOKEN), 200),
    ):
        answer = http.post(path, json=body, headers=headers)
        assert answer.status_code in ((200, 201) if status == 200 else (status,)), (headers, answer.text)
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_client_is_no_admin(http: httpx.Client) -> None:
    body = {"action": 1, "ttl_seconds": 1, "reason": "mischief"}
    assert http.put(f"{P}/override", json=body, headers=bearer("right-token")).status_code == 403


def test_metadata_and_health_stay_open(http: httpx.Client) -> None:
    for path in ("/v1/policies", P, "/v2", "/v2/health/ready", "/v2/models/cartpole", "/readyz", "/metrics"):
        assert http.get(path).status_code == 200


def test_who_overrides_whom_and_why_is_for_the_admin(guarded: GatewayProcess, http: httpx.Client) -> None:
    guarded.client.set_override("cartpole", 0, ttl_seconds=60, reason="icy road", who="ada", user_id="u1")
    try:
        for headers in ({}, bearer("right-token"), bearer("wrong")):
            (shown,) = http.get(P, headers=headers).json()["overrides"]
            assert set(shown) == {"action", "until"}
            (listed,) = http.get("/v1/policies", headers=headers).json()["policies"]
            assert listed["overrides"] == [shown]
        (whole,) = http.get(P, headers=bearer(ADMIN_TOKEN)).json()["overrides"]
        assert (whole["who"], whole["reason"], whole["user_id"]) == ("ada", "icy road", "u1")
    finally:
        guarded.client.clear_override("cartpole", user_id="u1")


def test_refusals_are_counted_and_logged_without_the_token(guarded: GatewayProcess, http: httpx.Client) -> None:
    http.post(f"{P}/act", json=ACT, headers=bearer("a-guessed-token"))
    http.post(f"{P}/act", json=ACT, headers=bearer("old-token"))
    wait_until(lambda: 'reason="token_expired"' in http.get("/metrics").text, "the refusal is scraped")
    assert 'reason="token"' in http.get("/metrics").text
    log = guarded.log.read_text()
    assert '"reason":"token_expired"' in log
    for secret in ("a-guessed-token", "old-token", "right-token", ADMIN_TOKEN):
        assert secret not in log


def headers(value: str) -> Headers:
    return [(b"host", b"x"), (b"authorization", value.encode("latin-1"))]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("Bearer admin", None),
        ("bearer admin", None),
        ("Bearer client", None),
        ("Bearer   client  ", None),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("client", 401),
        ("Bearer other", 403),
        ("Bearer cliént", 403),
        ("Bearer expired", 403),
    ],
)
def test_a_client_shows_its_token(value: str, status: int | None) -> None:
    clients = [ClientToken("a", b"client", None), ClientToken("b", b"expired", 1.0)]
    guarding = Guard("admin", clients)
    if status is None:
        guarding.client(headers(value))
        return
    with pytest.raises(Problem) as caught:
        guarding.client(headers(value))
    assert caught.value.status == status


def test_without_client_tokens_the_gateway_is_open() -> None:
    assert not Guard("admin").closed


def test_tokens_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(auth.VARIABLE, raising=False)
    assert auth.clients() == []
    monkeypatch.setenv(auth.VARIABLE, "a:one, b:two:123.5,")
    expected = [ClientToken("a", b"one", None), ClientToken("b", b"two", 123.5)]
    assert auth.clients() == expected
    (tmp_path / "tokens").write_text("a:one\n\nb:two:123.5\n")
    monkeypatch.setenv(auth.VARIABLE, f"@{tmp_path / 'tokens'}")
    assert auth.clients() == expected


@pytest.mark.parametrize("wrong", ["secret", "a:", ":secret", "a:secret:tomorrow"])
def test_a_token_that_cannot_be_read_stops_the_start_and_is_not_shown(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(auth.VARIABLE, wrong)
    with pytest.raises(ValueError, match="entry 1") as caught:
        auth.clients()
    assert "secret" not in str(caught.value)
