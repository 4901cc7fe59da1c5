"""How a policy package is to be served and judged: from its policy spec, or by defaults where there is none."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from bentos import package
from bentos.package.hooks import HOOKS
from tasks.errors import Misconfigured

if TYPE_CHECKING:
    from tasks.spec.sections import PolicySpec


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
    hook: bytes | None = None
    """The source of the override hook."""

    @classmethod
    def of(cls, spec: PolicySpec) -> Packaging:
        """A release's packaging, as its spec asks for it. An episode given up scores the low end, unless the spec says
        otherwise. Raises Misconfigured where its override hook cannot be read."""
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
            hook=_hook(spec),
        )


def _hook(spec: PolicySpec) -> bytes | None:
    """The file that `serve.override_hook` names, beside the spec. What it does is not tried here: it is not run."""
    from tasks.spec.files import policies_directory

    named = spec.serve.override_hook
    if named is None:
        return None
    module, _, function = named.partition(":")
    path = policies_directory() / HOOKS / f"{module}.py"
    try:
        source = path.read_bytes()
        tree = ast.parse(source, str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise Misconfigured(f"serve.override_hook {named!r}: {path} cannot be read: {error}") from error
    if function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
        raise Misconfigured(f"serve.override_hook {named!r}: {path} defines no function {function!r}")
    return source
