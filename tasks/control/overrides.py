"""Overrides as the control plane sets and clears them: through the gateway's admin call, or straight in the table."""

from __future__ import annotations

import time
from typing import Any

from bentos import settings
from bentos.store import overrides, tables


class OverrideRefused(Exception):
    """The gateway said no to an override, or did not answer; the message says which, and what it said."""


def call(method: str, policy: str, url: str | None = None, **sent: Any) -> dict[str, Any]:
    """The answer of the gateway at `url` (by default the configured one) to an admin call about overrides.

    The admin token is added here. Raises OverrideRefused.
    """
    import httpx

    from bentos.http_client import trusted

    base = (url or settings.gateway_url()).rstrip("/")
    headers = {"Authorization": f"Bearer {settings.secret('admin_token')}"}
    try:
        address = f"{base}/v1/policies/{policy}/override"
        response = httpx.request(method, address, headers=headers, timeout=30, verify=trusted(base), **sent)
    except httpx.TransportError as error:
        raise OverrideRefused(
            f"the gateway at {base} cannot be reached ({error}); is it up? `airlock status`"
        ) from error
    try:
        document: dict[str, Any] = response.json()
    except ValueError as error:
        raise OverrideRefused(f"{base} answers {response.status_code} without JSON: is it a gateway?") from error
    if not response.is_success:
        raise OverrideRefused(f"the gateway answers {response.status_code}: {document.get('detail', document)}")
    return document


def clear(policy: str, user_id: str | None, episode: str | None, who: str) -> int:
    """End the override of exactly this policy, user and episode (as lists of overrides name it); how many there were.

    Gateways follow the table within a second, so this works while one of them is down.
    """
    with tables.connect(settings.database_url()).begin() as connection:
        return overrides.clear(connection, policy, user_id, episode, who, time.time())
