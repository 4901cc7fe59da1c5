"""Distributions: an action drawn from the parameters that a graph puts out, and how likely it was.

All work on float64 and on whole batches: `draw` takes `parameters`, the graph's outputs named by `outputs`, each
[n, ...], and gives actions [n, ...] as `env.step` takes them and their log-probability, float64 [n]. What is drawn, and
how likely it is called, are Stable-Baselines3's own (`stable_baselines3.common.distributions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bentos.package.action_masks import Masks
from bentos.package.manifest import Array, DistributionName, PackageError, Space, Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_SQUASH_EPSILON = 1e-6
"""What SB3 adds within the logarithm of tanh's slope."""


class Distribution(Protocol):
    """How a policy's actions are drawn."""

    outputs: tuple[str, ...]

    def draw(
        self, parameters: Sequence[Array], masks: Array | None, random: np.random.Generator
    ) -> tuple[Array, Array]:
        """Actions and their log-probabilities; `masks` bool [n, width] says which actions are allowed."""
        ...


class Categorical:
    """Whole numbers: one categorical a dimension, logits side by side. With `binary`, one logit a dimension, of the 1.

    An action that a mask forbids is never drawn; the probability is that among the allowed ones.
    """

    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, space: Space, binary: bool = False) -> None:
        self._space = space
        self._masks = Masks(space)
        self._binary = binary

    def draw(
        self, parameters: Sequence[Array], masks: Array | None, random: np.random.Generator
    ) -> tuple[Array, Array]:
        """By the Gumbel-max trick (Maddison et al. 2014, section 2): the largest of the logits plus Gumbel noise."""
        logits = self._logits(parameters[0])
        if masks is not None:
            logits = np.where(masks, logits, -np.inf)
        noisy = logits + random.gumbel(size=logits.shape)
        starts, widths = self._masks.starts, self._masks.widths
        places = zip(starts.tolist(), widths, strict=True)
        entries = np.stack([at + noisy[:, at : at + width].argmax(axis=1) for at, width in places], axis=1)
        with np.errstate(invalid="ignore"):
            largest = np.maximum.reduceat(logits, starts, axis=1)
            weights = np.exp(logits - np.repeat(largest, widths, axis=1))
            normalizers = largest + np.log(np.add.reduceat(weights, starts, axis=1))
        log_prob = (np.take_along_axis(logits, entries, axis=1) - normalizers).sum(axis=1)
        actions = (entries - starts + self._space.start).astype(self._space.dtype)
        return actions.reshape(len(logits), *self._space.shape), log_prob

    def _logits(self, given: Array) -> Array:
        """One logit an entry, [n, width]. A Bernoulli is a categorical of 0 and 1, with logits 0 and its own."""
        flat = np.asarray(given, dtype=np.float64).reshape(len(given), -1)
        if not self._binary:
            return flat
        both = np.zeros((len(flat), self._masks.width))
        both[:, 1::2] = flat
        return both


class Gaussian:
    """Continuous numbers, each dimension by itself: `mean` and `log_std` [n, d].

    Unsquashed, what is drawn is clipped to the space's bounds, and the log-probability is the density of what was
    drawn, before the clip (as PPO learns from it). `squashed`, tanh takes it into [-1, 1] and it is unscaled to the
    bounds; the log-probability is the density in [-1, 1].
    """

    outputs: tuple[str, ...] = ("mean", "log_std")

    def __init__(self, space: Space, squashed: bool) -> None:
        """Raises PackageError where a squashed policy's space is unbounded."""
        self._space = space
        self._squashed = squashed
        self._dtype = np.dtype(space.dtype)
        self._low, self._high = (bound.astype(self._dtype).reshape(-1) for bound in space.bounds())
        if squashed and not (np.isfinite(self._low) & np.isfinite(self._high)).all():
            raise PackageError("a squashed policy's actions must be bounded")

    def draw(
        self, parameters: Sequence[Array], masks: Array | None, random: np.random.Generator
    ) -> tuple[Array, Array]:
        """`masks` is for whole numbers; there is none here. A deviation that is no number makes its row's NaN."""
        mean, log_std = (np.asarray(one, dtype=np.float64).reshape(len(one), -1) for one in parameters)
        noise = random.standard_normal(mean.shape)
        with np.errstate(all="ignore"):
            drawn = mean + np.exp(log_std) * noise
            log_prob = (-0.5 * noise**2 - log_std - _HALF_LOG_2PI).sum(axis=1)
            if self._squashed:
                # 1 - tanh(x)² is 4e / (1 + e)² with e = exp(-2|x|), which keeps its digits where tanh saturates
                decay = np.exp(-2.0 * np.abs(drawn))
                log_prob -= np.log(4.0 * decay / (1.0 + decay) ** 2 + _SQUASH_EPSILON).sum(axis=1)
                inside = np.tanh(drawn)
                actions = (self._low + 0.5 * (inside + 1.0) * (self._high - self._low)).astype(self._dtype)
            else:
                actions = drawn.astype(self._dtype)
        actions = np.minimum(np.maximum(actions, self._low), self._high)
        return actions.reshape(len(mean), *self._space.shape), log_prob


def distribution_of(name: DistributionName | None, space: Space, outputs: Sequence[Tensor]) -> Distribution:
    """How actions of `space` are drawn from a graph's outputs. Raises PackageError for a policy that cannot explore."""
    size = int(np.prod(space.shape, dtype=np.int64))
    match name:
        case "categorical":
            found: Distribution = Categorical(space)
            size = Masks(space).width
        case "bernoulli":
            found = Categorical(space, binary=True)
        case "gaussian" | "squashed_gaussian":
            found = Gaussian(space, name == "squashed_gaussian")
        case _:
            raise PackageError(
                "serve.explore asks for stochastic actions, but this policy has no distribution to draw them from: "
                "set serve.explore to false, or release a policy of an algorithm that has one"
            )
    shapes = {tensor.name: tensor.shape for tensor in outputs}
    for output in found.outputs:
        came = shapes.get(output)
        if came is None or int(np.prod(came, dtype=np.int64)) != size:
            raise PackageError(
                f"serve.explore: a {name} distribution of {space.type} actions needs the output {output!r} with {size} "
                f"numbers, came {'none' if came is None else list(came)}"
            )
    return found
