"""Numbers, times and states as the pages write them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from tasks.checklist.render import value

_VERDICTS = {
    "promote": ("good", "promoted"),
    "promoted": ("good", "promoted"),
    "roll_back": ("bad", "rolled back"),
    "rolled_back": ("bad", "rolled back"),
    "rejected": ("bad", "rejected"),
    "failed": ("bad", "failed"),
    "aborted": ("bad", "aborted"),
    "inconclusive": ("plain", "inconclusive"),
    "continue": ("live", "running"),
}
_STATUS = {"pass": "good", "fail": "bad", "skip": "warn", "inconclusive": "warn"}


def number(found: float | None, digits: int = 4) -> str:
    """A number with some significant digits; a dash where there is none."""
    if found is None:
        return "–"
    if not math.isfinite(found):
        return "∞" if found > 0 else "−∞" if found < 0 else "–"
    if isinstance(found, int):
        text = f"{found:,}"
    elif abs(found) < 10**digits - 0.5:
        text = f"{found:,.{digits}g}"
    else:
        text = f"{found:,.0f}" if abs(found) < 1e6 else f"{found:.3e}"
    return text.replace("-", "−")


def signed(found: float | None) -> str:
    """A difference: its sign is always written."""
    text = number(found)
    return f"+{text}" if found is not None and found > 0 else text


def percent(share: float | None) -> str:
    """A share in percent."""
    return "–" if share is None else f"{number(100 * share, 3)} %"


def moment(seconds: float | None) -> str:
    """A Unix time as a person reads it, in UTC."""
    if seconds is None:
        return "–"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(seconds: float) -> str:
    """A Unix time as `<time datetime>` takes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def verdict(outcome: str | None) -> tuple[str, str]:
    """The tone and the words of a verdict or outcome; a release without one is running."""
    return _VERDICTS.get(outcome or "continue", ("plain", str(outcome).replace("_", " ")))


def status(found: str) -> str:
    """The tone of a check's status."""
    return _STATUS.get(found, "plain")


def plain(identifier: str) -> str:
    """A name of the contract as words."""
    return identifier.replace("_", " ")


def document(found: Any) -> str:
    """Evidence as indented JSON."""
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False, default=str)


def measured(found: Any, unit: str = "") -> str:
    """What a check or a guardrail measured, or its limit: shares in percent, counts without a unit."""
    if found is None:
        return "–"
    if isinstance(found, int | float) and not isinstance(found, bool):
        if unit == "share":
            return percent(found)
        return f"{number(found)} {'' if unit == 'count' else unit}".strip()
    return value(found, unit)


def action(found: Any) -> str:
    """An action in one short line."""
    text = json.dumps(found, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


FILTERS = {
    "number": number,
    "signed": signed,
    "percent": percent,
    "moment": moment,
    "iso": iso,
    "verdict": verdict,
    "status": status,
    "plain": plain,
    "document": document,
    "action": action,
    "measured": measured,
}
