"""What an exploring policy does, drawn for its baseline: served actions are compared with these, not with its best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bentos.package.distributions import distribution_of
from bentos.package.manifest import PackageError
from tasks.build.export.graph import decider
from tasks.errors import Misconfigured
from tasks.inputs import Array, Inputs, in_batches

if TYPE_CHECKING:
    from tasks.build.export.formats import Exported

_ROWS = 256


def explored(graph: Path, exported: Exported, given: Inputs) -> Array:
    """One action [n, ...] drawn for each of the `given` rows; the same rows and graph always give the same.

    Raises Misconfigured for a policy that cannot explore.
    """
    try:
        distribution = distribution_of(exported.distribution, exported.action_space, exported.outputs)
    except PackageError as error:
        raise Misconfigured(str(error)) from error
    found = in_batches(decider(graph), given, _ROWS)
    parameters = [found[name] for name in distribution.outputs]
    return distribution.draw(parameters, None, np.random.default_rng(0))[0]
