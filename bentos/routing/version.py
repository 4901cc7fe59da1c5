"""A loaded version: the policy package with its chain of runners around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bentos.package import hooks
from bentos.package.loader import Unopened, load
from bentos.package.manifest import Manifest, PackageError, Space
from bentos.package.session import Policy
from bentos.rows import Array
from bentos.runners import Runner, explore
from bentos.runners.batch import Batch
from bentos.runners.breaker import Breaker
from bentos.runners.constrain import Constrain
from bentos.runners.fallback import Constant, Fallback
from bentos.runners.hook import Hooked
from bentos.runners.infer import Infer
from bentos.runners.override import Override
from bentos.runners.record import Record
from bentos.runners.recurrent import Remember
from bentos.runners.shadow import Shadow
from bentos.runners.warmup import Pace, warm_up
from bentos.store.journal import Journal
from bentos.store.overrides import Overrides
from bentos.telemetry.counters import ActionLabels, Stats
from bentos.telemetry.drift import Drift

_FALLBACK = "fallback"
"""Who a fallback package's recurrent state belongs to."""


class Version:
    """One version of one policy, ready to decide: record(constrain(override(fallback(remember(batch(infer))))))."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        package_sha256: str,
        *,
        stats: Stats,
        overrides: Overrides,
        champion: Callable[[], Version | None],
        opened: Callable[[Version, str], None],
        journal: Journal | None = None,
    ) -> None:
        """Load what the chain needs and warm it up: takes a moment, call it off the event loop.

        `champion` names the policy's champion at the time of a decision; `opened` hears of an opened breaker; `journal`
        keeps what is to be kept of decisions. Raises PackageError when the package asks for what this gateway cannot
        do: it must not be served with less.
        """
        manifest = policy.manifest
        self.name = name
        self.package_sha256 = package_sha256
        self.manifest = manifest
        self.breaker = Breaker(manifest.serve.max_errors, lambda reason: opened(self, reason))
        self.explores = explore.wanted(manifest.serve.explore)
        self.infer = explore.Explore(policy, name) if self.explores else Infer(policy, name)
        self.unopened = isinstance(policy, Unopened)
        pace = Pace(0, 1) if self.unopened else warm_up(self.infer, manifest)
        self.batch = Batch(
            self.infer,
            batch_size=manifest.serve.batch_size,
            deadline=manifest.serve.deadline_ms / 1000,
            max_wait=manifest.serve.max_wait_ms / 1000,
            inline_rows=0 if manifest.serve.max_wait_ms else pace.inline_rows,
            in_flight=pace.in_flight,
            name=f"{manifest.name}-{name}",
        )
        self.fallback = Fallback(
            Remember(self.batch, manifest, name) if Remember.needed(manifest) else self.batch,
            policy=manifest.name,
            version=name,
            breaker=self.breaker,
            champion=lambda: _guard(champion()),
            last=_last_resort(manifest),
        )
        hook = hooks.load(manifest)
        self.hooked = None if hook is None else Hooked(self.fallback, hook, manifest, name)
        override = Override(self.hooked or self.fallback, manifest.name, overrides)
        self.constrain = Constrain.of(override, manifest)
        self.drift = Drift(manifest)
        page = None if journal is None else journal.page(manifest)
        self.record = Record(self.constrain, manifest.name, ActionLabels(manifest), stats, self.drift, page)
        self.decide = self.record.decide
        """An action for every row, through the whole chain."""
        self.shadow = Shadow(name, self.infer, manifest, self.breaker, stats)
        self.stateful = manifest.safety.rate_limit is not None or bool(self.infer.recurrent)

    @property
    def remarks(self) -> dict[str, str]:
        """What a person should know of the version: what is not done for it, and why."""
        return {} if self.drift.off is None else {"drift": f"off: {self.drift.off}"}

    def close(self) -> None:
        """Release the version's threads."""
        self.batch.close()
        if self.hooked is not None:
            self.hooked.close()
        self.shadow.close()


def _guard(version: Version | None) -> Fallback | None:
    return None if version is None else version.fallback


def _last_resort(manifest: Manifest) -> Runner | None:
    given = manifest.serve.fallback or {}
    if "constant" in given:
        return Constant(as_action(given["constant"], manifest.action_space))
    if "package" in given:
        policy = load(Path(given["package"]), provider=None)
        if not same_questions(policy.manifest, manifest):
            raise PackageError(f"the fallback {given['package']} has other observations or actions than the policy")
        infer = Infer(policy, _FALLBACK)
        return Remember(infer, policy.manifest, _FALLBACK) if Remember.needed(policy.manifest) else infer
    return None


def same_questions(one: Manifest, other: Manifest) -> bool:
    """Whether two packages can be asked the same: their observations and actions are alike, masks and state aside."""
    return one.observation_space == other.observation_space and one.action_space == other.action_space


def as_action(value: object, space: Space) -> Array:
    """`value` as one action of `space`. Raises PackageError that says what was expected and what came."""
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise PackageError(f"not an action: {error}") from error
    whole = space.type != "Box" or np.dtype(space.dtype).kind != "f"
    if given.dtype.kind not in ("iu" if whole else "iuf"):
        raise PackageError(f"expected {'whole numbers' if whole else 'numbers'}, came {value!r}")
    if given.shape != space.shape:
        raise PackageError(f"expected an action of shape {list(space.shape)}, came {list(given.shape)}")
    if not np.isfinite(given).all():
        raise PackageError(f"expected finite numbers, came {value!r}")
    lowest, count = space.start, {"Discrete": space.n, "MultiDiscrete": space.nvec, "MultiBinary": 2}.get(space.type)
    if count is not None and not ((given >= lowest) & (given < lowest + np.asarray(count))).all():
        raise PackageError(f"expected actions from {lowest}, below {lowest} + {count}, came {value!r}")
    return given.astype(space.dtype)
