"""Requests that no client should send: each must be refused as the client's fault, and harm nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos.package.action_masks import Masks
from bentos.package.interface import MASK, observation_parts
from bentos.package.manifest import Array, Manifest, Space
from tasks.inputs import Inputs, only_observations, size, take

HUGE = 17 * 1024 * 1024
DEPTH = 100_000
FAR = 1e6


@dataclass(frozen=True)
class BadRequest:
    """One request and why it is bad. `path` is below the gateway's URL."""

    name: str
    path: str
    body: bytes
    method: str = "POST"
    content_type: str = "application/json"


def bad_requests(manifest: Manifest, observation: Any, stateful: bool) -> Iterator[BadRequest]:
    """Bad requests for a policy; `observation` is a good one, as JSON carries it.

    Only a `stateful` policy reads the client's state, so only there a forged one is bad.
    """
    policy, good = manifest.name, observation
    act = f"/v1/policies/{policy}/act"
    text = json.dumps(good)

    bodies = _bodies(good) | _spoilt(manifest.observation_space, good) | _masks(manifest, good)
    for name, body in bodies.items():
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


def _spoilt(space: Space, good: Any) -> dict[str, Any]:
    """Observations that no space of this kind holds."""
    if space.type == "Dict":
        parts = dict(space.spaces or {})
        first = next(iter(parts))
        bodies = {
            f"an object without {first!r}": {"observation": {key: good[key] for key in parts if key != first}},
            f"{first!r} of null": {"observation": {**good, first: None}},
            f"{first!r} of text": {"observation": {**good, first: "up"}},
            "the parts as a list": {"observation": list(good.values())},
        }
        for key, part in parts.items():
            spoilt = _spoilt(part, good[key])
            bodies |= {
                f"{name} in {key!r}": {"observation": {**good, key: body["observation"]}}
                for name, body in spoilt.items()
            }
        return bodies
    if space.type in ("Discrete", "MultiDiscrete", "MultiBinary"):
        most = {"Discrete": space.start + (space.n or 0), "MultiBinary": 2}.get(space.type, max(space.nvec or (0,)))
        wrong = {"a number out of range": most, "a number below range": space.start - 1, "a fraction": 0.5}
        return {name: {"observation": _filled(good, number)} for name, number in wrong.items()}
    return {}


def _filled(good: Any, number: float) -> Any:
    return [_filled(one, number) for one in good] if isinstance(good, list) else number


def _masks(manifest: Manifest, good: Any) -> dict[str, Any]:
    width = Masks(manifest.action_space).width
    if not width:
        return {"a mask for actions that have none": {"observation": good, "action_mask": [True]}}
    return {
        "a mask that allows nothing": {"observation": good, "action_mask": [False] * width},
        "a mask too short": {"observation": good, "action_mask": [True] * (width - 1)},
        "a mask too long": {"observation": good, "action_mask": [True] * (width + 1)},
        "a mask of text": {"observation": good, "action_mask": ["yes"] * width},
        "a mask that is an object": {"observation": good, "action_mask": {"0": True}},
        "fewer masks than observations": {"observations": [good, good], "action_masks": [[True] * width]},
    }


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


def extreme_questions(given: Inputs, manifest: Manifest, n: int, seed: int = 0) -> Inputs:
    """`n` valid but unlikely rows: real observations, noisy ones, zeros, the space's corners, huge values.

    Those of Discrete spaces are real ones drawn again. Where actions can be masked, every row has a mask at random.
    """
    random = np.random.default_rng(seed)
    drawn = take(only_observations(given), random.integers(0, size(given), n))
    spaces = observation_parts(manifest.observation_space)
    found = {
        name: _extreme(value, spaces[name], given[name], random) if spaces[name].type == "Box" else value
        for name, value in drawn.items()
    }
    masks = Masks(manifest.action_space)
    return found | ({MASK: _random_masks(masks, n, random)} if masks.width else {})


def _extreme(drawn: Array, space: Space, given: Array, random: np.random.Generator) -> Array:
    low, high = space.bounds()
    if drawn.dtype.kind != "f":
        return _extreme_whole(drawn, low, high, random)
    found = drawn.astype(np.float64)
    kind = random.integers(0, 5, len(drawn))
    spread = given.std(axis=0, dtype=np.float64) + 1e-6
    found[kind == 1] += 5 * spread * random.standard_normal(found[kind == 1].shape)
    found[kind == 2] = 0.0
    corners = np.where(random.random(found.shape) < 0.5, np.maximum(low, -FAR), np.minimum(high, FAR))
    found[kind == 3] = corners[kind == 3]
    factors = 10.0 ** random.uniform(1, 6, found[kind == 4].shape)
    found[kind == 4] *= factors
    return np.clip(found, -FAR, FAR).astype(drawn.dtype)


def _extreme_whole(drawn: Array, low: Array, high: Array, random: np.random.Generator) -> Array:
    """Images and the like: real ones, noise, all at the lowest, all at the highest value."""
    found = drawn.copy()
    kind = random.integers(0, 4, len(drawn))
    least, most = np.maximum(low, -FAR).astype(np.int64), np.minimum(high, FAR).astype(np.int64)
    found[kind == 1] = random.integers(least, most + 1, found[kind == 1].shape)
    found[kind == 2], found[kind == 3] = least, most
    return found


def _random_masks(masks: Masks, n: int, random: np.random.Generator) -> Array:
    """Masks [n, width] that forbid about half of the actions, and never all of a dimension."""
    found = random.random((n, masks.width)) < 0.5
    for start, width in zip(masks.starts, masks.widths, strict=True):
        found[np.arange(n), start + random.integers(0, width, n)] = True
    return found
