"""The lease on a policy: one writer of its registry at a time, with a fence that outlives a writer who stalls."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

import sqlalchemy as sa

from bentos.store.tables import leases

TTL_SECONDS = 30.0
"""Longer than any single registry call, so that a call begun under a lease ends under it."""

WAIT_SECONDS = 5.0
_RETRY_SECONDS = 0.1


class LeaseHeld(Exception):
    """Somebody else is changing this policy; says who, and until when. Worth another try."""


class LeaseLost(Exception):
    """The lease ran out while in use and may be another's now: what was begun is finished by the next holder."""


class Lease:
    """A held lease. `fence` is larger than that of every earlier holder of the same policy."""

    def __init__(self, engine: sa.Engine, policy: str, holder: str, fence: int, ttl: float) -> None:
        self.policy = policy
        self.holder = holder
        self.fence = fence
        self._engine = engine
        self._ttl = ttl

    def renew(self, connection: sa.Connection | None = None) -> None:
        """Prove that the lease is still ours and start its time anew; inside `connection`'s transaction if given.

        Raises LeaseLost.
        """
        if connection is None:
            with self._engine.begin() as own:
                return self.renew(own)
        now = time.time()
        kept = connection.execute(
            sa.update(leases)
            .where(leases.c.policy == self.policy, leases.c.fence == self.fence, leases.c.expires_at > now)
            .values(expires_at=now + self._ttl)
        )
        if kept.rowcount != 1:
            raise LeaseLost(f"{self.policy}: the lease of {self.holder} ran out; run the command again")
        return None

    def release(self) -> None:
        """Give the lease back; one that was lost is left alone."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(leases)
                .where(leases.c.policy == self.policy, leases.c.fence == self.fence)
                .values(expires_at=0.0)
            )

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Renew the lease in the background for as long as the block runs (or until it is lost)."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._ttl / 3):
                with contextlib.suppress(sa.exc.DBAPIError):
                    try:
                        self.renew()
                    except LeaseLost:
                        return

        thread = threading.Thread(target=beat, name=f"lease-{self.policy}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def acquire(engine: sa.Engine, policy: str, who: str, *, wait: float = WAIT_SECONDS, ttl: float = TTL_SECONDS) -> Lease:
    """Take the lease on a policy, waiting at most `wait` seconds for its holder. Raises LeaseHeld naming the holder.

    `who` is the person or task; host and process are added to it. A lease not renewed for `ttl` seconds is free.
    """
    holder = f"{who} ({socket.gethostname()}:{os.getpid()}, {secrets.token_hex(4)})"
    deadline = time.monotonic() + wait
    while True:
        fence = _try(engine, policy, holder, ttl)
        if fence is not None:
            return Lease(engine, policy, holder, fence, ttl)
        if time.monotonic() >= deadline:
            with engine.connect() as connection:
                row = connection.execute(sa.select(leases).where(leases.c.policy == policy)).one()
            raise LeaseHeld(
                f"{policy} is being changed by {row.holder}, whose lease ends in "
                f"{max(0.0, row.expires_at - time.time()):.0f} s unless renewed; try again then"
            )
        time.sleep(_RETRY_SECONDS)


@contextlib.contextmanager
def held(
    engine: sa.Engine, policy: str, who: str, *, wait: float = WAIT_SECONDS, ttl: float = TTL_SECONDS
) -> Iterator[Lease]:
    """Hold the lease on a policy for a block; see `acquire`."""
    lease = acquire(engine, policy, who, wait=wait, ttl=ttl)
    try:
        yield lease
    finally:
        lease.release()


def _try(engine: sa.Engine, policy: str, holder: str, ttl: float) -> int | None:
    """The fence if the lease is ours now. One statement decides, so two that race cannot both win."""
    now = time.time()
    with engine.begin() as connection:
        taken = connection.execute(
            sa.update(leases)
            .where(leases.c.policy == policy, leases.c.expires_at <= now)
            .values(holder=holder, fence=leases.c.fence + 1, expires_at=now + ttl)
        )
        if taken.rowcount == 1:
            return int(connection.execute(sa.select(leases.c.fence).where(leases.c.policy == policy)).scalar_one())
        if connection.execute(sa.select(leases.c.fence).where(leases.c.policy == policy)).first():
            return None
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(leases).values(policy=policy, holder=holder, fence=1, expires_at=now + ttl))
    except sa.exc.IntegrityError:
        return None
    return 1
