"""The judge of a candidate from the log alone: three estimates of what it would have earned, and one decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from bentos.package.manifest import Space
from tasks.analysis.off_policy import importance_sampling
from tasks.analysis.off_policy.fitted_q import Act, Fitted, Logged, Neighbourhood
from tasks.analysis.off_policy.importance_sampling import Estimate, Floats, Played
from tasks.inputs import Array
from tasks.learning.dataset import Transitions

Requirement = Literal["not_worse", "better"]

LogProb = Callable[[Array, Array], Array]
"""Observations and executed actions to the log-probability of each, float64 [n]."""

FITTED_RESAMPLES = 200

EFFECTIVE = 10.0
"""With fewer effective episodes an estimate by importance does not vote."""

UNREADABLE = 0.05
"""With a larger share of episodes that have a step without a probability, what is left is no fair sample."""

METHODS = 3

NOTHING = 1e-9
"""A gain that is smaller, relative to the value, is rounding."""

ALIKE = "it acts as the champion does: nothing was learned that the log could vouch for"


@dataclass(frozen=True)
class Judged:
    """A policy to be judged: how it acts as it would be served (drawn, if it explores), and how probably.

    `log_prob` is None where it, or the log, has no probabilities.
    """

    act: Act
    log_prob: LogProb | None


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may go on, in words why, and what was estimated."""

    passed: bool
    reason: str
    episodes: int
    transitions: int
    logged_return: float
    effective_episodes: float | None
    estimates: tuple[Estimate, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def judge(
    trained_on: Transitions,
    held_out: Transitions,
    space: Space,
    candidate: Judged,
    champion: Act,
    alpha: float,
    seed: int = 0,
    require: Requirement = "not_worse",
    alike: bool = False,
) -> Verdict:
    """Judge a policy on episodes that it was not trained on; one that acts as the champion does (`alike`) has no use.

    Each method is a two-sided interval at confidence 1 - alpha/3 (Bonferroni); see `decide`.
    """
    counts = importance_sampling.resampled(held_out.episodes, seed)
    logged = held_out.returns
    share = alpha / METHODS
    horizon = int(max(trained_on.lengths.max(), held_out.lengths.max()))
    around = _neighbourhood(held_out, space)
    found = [_fitted(held_out, around, candidate.act, champion, horizon, counts[:FITTED_RESAMPLES], share)]
    effective = None
    if candidate.log_prob is not None:
        played, doubt = _played(held_out, candidate.log_prob)
        effective = played.effective
        if effective < EFFECTIVE:
            doubt = doubt or f"{effective:.1f} effective episodes of {held_out.episodes}; {EFFECTIVE:g} are needed"
        q, v = _modelled(_neighbourhood(trained_on, space), held_out, candidate.act, horizon)
        means = counts @ logged / held_out.episodes
        every = np.ones((1, held_out.episodes))
        both: dict[str, Callable[[Floats], Floats]] = {
            "weighted per-decision importance sampling": lambda given: importance_sampling.per_decision(played, given),
            "weighted doubly robust": lambda given: importance_sampling.doubly_robust(played, q, v, given),
        }
        for method, estimator in both.items():
            value, mean = float(estimator(every)[0]), float(logged.mean())
            found.append(importance_sampling.estimate(method, estimator(counts), value, means, mean, share, doubt))
    passed, reason = (False, ALIKE) if alike else decide(found, require)
    return Verdict(passed, reason, held_out.episodes, len(held_out), float(logged.mean()), effective, tuple(found))


def decide(estimates: list[Estimate], require: Requirement = "not_worse") -> tuple[bool, str]:
    """Whether a candidate with these estimates goes on to a release, and why.

    Only reliable ones vote, and none of them may lie below 0. To be `better`, one must lie above 0; to be `not_worse`
    it is enough that each interval holds a gain, since the release's canary has to show superiority anyway, and the
    sign of an estimate whose interval holds 0 says little.
    """
    voting = [one for one in estimates if one.reliable]
    worse = [one for one in voting if one.upper < 0]
    better = [one for one in voting if one.lower > 0]
    if worse:
        return False, f"{worse[0].method} finds it worse: {_interval(worse[0])}"
    if better:
        return True, f"{better[0].method} finds it better: {_interval(better[0])}"
    said = "; ".join(f"{one.method} {_interval(one)}" for one in voting)
    if voting and require == "not_worse" and all(one.upper > NOTHING * max(1.0, abs(one.value)) for one in voting):
        return True, f"no method finds it worse; that it is better, its canary has to show: {said}"
    if voting:
        return False, f"no method finds it better: {said}"
    return False, "no method can tell: " + "; ".join(f"{one.method}: {one.reason}" for one in estimates)


def _interval(one: Estimate) -> str:
    return f"a gain of {one.gain:.4g} [{one.lower:.4g}, {one.upper:.4g}]"


def _neighbourhood(data: Transitions, space: Space) -> Neighbourhood:
    known = data.rows(data.continued | data.terminated)
    logged = Logged(
        known.observation,
        known.action,
        known.reward,
        known.next_observation,
        known.terminated,
        known.episode,
        data.episodes,
    )
    return Neighbourhood(logged, whole=space.type != "Box")


def worth(data: Transitions, space: Space, act: Act) -> float:
    """What a policy would have earned an episode, by fitted Q evaluation on all of `data`."""
    around, horizon = _neighbourhood(data, space), int(data.lengths.max())
    first = data.observation[data.step == 0]
    every = np.ones((1, data.episodes))
    return float(Fitted(around, act, horizon).values(around.near(first, act(first)), every)[0])


def _fitted(
    data: Transitions,
    around: Neighbourhood,
    act: Act,
    champion: Act,
    horizon: int,
    counts: Floats,
    alpha: float,
) -> Estimate:
    """Fitted Q evaluation of the candidate and of the champion in the same neighbourhood, and their difference.

    What the champion was seen to earn shows how far the method is off: the interval is widened by that on both sides.
    """
    first = data.observation[data.step == 0]
    every = np.ones((1, data.episodes))

    def of(policy: Act) -> tuple[float, Floats]:
        fitted, begun = Fitted(around, policy, horizon), around.near(first, policy(first))
        return float(fitted.values(begun, every)[0]), fitted.values(begun, counts)

    (found, resampled), (usual, others) = of(act), of(champion)
    miss = abs(usual - float(data.returns.mean()))
    lower, upper = np.quantile(resampled - others, [alpha / 2, 1 - alpha / 2])
    return Estimate(
        method="fitted Q evaluation",
        value=found,
        gain=found - usual,
        lower=float(lower) - miss,
        upper=float(upper) + miss,
        confidence=1 - alpha,
        interval=f"percentile bootstrap over episodes, {len(counts)} refits, widened by the {miss:.4g} that the "
        "champion's estimate misses its logged returns by",
        reliable=True,
        reason="",
    )


def _played(data: Transitions, log_prob: LogProb) -> tuple[Played, str]:
    """The episodes with their ratios, 1 where there is no probability, and why they cannot be trusted, if so."""
    ratios = log_prob(data.observation, data.action) - data.log_prob
    readable = np.isfinite(ratios)
    spoiled = len(np.unique(data.episode[~readable]))
    doubt = ""
    if spoiled > UNREADABLE * data.episodes:
        doubt = f"{spoiled} of {data.episodes} episodes have steps whose probability is not known"
    return Played(_padded(data, data.reward), _padded(data, np.where(readable, ratios, 0.0))), doubt


def _padded(data: Transitions, values: Array) -> Floats:
    found = np.zeros((data.episodes, int(data.lengths.max())))
    found[data.episode, data.step] = values
    return found


def _modelled(around: Neighbourhood, data: Transitions, act: Act, horizon: int) -> tuple[Floats, Floats]:
    """q and v of the held-out steps by fitted Q evaluation on the other episodes."""
    targets = Fitted(around, act, horizon).targets()
    left = (horizon - data.step)[:, None]
    found = []
    for action in (data.action, act(data.observation)):
        near = around.near(data.observation, action)
        found.append(_padded(data, (near.weight * targets[left, near.index]).sum(axis=1)))
    return found[0], found[1]
