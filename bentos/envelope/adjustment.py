"""The envelope: the actions that may leave the gateway, given what was observed.

Continuous actions are held to a box (bounds, acceleration limit, rate limit) and to linear constraints in it, actions
that are choices to their range, to the request's mask and to the spec's rules. Reason codes say what a row broke.
"""

from __future__ import annotations

BOUNDS = "bounds"
RATE_LIMIT = "rate_limit"
ACCELERATION_LIMIT = "acceleration_limit"
CONSTRAINT = "constraint"
INFEASIBLE = "infeasible"
"""The limits contradict each other for this observation: what left the gateway is the least that was possible."""
ACTION_MASK = "action_mask"
MASK_RULE = "mask_rule"
