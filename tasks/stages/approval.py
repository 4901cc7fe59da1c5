"""What a person is asked before the canary, and what their answer does.

Asking and answering are in the audit log first: a task that is killed between an answer and what follows from it does
not ask again, and one that asks again keeps the deadline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.checklist.render import as_markdown
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tasks.errors import Misconfigured
from tasks.reporting.card import gather
from tasks.reporting.card_text import links, plain_headline
from tasks.reporting.comparison import markdown
from tasks.tracking.release import Release, version_of

ASKED, APPROVED, REJECTED, TIMED_OUT = "approval_asked", "approved", "rejected", "approval_timed_out"
NOBODY = "nobody (the deadline passed)"


@dataclass(frozen=True)
class Question:
    """What is asked: subject, Markdown body, and the seconds left to answer it."""

    subject: str
    body: str
    seconds: float


@dataclass(frozen=True)
class Answer:
    """Somebody's answer, or `timed_out`: then it is a rejection by nobody. `reason` is what they wrote, or ""."""

    approved: bool
    who: str
    reason: str
    timed_out: bool = False


def ask(release: Release) -> Question:
    """The question, whose deadline runs from the first time it is asked."""
    version, hours = _version(release), release.spec.approval_hours
    assert hours is not None
    asked = _event(release, ASKED)
    until = float(asked.detail["until"]) if asked else time.time() + 3600 * hours
    if asked is None:
        words = f"approval of version {version} was asked for; without an answer within {hours:g} hours it is rejected"
        _record(release, f"release {release.dag_run_id}", ASKED, words, version=version, until=until)
    subject = f"Release {release.policy} version {version} to a canary?"
    return Question(subject, _body(release, version, until), max(0.0, until - time.time()))


def answered(release: Release) -> Answer | None:
    """The answer that was given already, or None."""
    for what in (APPROVED, REJECTED, TIMED_OUT):
        found = _event(release, what)
        if found:
            return Answer(what == APPROVED, found.who, str(found.detail["reason"]), what == TIMED_OUT)
    return None


def answer(release: Release, given: Answer) -> dict[str, Any]:
    """Record an answer and act on it: the version becomes approved (gateways may route it) or rejected; the champion
    stays either way. An answer that was recorded before is the one that counts.
    """
    version = _version(release)
    before = answered(release)
    given = before or given
    said = f": {given.reason}" if given.reason else ""
    words = f"{'approved' if given.approved else 'rejected'} by {given.who}{said}"
    if before is None:
        what = APPROVED if given.approved else TIMED_OUT if given.timed_out else REJECTED
        _record(release, given.who, what, f"version {version} {words}", version=version, reason=given.reason)
    control = ControlPlane(given.who)
    key = "approved_by" if given.approved else "rejected_by"
    control.annotate(release.policy, version, {key: given.who, "approval_reason": given.reason or "none given"})
    if given.approved:
        control.approve(release.policy, version, words)
    else:
        control.reject(release.policy, version, words)
    return {"version": version, key: given.who, "reason": given.reason, "words": words}


def _body(release: Release, version: str, until: float) -> str:
    evidence = gather(release, version)
    champion = evidence.champion
    deadline = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
    parts = [
        f"Without an answer by **{deadline}** it is rejected. The champion stays until a canary has shown that the "
        "candidate is good enough.",
        links(evidence, mlflow=settings.mlflow_url()),
        plain_headline(evidence),
        "#### Against the champion",
        markdown(champion, list(evidence.differences)) if champion else "There is no champion yet: a first release.",
        "#### Pre-deployment checklist",
        *([as_markdown(checklist) for checklist in evidence.checklists] or ["It is missing."]),
    ]
    return "\n\n".join(parts)


def _event(release: Release, what: str) -> audit.Event | None:
    events = audit.events(tables.connect(settings.database_url()), release.policy, what)
    return next((event for event in events if event.detail.get("dag_run_id") == release.dag_run_id), None)


def _record(release: Release, who: str, what: str, words: str, **detail: Any) -> None:
    engine: sa.Engine = tables.connect(settings.database_url())
    audit.record(engine, release.policy, who, what, words, dag_run_id=release.dag_run_id, **detail)


def _version(release: Release) -> str:
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no model version")
    return version
