"""The control plane: the only writer of aliases, the canary and validation status in the MLflow registry.

Each transition holds the policy's lease, stores an intent, and makes its writes in an order in which every state
between is safe: gateways read the registry at any moment. A killed transition is finished by whoever comes next.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from bentos import home, store
from bentos.assignment import MAXIMUM_WEIGHT, Canary, parse
from tasks import intents, validation
from tasks.errors import Misconfigured
from tasks.intents import Write
from tasks.lease import WAIT_SECONDS
from tasks.registry import Model, Registry, Version
from tasks.transitions import Transitions

CHAMPION, PREVIOUS, CHALLENGER, CANARY = "champion", "previous", "challenger", "canary"
SAFETY_ROLLBACK = "safety_rollback"
"""The kind of fault event by which gateways move running episodes off a version (bentos/faults.py)."""

OWN_TAGS = frozenset({"validation_status", "verdict", "reason", "decided_by", "generation"})
_REASON_LENGTH = 1000


class CanaryMoved(Misconfigured):
    """The canary is not as it was left: its tag or the champion was changed by hand. The champion stays."""


class ControlPlane:
    """Writes the registry for `who` (a person, or the task of a release), one policy at a time; for one thread."""

    def __init__(self, who: str, *, registry: Registry | None = None, wait: float = WAIT_SECONDS) -> None:
        self.who = who
        self._registry = registry or Registry()
        self._transitions = Transitions(who, self._registry, wait)

    def state(self, policy: str) -> dict[str, Any]:
        """What the registry says: {"champion", "previous", "challenger", "canary", "versions": {version: tags}}."""
        found = self._registry.model(policy)
        model = found or Model({}, {})
        canary = _canary(policy, model)
        return {
            **{alias: model.aliases.get(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)},
            "canary": canary.document() if canary else None,
            "versions": {item.version: item.tags for item in self._registry.versions(policy)} if found else {},
        }

    def registered(self, policy: str, version: str) -> None:
        """Make a fresh version a candidate. A version that has a status keeps it."""

        def writes() -> list[Write]:
            if self._status(policy, version):
                return []
            return [
                intents.set_tag("airlock", "policy"),
                intents.tag_version(version, "validation_status", "candidate"),
            ]

        self._transitions.make(policy, "registered", f"version {version} registered", writes)

    def approve(self, policy: str, version: str) -> None:
        """Let gateways route a candidate. A version that was promoted since was approved."""

        def writes() -> list[Write]:
            if self._status(policy, version) == "promoted":
                return []
            return self._become(policy, version, "approved", "passed the gate")

        self._transitions.make(policy, "approve", f"version {version} approved", writes)

    def reject(self, policy: str, version: str, reason: str) -> None:
        """End a candidate that a gate or a person said no to."""
        self._transitions.make(policy, "reject", reason, lambda: self._become(policy, version, "rejected", reason))

    def abort(self, policy: str, version: str, reason: str) -> None:
        """End a release that cannot go on; its canary, if it has one, ends first. The champion cannot be aborted."""

        def writes() -> list[Write]:
            model = self._model(policy)
            if model.aliases.get(CHAMPION) == version:
                raise Misconfigured(f"{policy} version {version} is the champion: roll back instead of aborting it")
            canary = _canary(policy, model)
            ours = canary is not None and canary.version == version
            return [
                *([intents.delete_tag(CANARY)] if ours else []),
                *self._become(policy, version, "aborted", reason),
                *_drop_alias(model, CHALLENGER, version),
            ]

        self._transitions.make(policy, "abort", reason, writes)

    def annotate(self, policy: str, version: str, tags: dict[str, str]) -> None:
        """Set plain tags of a version (`check.<id>` and such). Refuses those that transitions own."""
        owned = sorted(OWN_TAGS & set(tags))
        if owned:
            raise ValueError(f"only a transition writes {owned}")
        self._transitions.make(
            policy,
            "annotate",
            f"version {version}: {', '.join(sorted(tags))}"[:_REASON_LENGTH],
            lambda: [intents.tag_version(version, key, value) for key, value in sorted(tags.items())],
        )

    def start_canary(self, policy: str, version: str, generation: str, weight: float) -> dict[str, Any]:
        """Begin the canary of an approved version and return its document. The same generation again: the running one.

        Raises Misconfigured when another canary runs or the version may not be routed.
        """

        def writes() -> list[Write]:
            model = self._model(policy)
            running = _canary(policy, model)
            if running and running.generation == generation:
                return []
            if running:
                raise Misconfigured(
                    f"a canary of {policy} is running already: version {running.version}, generation "
                    f"{running.generation}; wait for its verdict or abort its release"
                )
            now = self._status(policy, version)
            if now != "approved":
                raise Misconfigured(f"{policy} version {version} is {now}: only an approved version starts a canary")
            champion = model.aliases.get(CHAMPION)
            canary = Canary(generation, champion, version, _weight(weight), secrets.token_hex(16), 0, time.time())
            return [
                intents.tag_version(version, "generation", generation),
                intents.set_alias(CHALLENGER, version),
                intents.set_tag(CANARY, _encode(canary)),
            ]

        self._transitions.make(policy, "start_canary", f"version {version} starts its canary", writes)
        return self._running(policy, generation).document()

    def set_weight(self, policy: str, generation: str, weight: float, step: int) -> dict[str, Any]:
        """Take the canary to a larger weight. A weight it has already changes nothing; a smaller one is refused."""

        def writes() -> list[Write]:
            canary = self._running(policy, generation)
            if _weight(weight) < canary.weight:
                raise ValueError(f"the weight of a canary only grows: it is {canary.weight:g}, asked was {weight:g}")
            if (weight, step) == (canary.weight, canary.step):
                return []
            grown = Canary(generation, canary.champion, canary.version, weight, canary.salt, step, canary.started_at)
            return [intents.set_tag(CANARY, _encode(grown))]

        self._transitions.make(policy, "set_weight", f"step {step}: weight {weight:g}", writes)
        return self._running(policy, generation).document()

    def promote(self, policy: str, generation: str, reason: str) -> dict[str, Any]:
        """Make the challenger the champion and the champion `previous`. Raises CanaryMoved if either was moved."""

        def writes() -> list[Write]:
            model = self._model(policy)
            canary = _canary(policy, model)
            if canary is None or canary.generation != generation:
                found = self._of_generation(policy, generation)
                if found.tags.get("validation_status") == "promoted":
                    return []
                raise CanaryMoved(f"the canary {generation} of {policy} runs no more: its tag was removed")
            if model.aliases.get(CHAMPION) != canary.champion:
                raise CanaryMoved(
                    f"the champion of {policy} was moved from version {canary.champion} to "
                    f"{model.aliases.get(CHAMPION)} while the canary {generation} ran"
                )
            version = canary.version
            return [
                *([intents.set_alias(PREVIOUS, canary.champion)] if canary.champion else []),
                intents.set_alias(CHAMPION, version),
                *self._become(policy, version, "promoted", reason, verdict="promote"),
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
            model = self._model(policy)
            canary = _canary(policy, model)
            ours = canary is not None and canary.generation == generation
            version = canary.version if canary and ours else self._of_generation(policy, generation).version
            return [
                *([intents.delete_tag(CANARY)] if ours else []),
                *self._become(policy, version, ended, reason, verdict=verdict),
                *_drop_alias(model, CHALLENGER, version),
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
            model = self._model(policy)
            champion = model.aliases.get(CHAMPION)
            if champion is None:
                raise Misconfigured(f"{policy} has no champion to roll back")
            moved.update({"from": champion, "to": self._fallback_version(policy, model, champion)})
            return self._step_back(policy, model, champion, reason, evict=now)

        self._transitions.make(policy, "rollback", reason, writes)
        return moved

    def restore_previous(self, policy: str, version: str, reason: str) -> dict[str, str | None]:
        """Undo the promotion of `version`: it is rolled back, and `previous` is champion again (or none).

        Again, or where the champion was moved to another version since, only the status is made sure of.
        """
        moved: dict[str, str | None] = {"from": version, "to": None}

        def writes() -> list[Write]:
            model = self._model(policy)
            if model.aliases.get(CHAMPION) != version:
                moved["to"] = model.aliases.get(CHAMPION)
                return self._become(policy, version, "rolled_back", reason, verdict="roll_back")
            moved["to"] = self._fallback_version(policy, model, version)
            return self._step_back(policy, model, version, reason)

        self._transitions.make(policy, "restore_previous", reason, writes)
        return moved

    @contextlib.contextmanager
    def drill(self, policy: str) -> Iterator[dict[str, str | None]]:
        """Move traffic to `previous` (or to none) for the block, and back; yields {"champion", "previous"}.

        The way back is stored before the way there, so a drill that is killed is undone by the next holder.
        """
        with self._transitions.hold(policy):
            model = self._model(policy)
            champion = model.aliases.get(CHAMPION)
            if champion is None:
                raise Misconfigured(f"{policy} has no champion: nothing to drill")
            if _canary(policy, model):
                raise Misconfigured(f"a canary of {policy} is running: a drill would end it")
            previous = self._fallback_version(policy, model, champion)
            there = intents.set_alias(CHAMPION, previous) if previous else intents.delete_alias(CHAMPION)
            back = intents.set_alias(CHAMPION, champion)
            reason = f"back to version {champion} after a rollback drill"
            with self._transitions.excursion(policy, "drill", reason, there, back):
                yield {"champion": champion, "previous": previous}

    def reconcile(self, policy: str) -> int:
        """Finish what killed transitions of a policy left; returns how many there were."""
        return self._transitions.reconcile(policy)

    def _model(self, policy: str) -> Model:
        model = self._registry.model(policy)
        if model is None:
            raise Misconfigured(f"the registry has no model {policy!r}: release the policy first")
        return model

    def _status(self, policy: str, version: str) -> str | None:
        found = self._registry.version(policy, version)
        if found is None:
            raise Misconfigured(f"the registry has no version {version} of {policy}")
        return found.tags.get("validation_status")

    def _running(self, policy: str, generation: str) -> Canary:
        canary = _canary(policy, self._model(policy))
        if canary is None or canary.generation != generation:
            raise CanaryMoved(f"the canary {generation} of {policy} runs no more")
        return canary

    def _of_generation(self, policy: str, generation: str) -> Version:
        for found in reversed(self._registry.versions(policy)):
            if found.tags.get("generation") == generation:
                return found
        raise Misconfigured(f"no version of {policy} had a canary of the generation {generation}")

    def _become(self, policy: str, version: str, wanted: str, reason: str, verdict: str | None = None) -> list[Write]:
        """The writes that give a version a status; none where it has it. Raises IllegalTransition."""
        now = self._status(policy, version)
        if now == wanted:
            return []
        validation.check(policy, version, now, wanted)
        return [
            *([intents.tag_version(version, "verdict", verdict)] if verdict else []),
            intents.tag_version(version, "reason", reason[:_REASON_LENGTH]),
            intents.tag_version(version, "decided_by", self.who),
            intents.tag_version(version, "validation_status", wanted),
        ]

    def _fallback_version(self, policy: str, model: Model, champion: str) -> str | None:
        """Where a rollback of `champion` goes: `previous` if that is another version, else none."""
        previous = model.aliases.get(PREVIOUS)
        if previous is None or previous == champion:
            return None
        now = self._status(policy, previous)
        if now not in validation.ROUTABLE:
            raise Misconfigured(
                f"the previous version {previous} of {policy} is {now}: gateways would not route it; move the alias "
                "`previous` to a promoted version, or remove it to let the fallback serve"
            )
        return previous

    def _step_back(self, policy: str, model: Model, champion: str, reason: str, evict: bool = False) -> list[Write]:
        """Traffic first: from then on gateways ignore a running canary, its champion being the alias no more."""
        previous = self._fallback_version(policy, model, champion)
        return [
            intents.set_alias(CHAMPION, previous) if previous else intents.delete_alias(CHAMPION),
            *([self._evict(policy, champion, reason)] if evict else []),
            *self._become(policy, champion, "rolled_back", reason, verdict="roll_back"),
            intents.delete_alias(PREVIOUS),
            *self._stop_canary(policy, model, f"the champion was rolled back: {reason}"),
        ]

    def _stop_canary(self, policy: str, model: Model, reason: str) -> list[Write]:
        canary = _canary(policy, model)
        if canary is None:
            return []
        return [
            intents.delete_tag(CANARY),
            *self._become(policy, canary.version, "inconclusive", reason, verdict="inconclusive"),
            intents.delete_alias(CHALLENGER),
        ]

    def _evict(self, policy: str, version: str, reason: str) -> Write:
        found = self._registry.version(policy, version)
        digest = found.tags.get("package_sha256", "") if found else ""
        return intents.fault_event(version, digest, SAFETY_ROLLBACK, f"{reason} [{secrets.token_hex(8)}]")


def reconcile_all(who: str) -> int:
    """Finish what killed transitions left, for every policy; returns how many there were."""
    engine = store.connect(home.database_url())
    policies = intents.policies_with_pending(engine)
    return sum(ControlPlane(who).reconcile(policy) for policy in policies)


def _canary(policy: str, model: Model) -> Canary | None:
    text = model.tags.get(CANARY)
    if not text:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise Misconfigured(
            f"the tag `canary` of {policy} is not a canary ({error}); remove it in MLflow, which ends the canary"
        ) from error


def _encode(canary: Canary) -> str:
    return msgspec.json.encode(canary).decode()


def _weight(weight: float) -> float:
    if not 0.0 < weight <= MAXIMUM_WEIGHT:
        raise ValueError(f"the weight of an arm must lie in (0, {MAXIMUM_WEIGHT}], came {weight:g}")
    return weight


def _drop_alias(model: Model, alias: str, version: str) -> list[Write]:
    return [intents.delete_alias(alias)] if model.aliases.get(alias) == version else []
