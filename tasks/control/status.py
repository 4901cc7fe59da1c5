"""`validation_status` of a model version: its states, which may follow which, and what each lets a version do."""

from __future__ import annotations

from tasks.errors import Misconfigured

NEXT: dict[str | None, frozenset[str]] = {
    None: frozenset({"candidate", "aborted"}),
    "candidate": frozenset({"approved", "rejected", "aborted"}),
    "approved": frozenset({"promoted", "rolled_back", "inconclusive", "aborted"}),
    "promoted": frozenset({"rolled_back", "aborted"}),
    "rejected": frozenset({"aborted"}),
    "rolled_back": frozenset({"aborted"}),
    "inconclusive": frozenset({"aborted"}),
    "aborted": frozenset(),
}
"""From each state (None: fresh) the states that may follow. None comes back: a new release makes a new version."""

ROUTABLE = frozenset({"approved", "promoted"})
"""Gateways route no version in another state, so an alias moved by hand cannot skip the gates."""


class IllegalTransition(Misconfigured):
    """A version asked to go where its status does not lead."""


def check(policy: str, version: str, status: str | None, wanted: str) -> None:
    """Raise IllegalTransition unless a version in `status` may become `wanted`."""
    allowed = NEXT.get(status, frozenset())
    if wanted in allowed:
        return
    may = f"it may become {' or '.join(sorted(allowed))}" if allowed else "that is final"
    raise IllegalTransition(
        f"{policy} version {version} cannot become {wanted}: it is {status or 'not registered here'}, and {may}; "
        "a new release makes a new version"
    )
