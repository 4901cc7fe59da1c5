"""The quantization gate: from what was measured of a variant to accepted or rejected, and why. It measures nothing.

Two stages of a release feed it: `quantize` knows how a variant acts (`judge_behaviour`), `benchmark` what it gains
(`judge_gain`); `select` has the last word and accepts what passed both.
"""

from __future__ import annotations

from dataclasses import dataclass

MINIMUM_AGREEMENT = 0.995
"""Of discrete actions, each weighted by fp32's margin."""
MAXIMUM_P99_ERROR, MAXIMUM_ERROR = 0.01, 0.1
"""Of continuous actions, as shares of the span."""
MAXIMUM_COST = 0.9
"""A gain in time is one where the variant takes at most this share of fp32's time."""
MAXIMUM_SIZE, MINIMUM_SAVED_BYTES = 0.5, 1_000_000
"""A gain in size is one where the file is at most this share of fp32's, and at least so much smaller."""
MAXIMUM_COST_FOR_SIZE = 1.1
"""A smaller file is no gain where the variant takes more than this share of fp32's time."""


@dataclass(frozen=True)
class Verdict:
    """Whether a variant passed, and the reason in words, also of a pass."""

    accepted: bool
    reason: str


@dataclass(frozen=True)
class ActionDifference:
    """Actions of a variant beside fp32's on the same rows.

    Whole numbers: `agreement` is the share of equal actions, `weighted_agreement` weighs each by fp32's margin between
    its best action and the runner-up. Continuous (`discrete` false): errors are shares of the action's span.
    """

    discrete: bool
    rows: int
    agreement: float
    weighted_agreement: float
    max_error: float
    p99_error: float


@dataclass(frozen=True)
class ReturnDifference:
    """Return of the variant minus that of fp32 on the same seeds: mean and its 95 % bootstrap interval."""

    episodes: int
    mean: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Behaviour:
    """How a variant acts beside fp32.

    `returns` is None where none were measured; `unmeasured` then says why. `batch_invariant`: its actions are
    the same at batch 1, 7 and 64. `flags_kept`: it flags every row as not finite that fp32 flags, and of usual rows
    the same.
    """

    actions: ActionDifference
    returns: ReturnDifference | None
    batch_invariant: bool
    flags_kept: bool
    unmeasured: str = ""


@dataclass(frozen=True)
class Gain:
    """What a variant gains at the served batch size: its time as a share of fp32's, with an interval, and its size."""

    batch_size: int
    relative_cost: float
    lower: float
    upper: float
    size_bytes: int
    fp32_size_bytes: int


def judge_behaviour(behaviour: Behaviour, tolerated_loss: float) -> Verdict:
    """Whether a variant acts, flags, batches and returns like fp32. `tolerated_loss` is in return units."""
    actions, returns = behaviour.actions, behaviour.returns
    reasons = [*unlike(actions)]
    if not behaviour.flags_kept:
        reasons.append("it takes for finite what fp32 flags as not finite, or the other way round")
    if not behaviour.batch_invariant:
        reasons.append("its action depends on which other observations share the batch")
    if returns is None:
        reasons.append(f"its return was not measured: {behaviour.unmeasured}")
    elif not returns.lower >= -tolerated_loss:
        reasons.append(
            f"its return differs by {returns.mean:+.2f} [{returns.lower:.2f}, {returns.upper:.2f}], "
            f"which does not exclude a loss of more than {tolerated_loss:g}"
        )
    if reasons or returns is None:
        return Verdict(False, "; ".join(reasons))
    return Verdict(
        True,
        f"acts like fp32 ({_alike(actions)}), return {returns.mean:+.2f} [{returns.lower:.2f}, {returns.upper:.2f}], "
        "the same at every batch size",
    )


def unlike(actions: ActionDifference) -> list[str]:
    """In what the actions are not like enough to fp32's; nothing where they are."""
    if actions.discrete:
        if actions.weighted_agreement >= MINIMUM_AGREEMENT:
            return []
        return [
            f"agrees with fp32 on {actions.weighted_agreement:.2%} of actions weighted by their margin "
            f"({actions.agreement:.2%} unweighted), {MINIMUM_AGREEMENT:.1%} is asked"
        ]
    reasons = []
    for name, error, most in (
        ("99th percentile of its action error", actions.p99_error, MAXIMUM_P99_ERROR),
        ("largest action error", actions.max_error, MAXIMUM_ERROR),
    ):
        if not error <= most:
            reasons.append(f"{name} is {error:.2%} of the span, {most:.0%} is allowed")
    return reasons


def _alike(actions: ActionDifference) -> str:
    if actions.discrete:
        return f"{actions.weighted_agreement:.2%} equal weighted by margin, {actions.agreement:.2%} unweighted"
    return f"error p99 {actions.p99_error:.1e}, at most {actions.max_error:.1e} of the span"


def judge_gain(gain: Gain) -> Verdict:
    """Whether a variant is worth having: surely faster at the served batch size, or much smaller and not slower."""
    measured = (
        f"{gain.relative_cost:.2f} [{gain.lower:.2f}, {gain.upper:.2f}] times fp32's time at batch {gain.batch_size}"
    )
    share, saved = gain.size_bytes / gain.fp32_size_bytes, gain.fp32_size_bytes - gain.size_bytes
    size = f"{share:.0%} of its size"
    if gain.upper <= MAXIMUM_COST:
        return Verdict(True, f"takes {measured}, {size}")
    if share <= MAXIMUM_SIZE and saved >= MINIMUM_SAVED_BYTES and gain.upper <= MAXIMUM_COST_FOR_SIZE:
        return Verdict(True, f"saves {saved / 1e6:.1f} MB ({size}) and takes {measured}")
    return Verdict(False, f"gains nothing: takes {measured}, {size}")


def judge(behaviour: Verdict, gain: Verdict) -> Verdict:
    """Accepted where both are; each that is not gives its reason."""
    verdicts = (behaviour, gain)
    if all(verdict.accepted for verdict in verdicts):
        return Verdict(True, "; ".join(verdict.reason for verdict in verdicts))
    return Verdict(False, "; ".join(verdict.reason for verdict in verdicts if not verdict.accepted))
