"""The envelope: the actions that may leave the gateway, given what was observed.

Continuous actions are held to a box (bounds, acceleration limit, rate limit) and to linear constraints in it, actions
that are choices to their range, to the request's mask and to the spec's rules. Reason codes say what a row broke. May
import `package`; neither `telemetry` nor `store`.
"""

from __future__ import annotations

from bentos.envelope.continuous import Box
from bentos.envelope.discrete import Choices
from bentos.package.manifest import Array, PackageError, Space
from bentos.package.safety import Safety


def build(space: Space, safety: Safety, observations: Space | None, fallback: Array | None) -> Box | Choices:
    """The limits of `safety` for actions of `space`, raw observations of `observations` and the constant `fallback`.

    Raises PackageError for limits that do not fit them: a policy must not be served without.
    """
    if space.type != "Box":
        return Choices(space, safety, observations, fallback)
    if safety.action_mask:
        raise PackageError("safety.action_mask: Box actions cannot be masked; use bounds or constraints")
    return Box(space, safety, observations, fallback)
