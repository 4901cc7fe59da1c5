"""Requests that no client should send: each must be refused as the client's fault, and harm nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HUGE = 17 * 1024 * 1024
DEPTH = 100_000


@dataclass(frozen=True)
class BadRequest:
    """One request and why it is bad. `path` is below the gateway's URL."""

    name: str
    path: str
    body: bytes
    method: str = "POST"
    content_type: str = "application/json"


def bad_requests(policy: str, observation: npt.NDArray[Any], stateful: bool) -> Iterator[BadRequest]:
    """Bad requests for a policy whose observations look like `observation` (one, shape [*shape]).

    Only a `stateful` policy reads the client's state, so only there a forged one is bad.
    """
    act = f"/v1/policies/{policy}/act"
    good = observation.tolist()
    text = json.dumps(good)

    for name, body in _bodies(good).items():
        yield BadRequest(name, act, json.dumps(body).encode())
    for name, raw in _raw(text).items():
        yield BadRequest(name, act, raw)
    yield BadRequest(
        "an unknown policy", f"/v1/policies/{policy}-unknown/act", json.dumps({"observation": good}).encode()
    )
    yield BadRequest("an unknown path", f"/v1/policies/{policy}/nothing", b"{}")
    yield BadRequest("the wrong method", act, b"", method="DELETE")
    if stateful:
        yield BadRequest("a forged state", act, json.dumps({"observation": good, "state": "forged"}).encode())
    outcomes = f"/v1/policies/{policy}/outcomes"
    yield BadRequest(
        "an outcome of a forged episode", outcomes, b'{"episode_id": "forged", "return": 1.0, "length": 1}'
    )
    yield BadRequest("an outcome without an episode", outcomes, b'{"return": 1.0, "length": 1}')
    yield BadRequest("a return that is text", outcomes, b'{"episode_id": "forged", "return": "many", "length": 1}')
    yield BadRequest("a user that is a number", f"/v1/policies/{policy}/episodes", b'{"user_id": 7}')


def _bodies(good: Any) -> dict[str, Any]:
    bodies: dict[str, Any] = {
        "no observation": {},
        "an observation of null": {"observation": None},
        "an observation of text": {"observation": "up"},
        "an observation of an object": {"observation": {"x": 1}},
        "an observation nested once more": {"observation": [[good]]},
        "an empty observation": {"observation": []},
        "a body that is a list": [good],
        "a body that is text": "observation",
        "one and many at once": {"observation": good, "observations": [good]},
        "many of different shapes": {"observations": [good, [good]]},
        "many with a null among them": {"observations": [good, None]},
        "more users than observations": {"observations": [good], "user_ids": ["a", "b"]},
        "an episode that is a number": {"observation": good, "episode_id": 7},
        "a forged episode": {"observation": good, "episode_id": "forged.episode"},
        "a user that is an object": {"observation": good, "user_id": {"name": "x"}},
    }
    if isinstance(good, list) and good and not isinstance(good[0], list):
        bodies |= {
            "an element too few": {"observation": good[:-1]},
            "an element too many": {"observation": [*good, 0.0]},
            "a null among numbers": {"observation": [None, *good[1:]]},
            "text among numbers": {"observation": ["0.1", *good[1:]]},
            "a number too large for its type": {"observation": [10**400, *good[1:]]},
        }
    return bodies


def _raw(text: str) -> dict[str, bytes]:
    first, _, rest = text.partition(",")
    start = first.rstrip("-0123456789.e+")
    tail = f",{rest}" if rest else "]" * (len(start) or 0)
    return {
        "an empty body": b"",
        "truncated JSON": f'{{"observation": {text}'[:-2].encode(),
        "bytes that are not text": b"\xff\xfe\x00\x80",
        "NaN": f'{{"observation": {start}NaN{tail}}}'.encode(),
        "Infinity": f'{{"observation": {start}Infinity{tail}}}'.encode(),
        "minus Infinity": f'{{"observation": {start}-Infinity{tail}}}'.encode(),
        "a number past infinity": f'{{"observation": {start}1e999{tail}}}'.encode(),
        "deep nesting": b'{"observation": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        "a huge body": b'{"observation": ' + b" " * HUGE + text.encode() + b"}",
    }


def extreme_observations(
    observations: npt.NDArray[Any], low: npt.NDArray[Any] | None, high: npt.NDArray[Any] | None, n: int, seed: int = 0
) -> npt.NDArray[Any]:
    """`n` valid but unlikely observations [n, ...]: real ones, noisy ones, zeros, the space's corners, huge values.

    `low` and `high` are the space's bounds [*shape] (infinite where there is none), None for spaces of integers, whose
    observations are only drawn again.
    """
    random = np.random.default_rng(seed)
    drawn = observations[random.integers(0, len(observations), n)]
    if low is None or high is None or observations.dtype.kind != "f":
        return drawn
    found = drawn.astype(np.float64)
    kind = random.integers(0, 5, n)
    spread = observations.std(axis=0, dtype=np.float64) + 1e-6
    found[kind == 1] += 5 * spread * random.standard_normal(found[kind == 1].shape)
    found[kind == 2] = 0.0
    bound = 1e6
    corners = np.where(random.random(found.shape) < 0.5, np.maximum(low, -bound), np.minimum(high, bound))
    found[kind == 3] = corners[kind == 3]
    found[kind == 4] *= 10.0 ** random.uniform(1, 6, found[kind == 4].shape)
    return np.clip(found, -bound, bound).astype(observations.dtype)
