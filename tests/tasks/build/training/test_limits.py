"""A safety section that does not fit the environment is found before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from gymnasium import spaces

from tasks.build.training.environments import check_limits
from tasks.build.training.train import build_model
from tasks.errors import Misconfigured
from tasks.spec.sections import PolicySpec
from tests.tasks.spec.test_sections import changed

SEEN = spaces.Box(-1.0, 1.0, (3,))


@pytest.mark.parametrize(
    ("actions", "safety", "said"),
    [
        (spaces.Discrete(2), {"rate_limit": 0.5}, "rate_limit: for Box actions"),
        (spaces.Discrete(2), {"constraints": [{"action": [1], "bound": 1}]}, "constraints: for Box actions"),
        (spaces.Box(-1.0, 1.0, (2,)), {"constraints": [{"action": [1], "bound": 1}]}, "expected 2 coefficients"),
        (
            spaces.Box(-1.0, 1.0, (2,)),
            {"action_mask": [{"when": {"index": 0, "above": 1}, "forbid": [1]}]},
            "cannot be masked",
        ),
        (
            spaces.Box(-1.0, 1.0, (2,)),
            {"acceleration_limit": {"maximum": 1, "dt": 0.1, "state_index": 3}},
            "indices of observation from 0 to 2, came",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_what_was_expected(
    actions: spaces.Space[Any], safety: dict[str, Any], said: str
) -> None:
    with pytest.raises(Misconfigured, match=said):
        check_limits(PolicySpec.model_validate(changed(safety=safety)), SEEN, actions)


def test_what_fits_passes() -> None:
    safety = {"rate_limit": [0.5, 1], "constraints": [{"action": [1, 1], "observation": {2: 1}, "bound": 1}]}
    check_limits(PolicySpec.model_validate(changed(safety=safety)), SEEN, spaces.Box(-1.0, 1.0, (2,)))


def test_nothing_is_trained_under_limits_that_do_not_fit() -> None:
    with pytest.raises(Misconfigured, match="does not fit CartPole-v1"):
        build_model(PolicySpec.model_validate(changed(safety={"rate_limit": 0.5})))
