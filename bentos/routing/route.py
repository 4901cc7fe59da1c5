"""Routes: for one policy, an immutable picture of which version answers whom."""

from __future__ import annotations

from typing import Any, NamedTuple

from bentos.canary import Canary
from bentos.errors import Problem
from bentos.routing.version import Version
from bentos.telemetry.counters import SHADOW
from bentos.tokens import CHALLENGER, CHAMPION, CONTROL, Episode

_REMEMBERED = 1000
"""Most seats kept: episodes of old generations may name any number."""


class Seat(NamedTuple):
    """Where rows go: whose chain decides, and what they are counted as. `rescue`: straight to that chain's fallback."""

    chain: Version
    version: str
    arm: str
    generation: str
    rescue: bool


def _in_order(version: str) -> tuple[int, str]:
    """Sorts the registry's numbers as numbers."""
    return (int(version) if version.isdecimal() else 0, version)


def no_version(policy: str) -> Problem:
    """The problem of a policy that nothing can answer for."""
    detail = f"no version of policy {policy!r} is routed; see GET /v1/policies/{policy} for why"
    return Problem(503, "no_version", detail, retry_after=1)


class Route:
    """One policy's route. `champion` is None on a first release; `canary` is None when none runs or it is not routable.

    `versions` are all loaded ones, drained ones too. `withdrawn` versions must not decide any more (a safety rollback,
    an open challenger breaker): their running episodes are answered by the champion. `provider` is the version whose
    spec's fallback answers where nobody else does. `shown` is the versions' state for people.
    """

    def __init__(
        self,
        policy: str,
        *,
        champion: Version | None,
        previous: str | None,
        canary: Canary | None,
        versions: dict[str, Version],
        withdrawn: frozenset[str],
        provider: Version | None,
        shown: dict[str, dict[str, Any]],
    ) -> None:
        self.policy = policy
        self.champion = champion
        self.previous = previous
        self.canary = canary
        self.versions = versions
        self.withdrawn = withdrawn
        self.provider = champion or provider
        self.shown = shown
        self.manifest = self.provider.manifest if self.provider else None
        self.seats: dict[tuple[str, str, str], Seat] = {}
        """Seats asked for before, by version, arm and generation. Not for changing."""
        self._outside: Seat | None = None
        if champion is not None:
            self._outside = Seat(champion, champion.name, CHAMPION, "", False)
        elif provider is not None:
            self._outside = Seat(provider, "", CHAMPION, "", True)

    @property
    def experiment(self) -> Canary | None:
        """The canary, if new units may join it now."""
        if self.canary is None or self.canary.weight <= 0 or self.canary.version in self.withdrawn:
            return None
        return self.canary

    @property
    def shadowed(self) -> Seat | None:
        """Where the challenger sits in shadow: while it serves nobody yet, or to have its open breaker probed."""
        challenger = self.versions.get(self.canary.version) if self.canary else None
        if self.canary is None or challenger is None:
            return None
        withdrawn = challenger.name in self.withdrawn
        if challenger.breaker.open if withdrawn else self.canary.weight <= 0:
            return Seat(challenger, challenger.name, SHADOW, self.canary.generation, False)
        return None

    @property
    def outside(self) -> Seat:
        """The seat of what belongs to no experiment. Raises Problem (503) when nothing can answer."""
        if self._outside is None:
            raise no_version(self.policy)
        return self._outside

    @property
    def answering(self) -> list[str]:
        """The versions that may be asked for by name: those loaded, but for one in shadow, and not withdrawn."""
        shadowed = self.shadowed
        hidden = self.withdrawn if shadowed is None else {*self.withdrawn, shadowed.version}
        return sorted((name for name in self.versions if name not in hidden), key=_in_order)

    def seat_of_version(self, version: str) -> Seat:
        """The seat of a request that names its version: that version's own chain, outside the experiment.

        Raises Problem (404) for a version that cannot be asked by name.
        """
        if version not in self.answering:
            detail = f"policy {self.policy!r} has no version {version!r} that can be asked"
            raise Problem(404, "version", detail, expected=self.answering)
        return Seat(self.versions[version], version, CHAMPION, "", False)

    def seat_of_unit(self, unit: str) -> Seat:
        """The seat of a unit (a user, or a new episode). Raises Problem (503) when nothing can answer."""
        canary = self.experiment
        if canary is None:
            return self.outside
        arm = canary.arm(unit)
        if arm == CHALLENGER:
            return self._seat(canary.version, arm, canary.generation)
        if arm == CONTROL and self.champion is not None:
            return self._seat(self.champion.name, arm, canary.generation)
        return self.outside

    def seat_of_episode(self, episode: Episode) -> Seat:
        """The seat of a running episode: its own version for as long as that is loaded and trusted.

        One that began without a version, when only the fallback could answer, has the champion's once there is one.
        Raises Problem (503) when nothing can answer.
        """
        return self.outside if not episode.version else self._seat(episode.version, episode.arm, episode.generation)

    def _seat(self, version: str, arm: str, generation: str) -> Seat:
        """One seat for all that are alike: rows are told apart by it."""
        key = (version, arm, generation)
        seat = self.seats.get(key)
        if seat is None:
            own = self.versions.get(version)
            chain = own or self.champion or self.provider
            if chain is None:
                raise no_version(self.policy)
            rescue = version in self.withdrawn or (own is None and self.champion is None)
            seat = Seat(chain, version, arm, generation, rescue)
            if len(self.seats) < _REMEMBERED:
                self.seats[key] = seat
        return seat
