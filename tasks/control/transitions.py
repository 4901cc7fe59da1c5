"""How a policy's registry is changed: under its lease, by intents, with what a killed one left finished first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.control import intents
from tasks.control.intents import Intent, Write
from tasks.control.lease import Lease, held
from tasks.tracking.client import RegistryRefused
from tasks.tracking.registry import Registry


class Transitions:
    """Makes transitions for `who`; for one thread. Waits at most `wait` seconds for another holder of a lease."""

    def __init__(self, who: str, registry: Registry, wait: float) -> None:
        self._who = who
        self._registry = registry
        self._wait = wait
        self._engine: sa.Engine = tables.connect(settings.database_url())
        self._leases: dict[str, Lease] = {}

    def make(self, policy: str, kind: str, reason: str, writes: Callable[[], list[Write]]) -> None:
        """One transition: `writes` reads the registry under the lease and says what to write (nothing: no change)."""
        with self.hold(policy) as lease:
            needed = writes()
            if needed:
                self._apply(lease, intents.begin(self._engine, lease, kind, self._who, reason, needed))

    @contextlib.contextmanager
    def excursion(self, policy: str, kind: str, reason: str, there: Write, back: Write) -> Iterator[None]:
        """Make the write `there`, run the block, and make the write `back`, in one hold of the lease.

        The way back is stored before the way there, so one that is killed is undone by the next holder.
        """
        with self.hold(policy) as lease:
            intent = intents.begin(self._engine, lease, kind, self._who, reason, [back])
            with lease.kept_alive():
                try:
                    intents.make(self._registry, self._engine, policy, there)
                    yield
                finally:
                    self._apply(lease, intent)

    @contextlib.contextmanager
    def hold(self, policy: str) -> Iterator[Lease]:
        """The policy's lease, ours already or taken now, with everything pending finished first."""
        if policy in self._leases:
            yield self._leases[policy]
            return
        with held(self._engine, policy, self._who, wait=self._wait) as lease:
            self._leases[policy] = lease
            try:
                for intent in intents.pending(self._engine, policy):
                    self._apply(lease, intent)
                yield lease
            finally:
                del self._leases[policy]

    def expected(self, policy: str, *aliases: str) -> dict[str, list[str | None]]:
        """Where each alias may point by what was written: see `intents.expected`."""
        return {alias: intents.expected(self._engine, policy, alias) for alias in aliases}

    def reconcile(self, policy: str) -> int:
        """Finish what killed transitions left; returns how many there were."""
        left = len(intents.pending(self._engine, policy))
        if left:
            with self.hold(policy):
                pass
        return left

    def _apply(self, lease: Lease, intent: Intent) -> None:
        """Make all writes of an intent, proving the lease before each. One that MLflow refuses for good is given up."""
        try:
            for write in intent.writes:
                lease.renew()
                intents.make(self._registry, self._engine, intent.policy, write)
        except RegistryRefused:
            intents.close(self._engine, intent, "failed")
            raise
        intents.close(self._engine, intent)
