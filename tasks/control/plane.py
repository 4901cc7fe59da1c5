"""The control plane: the only writer of aliases, the canary and validation status in the MLflow registry.

Each transition holds the policy's lease, stores an intent, and makes its writes in an order in which every state
between is safe: gateways read the registry at any moment. A killed transition is finished by whoever comes next.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from msgspec import structs

from bentos import settings
from bentos.canary import Canary
from bentos.store import tables
from tasks.analysis.judge.anchor import Anchor
from tasks.control import audit, intents
from tasks.control.intents import Write
from tasks.control.lease import WAIT_SECONDS
from tasks.control.transitions import Transitions
from tasks.control.writes import (
    CANARY,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    REASON_LENGTH,
    CanaryMoved,
    CanaryPaused,
    Moves,
    canary_of,
    drop_alias,
    set_canary,
)
from tasks.errors import Misconfigured
from tasks.tracking.registry import Model, Registry

ANCHOR = "anchor"
"""Version tag: what later releases must not fall below by more than their margin; see `tasks.analysis.judge.anchor`."""

OWN_TAGS = frozenset({"validation_status", "verdict", "reason", "decided_by", "generation", ANCHOR})
"""Version tags that only transitions write."""


class ControlPlane:
    """Writes the registry for `who` (a person, or the task of a release), one policy at a time; for one thread."""

    def __init__(self, who: str, *, registry: Registry | None = None, wait: float = WAIT_SECONDS) -> None:
        self._registry = registry or Registry()
        self._moves = Moves(who, self._registry)
        self._transitions = Transitions(who, self._registry, wait)

    def state(self, policy: str) -> dict[str, Any]:
        """What the registry says: {"champion", "previous", "challenger", "canary", "versions": {version: tags}}."""
        found = self._registry.model(policy)
        model = found or Model({}, {})
        canary = canary_of(policy, model)
        return {
            **{alias: model.aliases.get(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)},
            "canary": canary.document() if canary else None,
            "versions": {item.version: item.tags for item in self._registry.versions(policy)} if found else {},
        }

    def registered(self, policy: str, version: str) -> None:
        """Make a fresh version a candidate. A version that has a status keeps it."""

        def writes() -> list[Write]:
            if self._moves.status(policy, version):
                return []
            return [
                intents.set_tag("airlock", "policy"),
                intents.tag_version(version, "validation_status", "candidate"),
            ]

        self._transitions.make(policy, "registered", f"version {version} registered", writes)

    def approve(self, policy: str, version: str, reason: str = "passed the gate") -> None:
        """Let gateways route a candidate. A version that was promoted since was approved."""

        def writes() -> list[Write]:
            if self._moves.status(policy, version) == "promoted":
                return []
            return self._moves.become(policy, version, "approved", reason)

        self._transitions.make(policy, "approve", f"version {version} approved", writes)

    def reject(self, policy: str, version: str, reason: str) -> None:
        """End a candidate that a gate or a person said no to."""
        self._transitions.make(
            policy, "reject", reason, lambda: self._moves.become(policy, version, "rejected", reason)
        )

    def abort(self, policy: str, version: str, reason: str) -> None:
        """End a release that cannot go on; its canary, if it has one, ends first. The champion cannot be aborted."""

        def writes() -> list[Write]:
            model = self._moves.model(policy)
            if model.aliases.get(CHAMPION) == version:
                raise Misconfigured(f"{policy} version {version} is the champion: roll back instead of aborting it")
            canary = canary_of(policy, model)
            ours = canary is not None and canary.version == version
            return [
                *([intents.delete_tag(CANARY)] if ours else []),
                *self._moves.become(policy, version, "aborted", reason),
                *drop_alias(model, CHALLENGER, version),
            ]

        self._transitions.make(policy, "abort", reason, writes)

    def annotate(self, policy: str, version: str, tags: dict[str, str]) -> None:
        """Set plain tags of a version (`check.<id>` and such). Refuses those that transitions own."""
        owned = sorted(OWN_TAGS & set(tags))
        if owned:
            raise ValueError(f"only a transition writes {owned}")
        self._transitions.make(
            policy,
            audit.ANNOTATE,
            f"version {version}: {', '.join(sorted(tags))}"[:REASON_LENGTH],
            lambda: [intents.tag_version(version, key, value) for key, value in sorted(tags.items())],
        )

    def start_canary(self, policy: str, version: str, generation: str, weight: float, step: int = 0) -> dict[str, Any]:
        """Begin the canary of an approved version and return its document. The same generation again: the running one.
        Only in shadow, the step before the first, is the weight 0.

        Raises Misconfigured when another canary runs or the version may not be routed.
        """

        def writes() -> list[Write]:
            model = self._moves.model(policy)
            running = canary_of(policy, model)
            if running and running.generation == generation:
                return []
            if running:
                raise Misconfigured(
                    f"a canary of {policy} is running already: version {running.version}, generation "
                    f"{running.generation}; wait for its verdict or abort its release"
                )
            now = self._moves.status(policy, version)
            if now != "approved":
                raise Misconfigured(f"{policy} version {version} is {now}: only an approved version starts a canary")
            champion = model.aliases.get(CHAMPION)
            canary = Canary(generation, champion, version, weight, secrets.token_hex(16), step, time.time())
            return [
                intents.tag_version(version, "generation", generation),
                intents.set_alias(CHALLENGER, version),
                set_canary(canary),
            ]

        self._transitions.make(policy, "start_canary", f"version {version} starts its canary", writes)
        return self._moves.running(policy, generation).document()

    def set_weight(self, policy: str, generation: str, weight: float, step: int) -> dict[str, Any]:
        """Take the canary to a larger weight; a paused one keeps its own, and a smaller one is refused."""

        def writes() -> list[Write]:
            canary = self._moves.running(policy, generation)
            if weight < canary.weight:
                raise ValueError(f"the weight of a canary only grows: it is {canary.weight:g}, asked was {weight:g}")
            if canary.paused_at or (weight, step) == (canary.weight, canary.step):
                return []
            return [set_canary(structs.replace(canary, weight=weight, step=step))]

        self._transitions.make(policy, "set_weight", f"step {step}: weight {weight:g}", writes)
        return self._moves.running(policy, generation).document()

    def pause(self, policy: str, reason: str) -> dict[str, Any]:
        """Hold the running canary at its weight, without a verdict except a guardrail's; returns its document.

        Raises Misconfigured when none runs or it is paused already.
        """

        def hold(canary: Canary) -> Canary:
            if canary.paused_at:
                raise Misconfigured(f"the canary of {policy} version {canary.version} is paused already")
            return structs.replace(canary, paused_at=time.time())

        return self._change(policy, "pause", reason, hold)

    def resume(self, policy: str, reason: str) -> dict[str, Any]:
        """Let the paused canary go on; its budget of hours leaves out the pause. Raises Misconfigured as `pause`."""

        def go_on(canary: Canary) -> Canary:
            if not canary.paused_at:
                raise Misconfigured(f"the canary of {policy} version {canary.version} is not paused")
            paused = canary.paused_seconds + max(0.0, time.time() - canary.paused_at)
            return structs.replace(canary, paused_at=0.0, paused_seconds=paused)

        return self._change(policy, "resume", reason, go_on)

    def _change(self, policy: str, kind: str, reason: str, change: Callable[[Canary], Canary]) -> dict[str, Any]:
        changed: list[Canary] = []

        def writes() -> list[Write]:
            canary = canary_of(policy, self._moves.model(policy))
            if canary is None:
                raise Misconfigured(f"no canary of {policy} is running")
            changed.append(change(canary))
            return [set_canary(changed[-1])]

        self._transitions.make(policy, kind, reason, writes)
        return changed[-1].document()

    def promote(self, policy: str, generation: str, reason: str, anchor: Anchor | None = None) -> dict[str, Any]:
        """Make the challenger the champion and the champion `previous`. Raises CanaryMoved if either was moved, and
        CanaryPaused if a person has paused the canary.

        `anchor` is what later releases must not fall below by more than their margin; the version keeps it as a tag.
        """

        def writes() -> list[Write]:
            model = self._moves.model(policy)
            canary = canary_of(policy, model)
            if canary is None or canary.generation != generation:
                found = self._moves.of_generation(policy, generation)
                if found.tags.get("validation_status") == "promoted":
                    return []
                raise CanaryMoved(f"the canary {generation} of {policy} runs no more: its tag was removed")
            if model.aliases.get(CHAMPION) != canary.champion:
                raise CanaryMoved(
                    f"the champion of {policy} was moved from version {canary.champion} to "
                    f"{model.aliases.get(CHAMPION)} while the canary {generation} ran"
                )
            if canary.paused_at:
                raise CanaryPaused(f"the canary {generation} of {policy} is paused")
            version = canary.version
            return [
                *([intents.tag_version(version, ANCHOR, json.dumps(anchor.to_json()))] if anchor else []),
                *([intents.set_alias(PREVIOUS, canary.champion)] if canary.champion else []),
                intents.set_alias(CHAMPION, version),
                *self._moves.become(policy, version, "promoted", reason, verdict="promote"),
                intents.delete_tag(CANARY),
                intents.delete_alias(CHALLENGER),
            ]

        self._transitions.make(policy, "promote", reason, writes)
        return self.state(policy)

    def end_canary(
        self, policy: str, generation: str, verdict: Literal["roll_back", "inconclusive"], reason: str
    ) -> dict[str, Any]:
        """End the canary without promotion: traffic first, then the version's status. The champion stays."""
        ended = {"roll_back": "rolled_back", "inconclusive": "inconclusive"}[verdict]

        def writes() -> list[Write]:
            model = self._moves.model(policy)
            canary = canary_of(policy, model)
            ours = canary is not None and canary.generation == generation
            version = canary.version if canary and ours else self._moves.of_generation(policy, generation).version
            return [
                *([intents.delete_tag(CANARY)] if ours else []),
                *self._moves.become(policy, version, ended, reason, verdict=verdict),
                *drop_alias(model, CHALLENGER, version),
            ]

        self._transitions.make(policy, "end_canary", reason, writes)
        return self.state(policy)

    def rollback(self, policy: str, reason: str, now: bool = False) -> dict[str, str | None]:
        """Take the champion back to `previous`, or to none (the fallback serves). A running canary ends first.

        `now` moves running episodes at once, by a fault event; otherwise they end with their version.
        Returns {"from", "to"}. Raises Misconfigured when there is no champion, or `previous` may not be routed.
        """
        moved: dict[str, str | None] = {}

        def writes() -> list[Write]:
            model = self._moves.model(policy)
            champion = model.aliases.get(CHAMPION)
            if champion is None:
                raise Misconfigured(f"{policy} has no champion to roll back")
            moved.update({"from": champion, "to": self._moves.way_back(policy, model, champion)})
            return self._moves.step_back(policy, model, champion, reason, evict=now)

        self._transitions.make(policy, "rollback", reason, writes)
        return moved

    def restore_previous(self, policy: str, version: str, reason: str) -> dict[str, str | None]:
        """Undo the promotion of `version`: it is rolled back, and `previous` is champion again (or none).

        Again, or where the champion was moved to another version since, only the status is made sure of.
        """
        moved: dict[str, str | None] = {"from": version, "to": None}

        def writes() -> list[Write]:
            model = self._moves.model(policy)
            if model.aliases.get(CHAMPION) != version:
                moved["to"] = model.aliases.get(CHAMPION)
                return self._moves.become(policy, version, "rolled_back", reason, verdict="roll_back")
            moved["to"] = self._moves.way_back(policy, model, version)
            return self._moves.step_back(policy, model, version, reason)

        self._transitions.make(policy, "restore_previous", reason, writes)
        return moved

    @contextlib.contextmanager
    def drill(self, policy: str) -> Iterator[dict[str, str | None]]:
        """Move traffic to `previous` (or to none) for the block, and back; yields {"champion", "previous"}.

        The way back is stored before the way there, so a drill that is killed is undone by the next holder.
        """
        with self._transitions.hold(policy):
            model = self._moves.model(policy)
            champion = model.aliases.get(CHAMPION)
            if champion is None:
                raise Misconfigured(f"{policy} has no champion: nothing to drill")
            if canary_of(policy, model):
                raise Misconfigured(f"a canary of {policy} is running: a drill would end it")
            previous = self._moves.way_back(policy, model, champion)
            there = intents.set_alias(CHAMPION, previous) if previous else intents.delete_alias(CHAMPION)
            back = intents.set_alias(CHAMPION, champion)
            reason = f"back to version {champion} after a rollback drill"
            with self._transitions.excursion(policy, "drill", reason, there, back):
                yield {"champion": champion, "previous": previous}

    def notice_moves(self, policy: str) -> list[str]:
        """Write down which of `champion` and `previous` were moved by hand since Airlock last wrote them.

        Returns a sentence each. The moves stay as they are; a canary whose champion is gone ends as inconclusive.
        """
        noticed: list[str] = []

        def writes() -> list[Write]:
            model = self._registry.model(policy) or Model({}, {})
            noted, sentences = self._moves.by_hand(
                policy, model, self._transitions.expected(policy, CHAMPION, PREVIOUS)
            )
            noticed.extend(sentences)
            return [*noted, *self._moves.orphaned(policy, model)]

        self._transitions.make(policy, "notice_moves", "aliases were moved by hand in MLflow", writes)
        return noticed

    def reconcile(self, policy: str) -> int:
        """Finish what killed transitions of a policy left; returns how many there were."""
        return self._transitions.reconcile(policy)


def reconcile_all(who: str) -> int:
    """Finish what killed transitions left, for every policy; returns how many there were."""
    engine = tables.connect(settings.database_url())
    policies = intents.policies_with_pending(engine)
    return sum(ControlPlane(who).reconcile(policy) for policy in policies)
