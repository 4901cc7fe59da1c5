"""Baselines: what serving is later compared with, from what the policy met and did before it was released."""

from __future__ import annotations

from typing import Any

import numpy as np

from bentos import package
from tasks.inputs import Array, Inputs, flat

ACTION_BINS = 20


def baselines(space: package.Space, given: Inputs, actions: Array, returns: Array) -> dict[str, Any]:
    """What serving is later compared with: statistics of on-policy observations, actions and returns, as JSON.

    Continuous actions are binned per dimension, 20 bins over the span of the space (of the actions, if unbounded);
    those of MultiDiscrete and MultiBinary spaces one bin a value. Without returns the rows were drawn, not
    met: they are no baseline of anything, and none is given.
    """
    if not len(returns):
        return {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}
    observed = flat(given)
    return {
        "observations": {
            "mean": observed.mean(axis=0).tolist(),
            "std": observed.std(axis=0).tolist(),
            "min": observed.min(axis=0).tolist(),
            "max": observed.max(axis=0).tolist(),
            "count": len(observed),
            "source": "on-policy",
        },
        "actions": _action_baseline(space, actions),
        "returns": {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "count": len(returns)},
    }


def _action_baseline(space: package.Space, actions: Array) -> dict[str, Any]:
    if space.type == "Discrete":
        return {"kind": "discrete", "counts": np.bincount(actions.reshape(-1), minlength=space.n or 0).tolist()}
    values = actions.reshape(len(actions), -1).astype(np.float64)
    if space.type == "Box":
        low, high = (bound.reshape(-1) for bound in space.bounds())
        low = np.where(np.isfinite(low), low, values.min(axis=0))
        high = np.where(np.isfinite(high), high, values.max(axis=0))
        high = np.where(high > low, high, low + 1.0)
        edges = [np.linspace(*ends, ACTION_BINS + 1) for ends in zip(low, high, strict=True)]
    else:
        # one bin a whole number, so that bin k is the action k
        edges = [np.arange(n + 1) - 0.5 for n in space.nvec or (2,) * values.shape[1]]
    counts = [
        np.histogram(np.clip(column, *ends[[0, -1]]), ends)[0] for column, ends in zip(values.T, edges, strict=True)
    ]
    return {"kind": "continuous", "edges": [e.tolist() for e in edges], "counts": [c.tolist() for c in counts]}
