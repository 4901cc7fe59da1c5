"""The moves that transitions consist of: what the registry says now, and the writes that lead from there to there."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import msgspec

from bentos.canary import MAXIMUM_WEIGHT, Canary, parse
from tasks.analysis.judge.plan import SHADOW
from tasks.control import intents
from tasks.control import status as validation
from tasks.control.intents import Write
from tasks.errors import Misconfigured
from tasks.tracking.registry import Model, Registry, Version

CHAMPION, PREVIOUS, CHALLENGER, CANARY = "champion", "previous", "challenger", "canary"

SAFETY_ROLLBACK = "safety_rollback"
"""The kind of fault event by which gateways move running episodes off a version (bentos/routing/faults.py)."""

REASON_LENGTH = 1000

MOVED_BY_HAND = "moved_by_hand"
"""Version tag: how an alias came to point to the version, or was taken from it, outside Airlock."""


class CanaryMoved(Misconfigured):
    """The canary is not as it was left: its tag or the champion was changed by hand. The champion stays."""


class CanaryPaused(Misconfigured):
    """A person has paused the canary: it is promoted no sooner than it is resumed."""


class Moves:
    """Reads the registry and says what to write, for `who`; writes nothing itself."""

    def __init__(self, who: str, registry: Registry) -> None:
        self._who = who
        self._registry = registry

    def model(self, policy: str) -> Model:
        """The registered model. Raises Misconfigured when there is none."""
        model = self._registry.model(policy)
        if model is None:
            raise Misconfigured(f"the registry has no model {policy!r}: release the policy first")
        return model

    def status(self, policy: str, version: str) -> str | None:
        """A version's validation status (None: fresh). Raises Misconfigured when there is no such version."""
        found = self._registry.version(policy, version)
        if found is None:
            raise Misconfigured(f"the registry has no version {version} of {policy}")
        return found.tags.get("validation_status")

    def running(self, policy: str, generation: str) -> Canary:
        """The running canary of that generation. Raises CanaryMoved when it does not run."""
        canary = canary_of(policy, self.model(policy))
        if canary is None or canary.generation != generation:
            raise CanaryMoved(f"the canary {generation} of {policy} runs no more")
        return canary

    def of_generation(self, policy: str, generation: str) -> Version:
        """The version whose canary had that generation, running or not. Raises Misconfigured when there is none."""
        for found in reversed(self._registry.versions(policy)):
            if found.tags.get("generation") == generation:
                return found
        raise Misconfigured(f"no version of {policy} had a canary of the generation {generation}")

    def become(self, policy: str, version: str, wanted: str, reason: str, verdict: str | None = None) -> list[Write]:
        """The writes that give a version a status; none where it has it. Raises IllegalTransition."""
        now = self.status(policy, version)
        if now == wanted:
            return []
        validation.check(policy, version, now, wanted)
        return [
            *([intents.tag_version(version, "verdict", verdict)] if verdict else []),
            intents.tag_version(version, "reason", reason[:REASON_LENGTH]),
            intents.tag_version(version, "decided_by", self._who),
            intents.tag_version(version, "validation_status", wanted),
        ]

    def by_hand(
        self, policy: str, model: Model, expected: Mapping[str, Sequence[str | None]]
    ) -> tuple[list[Write], list[str]]:
        """Aliases that point elsewhere than `expected`: what is to be written down about it, and a sentence each."""
        writes: list[Write] = []
        sentences = []
        for alias, known in expected.items():
            now = model.aliases.get(alias)
            if not known or now in known:
                continue
            before = known[0]
            sentence = self._moved(policy, alias, before, now)
            tagged = now or before
            there = tagged is not None and self._registry.version(policy, tagged) is not None
            writes += [
                intents.saw_alias(alias, now),
                *([intents.tag_version(tagged, MOVED_BY_HAND, sentence)] if tagged and there else []),
                intents.audit_event(
                    "somebody, in MLflow", "alias_moved", sentence, alias=alias, before=before, now=now
                ),
            ]
            sentences.append(sentence)
        return writes, sentences

    def _moved(self, policy: str, alias: str, before: str | None, now: str | None) -> str:
        came = f"from version {before}" if before else "from nowhere"
        if now is None:
            return f"the alias `{alias}` was removed by hand {came}"
        status = self.status(policy, now)
        said = f"the alias `{alias}` was moved by hand {came} to version {now}, which is {status or 'not released'}"
        return said if status in validation.ROUTABLE else f"{said}: gateways do not route it"

    def way_back(self, policy: str, model: Model, champion: str) -> str | None:
        """Where a rollback of `champion` goes: `previous` if that is another version, else none."""
        previous = model.aliases.get(PREVIOUS)
        if previous is None or previous == champion:
            return None
        now = self.status(policy, previous)
        if now not in validation.ROUTABLE:
            raise Misconfigured(
                f"the previous version {previous} of {policy} is {now}: gateways would not route it; move the alias "
                "`previous` to a promoted version, or remove it to let the fallback serve"
            )
        return previous

    def step_back(self, policy: str, model: Model, champion: str, reason: str, evict: bool = False) -> list[Write]:
        """Traffic first: from then on gateways ignore a running canary, its champion being the alias no more."""
        previous = self.way_back(policy, model, champion)
        return [
            intents.set_alias(CHAMPION, previous) if previous else intents.delete_alias(CHAMPION),
            *([self._evict(policy, champion, reason)] if evict else []),
            *self._become_if_it_may(policy, champion, "rolled_back", reason, "roll_back"),
            intents.delete_alias(PREVIOUS),
            *self.stop_canary(policy, model, f"the champion was rolled back: {reason}"),
        ]

    def orphaned(self, policy: str, model: Model) -> list[Write]:
        """The writes that end a canary whose champion is no longer the alias: gateways ignore it already."""
        try:
            canary = canary_of(policy, model)
        except Misconfigured:
            return []
        if canary is None or canary.champion == model.aliases.get(CHAMPION):
            return []
        return self.stop_canary(policy, model, f"its champion, version {canary.champion}, was moved by hand")

    def stop_canary(self, policy: str, model: Model, reason: str) -> list[Write]:
        """The writes that end whatever canary there is as inconclusive; none where there is none."""
        if CANARY not in model.tags:
            return []
        try:
            canary = canary_of(policy, model)
        except Misconfigured:
            canary = None  # a tag that is no canary must not stand in the way of a rollback
        ended = self._become_if_it_may(policy, canary.version, "inconclusive", reason, "inconclusive") if canary else []
        return [intents.delete_tag(CANARY), *ended, intents.delete_alias(CHALLENGER)]

    def _become_if_it_may(self, policy: str, version: str, wanted: str, reason: str, verdict: str) -> list[Write]:
        """As `become`, but a version put where it is by hand keeps its status: moving traffic comes first."""
        try:
            return self.become(policy, version, wanted, reason, verdict)
        except validation.IllegalTransition:
            return []

    def _evict(self, policy: str, version: str, reason: str) -> Write:
        found = self._registry.version(policy, version)
        digest = found.tags.get("package_sha256", "") if found else ""
        return intents.fault_event(version, digest, SAFETY_ROLLBACK, f"{reason} [{secrets.token_hex(8)}]")


def canary_of(policy: str, model: Model) -> Canary | None:
    """The canary that the model's tag holds, or None. Raises Misconfigured when the tag is something else."""
    text = model.tags.get(CANARY)
    if not text:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise Misconfigured(
            f"the tag `canary` of {policy} is not a canary ({error}); remove it in MLflow, which ends the canary"
        ) from error


def set_canary(canary: Canary) -> Write:
    """The one write that starts or changes a canary. Raises ValueError for a weight out of range."""
    if canary.step == SHADOW:
        if canary.weight != 0.0:
            raise ValueError(f"in shadow the weight of an arm must be 0, came {canary.weight:g}")
    elif not 0.0 < canary.weight <= MAXIMUM_WEIGHT:
        raise ValueError(f"the weight of an arm must lie in (0, {MAXIMUM_WEIGHT}], came {canary.weight:g}")
    return intents.set_tag(CANARY, msgspec.json.encode(canary).decode())


def drop_alias(model: Model, alias: str, version: str) -> list[Write]:
    """Remove an alias if it points to the version."""
    return [intents.delete_alias(alias)] if model.aliases.get(alias) == version else []
