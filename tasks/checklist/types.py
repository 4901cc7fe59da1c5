"""What a check found, and a checklist: the one JSON object that logs, forms, MLflow and pages render."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tasks.spec.sections import POST_DEPLOYMENT, PRE_DEPLOYMENT, Mode

Phase = Literal["pre_deployment", "post_deployment"]
Status = Literal["pass", "fail", "skip", "inconclusive"]
Verdict = Literal["pass", "fail"]
SCHEMA_VERSION = 1
PHASES: dict[Phase, tuple[str, ...]] = {"pre_deployment": PRE_DEPLOYMENT, "post_deployment": POST_DEPLOYMENT}


@dataclass(frozen=True)
class Finding:
    """What one check measured. `observed` is held against `threshold`, both in `unit`, over `sample_size` samples.

    `reason` is the sentence a reviewer reads; `evidence` holds the small numbers behind it.
    """

    status: Status
    reason: str
    observed: Any = None
    threshold: Any = None
    unit: str = ""
    sample_size: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """`value` as JSON takes it: NumPy scalars and tuples become Python's, a number that is not finite becomes text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@dataclass(frozen=True)
class Check:
    """A finding with the check's name, how it gates and how long it took (seconds)."""

    id: str
    phase: Phase
    status: Status
    mode: Mode
    observed: Any
    threshold: Any
    unit: str
    sample_size: int
    evidence: dict[str, Any]
    seconds: float
    reason: str

    @staticmethod
    def of(check_id: str, phase: Phase, mode: Mode, finding: Finding, seconds: float) -> Check:
        """A check from its finding, in plain JSON values."""
        found = {name: plain(value) for name, value in vars(finding).items()}
        return Check(check_id, phase, mode=mode, seconds=round(seconds, 3), **found)

    @property
    def blocks(self) -> bool:
        """Whether this check alone keeps the gate shut: an enforced check that did anything but pass."""
        return self.mode == "enforce" and self.status != "pass"


@dataclass(frozen=True)
class Checklist:
    """Every check of one phase for one version, and the gate's verdict. `at` is Unix seconds."""

    policy: str
    version: str
    phase: Phase
    verdict: Verdict
    decided_by: str
    at: float
    checks: tuple[Check, ...]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """The contract's JSON object."""
        document = asdict(self)
        document["checks"] = [asdict(check) for check in self.checks]
        return document

    @staticmethod
    def from_json(document: dict[str, Any]) -> Checklist:
        """The checklist of a JSON object that `to_json` wrote."""
        return replace(
            Checklist(**{**document, "checks": ()}), checks=tuple(Check(**check) for check in document["checks"])
        )
