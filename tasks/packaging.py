"""How a policy package is to be served and judged: from its policy spec, or by defaults where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from bentos import package

if TYPE_CHECKING:
    from tasks.spec import PolicySpec


@dataclass(frozen=True)
class Packaging:
    """What a manifest says beside what was measured: whose package it is, how it is served and how outcomes are read.

    `environment` is what the manifest says of it: an id (null where it is not known), its keyword arguments, and notes.
    """

    name: str
    environment: Mapping[str, Any]
    serve: package.Serve = field(default_factory=package.Serve)
    safety: package.Safety = field(default_factory=package.Safety)
    outcomes: package.Outcomes = field(default_factory=package.Outcomes)

    @classmethod
    def of(cls, spec: PolicySpec) -> Packaging:
        """A release's packaging, as its spec asks for it. An episode given up scores the low end, unless the spec says
        otherwise."""
        canary = spec.canary
        low_end = canary.bounds[0] if canary.bounds else None
        return cls(
            name=spec.name,
            environment=spec.environment.model_dump(mode="json"),
            serve=package.Serve(**spec.serve.model_dump(mode="json", exclude_none=True)),
            safety=msgspec.convert(spec.safety.model_dump(mode="json"), package.Safety),
            outcomes=package.Outcomes(
                return_range=canary.return_range,
                abandoned_return=low_end if canary.abandoned_return is None else canary.abandoned_return,
                episode_ttl_seconds=canary.episode_ttl_seconds,
            ),
        )
