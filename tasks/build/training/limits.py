"""Whether a policy's environment has what its safety section limits: asked before hours of training, not after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.errors import Misconfigured

if TYPE_CHECKING:
    from gymnasium import Space

    from tasks.spec.sections import PolicySpec


def check_limits(spec: PolicySpec, observations: Space[Any], actions: Space[Any]) -> None:
    """Raise Misconfigured, saying what was expected, where the envelope does not fit an environment's spaces."""
    from bentos.envelope import build
    from bentos.package.manifest import PackageError
    from tasks.build.training.spaces import describe
    from tasks.spec.packaging import Packaging

    try:
        build(describe(actions), Packaging.of(spec).safety, describe(observations), None)
    except PackageError as error:
        raise Misconfigured(f"the spec of {spec.name} does not fit {spec.environment.id}: {error}") from error
