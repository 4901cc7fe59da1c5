"""Sends alerts to those whom the spec names: webhooks get JSON, everything else is Apprise's.

A receiver's URL may hold a password or a token, so only its scheme and host are ever logged, stored or raised.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from bentos.http_client import trusted
from tasks.alerts.rules import Alert

log = logging.getLogger(__name__)
ATTEMPTS, PAUSE_SECONDS, TIMEOUT_SECONDS = 3, 0.2, 3.0
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Delivery:
    """What became of sending to one receiver; `to` is its scheme and host, no more."""

    to: str
    delivered: bool
    attempts: int
    error: str = ""


def payload(alerts: Sequence[Alert]) -> dict[str, Any]:
    """The JSON body a webhook gets."""
    alerts_json = [{name: _plain(value) for name, value in asdict(alert).items()} for alert in alerts]
    return {"schema_version": 1, "source": "airlock", "alerts": alerts_json}


def _plain(value: Any) -> Any:
    # JSON has no infinity, and a p99 past the last bucket is one
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def deliver(alerts: Sequence[Alert], urls: Iterable[str]) -> list[Delivery]:
    """Send the alerts to every receiver, webhooks tried up to three times. Never raises for a receiver's fault.

    `$NAME` and `${NAME}` in a URL are read from the environment, so that a spec need not hold a secret.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every URL it asks
    return [_deliver(alerts, url) for url in urls] if alerts else []


def _deliver(alerts: Sequence[Alert], url: str) -> Delivery:
    to = receiver(url)
    missing = sorted({a or b for a, b in _VARIABLE.findall(url)} - set(os.environ))
    if missing:
        result = Delivery(to, False, 0, f"set {', '.join(missing)} in the environment of Airflow's workers")
    else:
        filled = _VARIABLE.sub(lambda found: os.environ[found[1] or found[2]], url)
        to = receiver(filled)
        result = (
            _post(filled, to, payload(alerts))
            if filled.startswith(("http://", "https://"))
            else _tell(filled, to, alerts)
        )
    if not result.delivered:
        log.warning("alert not delivered to %s: %s", result.to, result.error)
    return result


def receiver(url: str) -> str:
    """What may be told of a receiver's URL: scheme and host; of other services' URLs the scheme alone, their host may
    be a token."""
    scheme, separator, _ = url.partition("://")
    if not separator or _VARIABLE.search(scheme):
        return "a receiver"
    if scheme not in ("http", "https"):
        return f"{scheme}://…"
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    except ValueError:
        host = "…"
    return f"{scheme}://{host}"


def _post(url: str, to: str, body: dict[str, Any]) -> Delivery:
    error = ""
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 2))
        try:
            answer = httpx.post(url, json=body, timeout=TIMEOUT_SECONDS, verify=trusted(url))
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            error = type(problem).__name__
            continue
        if answer.is_success:
            return Delivery(to, True, attempt)
        error = f"HTTP {answer.status_code}"
        if answer.status_code < 500 and answer.status_code != 429:
            break
    return Delivery(to, False, attempt, error)


def _tell(url: str, to: str, alerts: Sequence[Alert]) -> Delivery:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages name what it sends to
    service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if service is None:
        return Delivery(to, False, 0, "no service that Apprise knows by such a URL; see its documentation")
    firing = [alert for alert in alerts if alert.status == "firing"]
    names = sorted({f"{alert.name} of {alert.policy}" for alert in firing or alerts})
    told = service.notify(
        title=f"{'Alert' if firing else 'Resolved'}: {', '.join(names)}",
        body="\n".join(
            f"{alert.status} {alert.name} ({alert.policy} {alert.version}): {alert.summary}" for alert in alerts
        ),
        notify_type=apprise.NotifyType.FAILURE if firing else apprise.NotifyType.SUCCESS,
    )
    return Delivery(to, bool(told), 1, "" if told else "the service did not take it")
