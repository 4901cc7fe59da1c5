"""Explore: infers as `Infer` does, and draws the action from the policy's distribution."""

from __future__ import annotations

import os

import numpy as np

from bentos.package.distributions import Categorical, distribution_of
from bentos.package.interface import NEXT
from bentos.package.session import Policy
from bentos.rows import POLICY, Array, Decision, Rows
from bentos.runners.infer import Infer


def wanted(asked: bool) -> bool:
    """Whether a policy that is `asked` to explore does so on this gateway: `$AIRLOCK_EXPLORE=0` serves it without."""
    return asked and os.environ.get("AIRLOCK_EXPLORE", "1") != "0"


class Explore(Infer):
    """Stochastic actions with their log-probability, for a policy whose spec says `serve.explore`.

    Thread-safe: a call draws once from each kind of noise it needs, and numpy's generators lock themselves for that.
    """

    def __init__(self, policy: Policy, version: str, random: np.random.Generator | None = None) -> None:
        """`random` is seeded by the operating system unless it is given. Raises PackageError for a policy that has no
        distribution."""
        super().__init__(policy, version)
        manifest = policy.manifest
        self._distribution = distribution_of(manifest.distribution, manifest.action_space, manifest.outputs)
        self._random = random or np.random.default_rng()
        self._ranks = isinstance(self._distribution, Categorical)
        self._asked = ["finite", *self._distribution.outputs, *(f"{NEXT}{name}" for name in self.recurrent)]

    def _run(self, rows: Rows) -> Decision:
        """Actions drawn, none of them forbidden by the rows' masks. Raises whatever ONNX Runtime raises.

        A row whose parameters give no probability counts as not finite.
        """
        values = self._session.run(self._asked, rows.feeds)
        width = 1 + len(self._distribution.outputs)
        parameters = values[1:width]
        action, log_prob = self._distribution.draw(parameters, rows.masks, self._random)
        recurrent: dict[str, Array] | None = None
        if self.recurrent:
            recurrent = dict(zip(self.recurrent, values[width:], strict=True))
        return Decision(
            action=action,
            finite=np.reshape(values[0], -1) & np.isfinite(log_prob),
            sources=[POLICY] * rows.size,
            versions=[self.version] * rows.size,
            scores=parameters[0] if self._ranks else None,
            recurrent=recurrent,
            log_prob=log_prob,
        )
