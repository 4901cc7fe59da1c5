"""The journal: what is kept of single decisions, beside the counters: events of episodes, and the decision log."""

from __future__ import annotations

from bentos.package.manifest import Manifest
from bentos.rows import FALLBACK as BY_FALLBACK
from bentos.rows import Decision, Rows
from bentos.store import decision_log
from bentos.store.decision_log import DecisionLog
from bentos.store.episode_events import ADJUSTMENT, FALLBACK, FAULT, Events


class Journal:
    """One worker's journal."""

    def __init__(self) -> None:
        self.events = Events()
        self.log = DecisionLog()
        self._share = decision_log.share()

    def page(self, manifest: Manifest) -> Page:
        """The page for a version of a policy. All episodes of one that explores are logged: it is learned from."""
        return Page(self, manifest.name, decision_log.limit(1.0 if manifest.serve.explore else self._share))


class Page:
    """What the journal keeps of one version's decisions."""

    def __init__(self, journal: Journal, policy: str, limit: str) -> None:
        self._events = journal.events
        self._log = journal.log
        self._policy = policy
        self._limit = limit

    def note(self, rows: Rows, decision: Decision, seconds: float) -> None:
        """Keep what is to be kept of a decision that took `seconds`; of rows without an episode that is nothing."""
        episodes = rows.episodes
        if episodes is None:
            return
        if rows.generation and (
            decision.faults is not None or decision.adjusted is not None or BY_FALLBACK in decision.sources
        ):
            self._befell(rows, decision)
        limit = self._limit
        if rows.size == 1 and (episodes[0] is None or episodes[0].nonce >= limit):
            return
        chosen = [
            (row, episode) for row, episode in enumerate(episodes) if episode is not None and episode.nonce < limit
        ]
        if chosen:
            self._log.note(self._policy, rows, decision, chosen, seconds)

    def _befell(self, rows: Rows, decision: Decision) -> None:
        """Note what befell the episodes of an experiment.

        Faults are counted by the request: if not every row had one, those did that the fallback answered.
        """
        faults = decision.faults or {}
        all_faulty = sum(faults.values()) >= rows.size
        for row, episode in enumerate(rows.episodes or ()):
            if episode is None:
                continue
            by_fallback = decision.sources[row] == BY_FALLBACK
            kinds = {
                FAULT: all_faulty or (bool(faults) and by_fallback),
                FALLBACK: by_fallback,
                ADJUSTMENT: bool(decision.adjusted and decision.adjusted[row]),
            }
            for kind, befell in kinds.items():
                if befell:
                    self._events.note(self._policy, rows.generation, episode.nonce, kind)
