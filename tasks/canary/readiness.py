"""Whether the gateway is up, and has loaded a version: what a canary waits for before it counts."""

from __future__ import annotations

import time

import httpx

from bentos import settings
from bentos.http_client import trusted

_POLL_SECONDS = 0.3
_TIMEOUT_SECONDS = 3.0


class GatewayNotReady(Exception):
    """The gateway did not do what was waited for; the message says what it did."""


class VersionRefused(Exception):
    """The gateway will not load a version; the message gives its reason."""


def await_gateway(seconds: float) -> None:
    """Return once the gateway says it is ready. Raises GatewayNotReady after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        problem = _health()
        if problem is None:
            return
        if time.monotonic() >= deadline:
            raise GatewayNotReady(f"the gateway at {settings.gateway_url()} is down: {problem}")
        time.sleep(_POLL_SECONDS)


def await_version(policy: str, version: str, seconds: float) -> None:
    """Return once the gateway can serve a version. Raises VersionRefused, or GatewayNotReady after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        status, problem = _load(policy, version)
        if status == "ready":
            return
        if status in ("refused", "quarantined"):
            raise VersionRefused(f"the gateway refuses version {version}: {problem}")
        if time.monotonic() >= deadline:
            raise GatewayNotReady(
                f"the gateway at {settings.gateway_url()} did not load version {version} in {seconds:g} s: {problem}"
            )
        time.sleep(_POLL_SECONDS)


def _get(path: str) -> httpx.Response:
    url = settings.gateway_url()
    return httpx.get(f"{url}{path}", timeout=_TIMEOUT_SECONDS, verify=trusted(url))


def _health() -> str | None:
    try:
        answer = _get("/readyz")
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.status_code == 200 else f"/readyz answers {answer.status_code}"


def _load(policy: str, version: str) -> tuple[str, str]:
    """The version's status at the gateway and, in words, what stands in its way."""
    try:
        answer = _get(f"/v1/policies/{policy}")
        if answer.status_code != 200:
            return "unknown", f"it answers {answer.status_code} for the policy"
        found = answer.json().get("versions", {}).get(version, {})
    except (httpx.HTTPError, ValueError) as error:
        return "unknown", f"{type(error).__name__}: {error}"
    status = str(found.get("status", "unknown"))
    return status, str(found.get("reason") or f"its status there is {status}")
