"""Validate: shape, dtype, finite, size. Bad input is refused with what was expected, and never reaches a model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bentos.episodes import Episode, Forged, Signer, State, user_hash
from bentos.masks import Masks
from bentos.package import Manifest, Space, Tensor
from bentos.problems import Problem, brief
from bentos.routes import Seat
from bentos.rows import MAX_ROWS, Array, Decision, Rows
from bentos.runners.assign import Assign
from bentos.wire import ActRequest

MAX_NAME = 256


class Answer(NamedTuple):
    """What came of a request: its rows, the decision, and the seat of each row."""

    rows: Rows
    decision: Decision
    seats: list[Seat]


class Validate:
    """Turns a request into rows for a policy's graph, and sends them on."""

    def __init__(self, following: Assign, manifest: Manifest, signer: Signer, stateful: bool) -> None:
        """`stateful`: some version needs what `state` tokens carry, so the answers bear tokens."""
        self.following = following
        self._policy = manifest.name
        self._signer = signer
        self._range = manifest.safety.observation_range
        space = manifest.observation_space
        self._observations = [
            _Observation(tensor, _part(space, tensor.name))
            for tensor in manifest.inputs
            if tensor.name.partition(".")[0] == "observation"
        ]
        self._masks = Masks(manifest.action_space)
        self.stateful = stateful

    async def decide(self, request: ActRequest) -> Answer:
        """The request's decisions. Raises Problem: 422, 413 or 403 for bad input, 503 when nothing can answer."""
        rows = self.rows(request)
        decision, seats = await self.following.decide(rows, self.user_ids(request))
        return Answer(rows, decision, seats)

    def rows(self, request: ActRequest) -> Rows:
        """The request's rows. Raises Problem (422, 413, 403)."""
        many = request.observations is not None
        if many == (request.observation is not None):
            raise Problem(422, "observation", "give either `observation` (one) or `observations` (a list)")
        values = request.observations if many else [request.observation]
        if not isinstance(values, list) or not values:
            raise Problem(422, "observation", "`observations` must be a list of at least one", came=brief(values))
        size = len(values)
        if size > MAX_ROWS:
            raise Problem(413, "rows", f"at most {MAX_ROWS} observations a request", expected=MAX_ROWS, came=size)
        feeds: dict[str, Array] = {}
        outside = 0
        for observation in self._observations:
            array = observation.read(self._column(values, observation.key), size)
            feeds[observation.name] = array
            outside = max(outside, observation.check(array, self._range))
        rows = Rows(feeds=feeds, size=size, out_of_range=outside)
        rows.episodes = self._episodes(request, size, many)
        rows.users = self._users(request, size, many)
        masks = request.action_masks if many else None if request.action_mask is None else [request.action_mask]
        if masks is not None:
            rows.masks = self._read_masks(masks, size)
        tokens = request.states if many else None if request.state is None else [request.state]
        if tokens is not None or self.stateful:
            nothing: list[str | None] = [None] * size
            rows.states = self._read_states(list(tokens) if tokens is not None else nothing, rows)
        return rows

    def user_ids(self, request: ActRequest) -> list[str | None] | None:
        """The users of the rows, None when the request names none."""
        if request.observations is not None:
            return request.user_ids
        return None if request.user_id is None else [request.user_id]

    def _column(self, values: list[Any], key: str | None) -> list[Any]:
        if key is None:
            return values
        try:
            return [value[key] for value in values]
        except (KeyError, TypeError, IndexError):
            keys = [observation.key for observation in self._observations]
            raise Problem(
                422, "observation", "each observation must be an object with all keys", expected=keys
            ) from None

    def _episodes(self, request: ActRequest, size: int, many: bool) -> list[Episode | None] | None:
        if not many:
            if request.episode_id is None:
                return None
            return [check_episode(self._signer, request.episode_id, self._policy)]
        if request.episode_ids is None:
            return None
        _same_length("episode_ids", request.episode_ids, size)
        signer, policy = self._signer, self._policy
        return [None if one is None else check_episode(signer, one, policy) for one in request.episode_ids]

    def _users(self, request: ActRequest, size: int, many: bool) -> list[str] | None:
        ids = self.user_ids(request)
        if ids is None:
            return None
        _same_length("user_ids", ids, size)
        for one in ids:
            check_user(one)
        return ["" if one is None else user_hash(one) for one in ids]

    def _read_masks(self, given: Any, size: int) -> Array:
        try:
            return self._masks.read(given, size)
        except ValueError as error:
            expected = [size, self._masks.width]
            raise Problem(422, "action_mask", str(error), expected=expected, came=brief(given)) from error

    def _read_states(self, tokens: list[str | None], rows: Rows) -> list[State | None]:
        _same_length("states", tokens, rows.size)
        states: list[State | None] = []
        for row, token in enumerate(tokens):
            episode = rows.episodes[row] if rows.episodes else None
            try:
                states.append(
                    None if token is None else self._signer.state(token, self._policy, episode.nonce if episode else "")
                )
            except Forged as error:
                raise Problem(403, "state", f"the state token was refused: {error}") from error
        return states


class _Observation:
    """One observation input of the graph and the space it comes from."""

    def __init__(self, tensor: Tensor, space: Space) -> None:
        self.name = tensor.name
        self.key = tensor.name.partition(".")[2] or None
        self._shape = tensor.shape
        self._dtype = np.dtype(tensor.dtype)
        self._whole = self._dtype.kind != "f"
        self._low, self._high = self._limits(space)

    def _limits(self, space: Space) -> tuple[Any, Any]:
        if space.type == "Discrete" and space.n is not None:
            return space.start, space.start + space.n - 1
        if space.type == "MultiDiscrete":
            return 0, np.array(space.nvec).reshape(space.shape) - 1
        if space.type == "MultiBinary":
            return 0, 1
        if self._whole and self._dtype.kind in "iu":
            info = np.iinfo(self._dtype)
            return info.min, info.max
        return None, None

    def read(self, values: list[Any], size: int) -> Array:
        """The values as an array [size, ...] in the graph's dtype. Raises Problem (422)."""
        try:
            array = np.asarray(values)
        except ValueError:
            array = None
        if array is None or array.shape != (size, *self._shape):
            raise Problem(
                422,
                "shape",
                f"{self.name} has the wrong shape",
                expected=list(self._shape),
                came="ragged" if array is None else list(array.shape[1:]),
            )
        kind = array.dtype.kind
        if kind not in "iuf" and not (kind == "b" and self._whole):
            raise Problem(
                422, "dtype", f"{self.name} must be numbers", expected=self._dtype.name, came=brief(values[0])
            )
        if self._whole:
            if kind == "f" and not np.array_equal(array, np.rint(array)):
                raise Problem(422, "dtype", f"{self.name} must be whole numbers", expected=self._dtype.name)
            if self._low is not None and ((array < self._low).any() or (array > self._high).any()):
                raise Problem(
                    422,
                    "range",
                    f"{self.name} lies outside its space",
                    expected=[np.asarray(self._low).tolist(), np.asarray(self._high).tolist()],
                )
        with np.errstate(over="ignore"):
            return array.astype(self._dtype)

    def check(self, array: Array, limits: tuple[float, float] | None) -> int:
        """How many rows leave the range (one number beyond it is enough). Raises Problem (422) when not finite."""
        if self._whole or array.size == 0:
            return 0
        low, high = np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)
        if limits is not None and low >= limits[0] and high <= limits[1]:
            return 0
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Problem(422, "non_finite", f"{self.name} must be finite {self._dtype.name} numbers")
        if limits is None:
            return 0
        flat = array.reshape(len(array), -1)
        return int(((flat < limits[0]) | (flat > limits[1])).any(axis=1).sum())


def check_episode(signer: Signer, episode_id: str, policy: str) -> Episode:
    """The episode of an id of this policy. Raises Problem (403)."""
    try:
        episode = signer.episode(episode_id)
    except Forged as error:
        raise Problem(403, "episode_id", f"the episode id was refused: {error}", came=brief(episode_id)) from error
    if episode.policy != policy:
        raise Problem(403, "episode_id", "the episode belongs to another policy", expected=policy, came=episode.policy)
    return episode


def check_user(user_id: str | None) -> None:
    """Raises Problem (422) for a user id that the store could not hold."""
    if user_id is not None and not 1 <= len(user_id) <= MAX_NAME:
        raise Problem(422, "user_id", f"a user id has 1 to {MAX_NAME} characters", came=len(user_id))


def _same_length(name: str, values: list[Any], size: int) -> None:
    if len(values) != size:
        raise Problem(422, "length", f"`{name}` must be as long as `observations`", expected=size, came=len(values))


def _part(space: Space, tensor: str) -> Space:
    key = tensor.partition(".")[2]
    return (space.spaces or {}).get(key, space) if key else space
