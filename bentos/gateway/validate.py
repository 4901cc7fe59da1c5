"""Validate: shape, dtype, finite, size. Bad input is refused with what was expected, and never reaches a model."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
import numpy as np

from bentos.errors import Problem, brief
from bentos.gateway.assign import Assign, Shadowed
from bentos.gateway.observation import Observation, part_of
from bentos.gateway.schemas import ActBody, ActRequest
from bentos.package.action_masks import Masks
from bentos.package.manifest import Manifest
from bentos.routing.route import Seat
from bentos.rows import MAX_ROWS, Array, Decision, Rows
from bentos.runners import later
from bentos.tokens import Episode, Forged, Signer, State, user_hash

MAX_NAME = 256


class Ask(msgspec.Struct, gc=False):
    """What is asked for, decoded but not checked: `columns` holds each observation input's values, a list or an array
    [size, ...] that nobody writes to afterwards; what else is given is one entry a row. `many` is whether the request
    used the plural; `apart`: each row is a request of its own. `version` names the one that shall answer; None: as the
    route has it."""

    columns: dict[str, Any]
    size: int
    many: bool = True
    typed: bool = False
    episode_ids: list[str | None] | None = None
    user_ids: list[str | None] | None = None
    action_masks: Any = None
    states: list[str | None] | None = None
    version: str | None = None
    apart: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came of a request: its rows, the decision, the seat of each row, and (None: not needed) its state tokens."""

    rows: Rows
    decision: Decision
    seats: list[Seat]
    states: list[str] | None


Answering = Answer | Coroutine[Any, Any, Answer]
"""An answer, or where something must be waited for, a coroutine of it."""


class Validate:
    """Turns what is asked into rows for a policy's graph, and sends them on."""

    def __init__(
        self,
        following: Assign,
        manifest: Manifest,
        signer: Signer,
        stateful: bool,
        shadowed: Shadowed | None = None,
    ) -> None:
        """`stateful`: some version needs what `state` tokens carry, so the answers bear tokens.

        `shadowed` stands around `following` while a challenger is in shadow.
        """
        self.following = following
        self._shadowed = shadowed or following
        self._policy = manifest.name
        self._signer = signer
        self._range = manifest.safety.observation_range
        space = manifest.observation_space
        self._observations = [
            Observation(tensor, part_of(space, tensor.name))
            for tensor in manifest.inputs
            if tensor.name.partition(".")[0] == "observation"
        ]
        self._masks = Masks(manifest.action_space)
        self.stateful = stateful
        self._body = self._body_of(manifest)

    def decide(self, ask: Ask) -> Answering:
        """The decisions asked for. Raises Problem: 422, 413 or 403 for bad input, 503 when nothing can answer."""
        rows = self.rows(ask)
        seats = self.following.seats(rows, ask.user_ids, ask.version)
        # what one version is asked by name says nothing about the traffic, so it goes past the shadow
        return self._decided(self._shadowed if ask.version is None else self.following, rows, seats)

    def parts(self, ask: Ask) -> list[tuple[list[int], Callable[[], Answering]]]:
        """What is asked, by seat: the places of its rows, and what decides them. Raises Problem as `decide` does.

        Requests that were asked together have nothing to do with each other: those of one arm neither wait for another
        arm nor share its faults.
        """
        rows = self.rows(ask)
        seats = self.following.seats(rows, ask.user_ids)
        if seats.count(seats[0]) == rows.size:
            return [(list(range(rows.size)), partial(self._decided, self._shadowed, rows, seats))]
        places: dict[Seat, list[int]] = {}
        for row, seat in enumerate(seats):
            places.setdefault(seat, []).append(row)
        return [
            (chosen, partial(self._decided, self._shadowed, rows.take(np.array(chosen)), [seat] * len(chosen)))
            for seat, chosen in places.items()
        ]

    def _decided(self, chosen: Assign | Shadowed, rows: Rows, seats: list[Seat]) -> Answering:
        decision = chosen.decide(rows, seats)
        if isinstance(decision, Decision):
            return self._answer(rows, decision, seats)
        return later(decision, rows, lambda rows, decided: self._answer(rows, decided, seats))

    def _answer(self, rows: Rows, decision: Decision, seats: list[Seat]) -> Answer:
        return Answer(rows, decision, seats, self._tokens(rows, decision) if self.stateful else None)

    def read(self, body: bytes) -> Ask:
        """What the body of a JSON request asks for. Raises Problem (400, 422, 413)."""
        request, typed = self._body(body)
        return self.ask(request, typed)

    def simple(self, body: bytes) -> ActRequest | None:
        """The body of a request for one decision that names at most an episode and a user; None: it is another."""
        try:
            request, typed = self._body(body)
        except Problem:
            return None
        plain = typed and request.observations is None and request.observation is not None
        return request if plain and request.action_mask is None and request.state is None else None

    def ask(self, request: ActRequest, typed: bool = False) -> Ask:
        """A JSON request as what it asks for. Raises Problem (422, 413)."""
        values = request.observations
        if (values is not None) == (request.observation is not None):
            raise Problem(422, "observation", "give either `observation` (one) or `observations` (a list)")
        if values is None:
            return Ask(
                self.columns([request.observation]),
                1,
                False,
                typed,
                None if request.episode_id is None else [request.episode_id],
                None if request.user_id is None else [request.user_id],
                None if request.action_mask is None else [request.action_mask],
                None if request.state is None else [request.state],
            )
        if not isinstance(values, list) or not values:
            raise Problem(422, "observation", "`observations` must be a list of at least one", came=brief(values))
        check_size(len(values), "observations")  # before any work on them
        return Ask(
            self.columns(values),
            len(values),
            True,
            typed,
            request.episode_ids,
            request.user_ids,
            request.action_masks,
            request.states,
        )

    def rows(self, ask: Ask) -> Rows:
        """The rows asked for, checked. Raises Problem (422, 413, 403)."""
        size = ask.size
        if size > MAX_ROWS:
            check_size(size, "observations")
        feeds: dict[str, Array] = {}
        outside: Array | None = None
        for observation in self._observations:
            feeds[observation.name], beyond = observation.read(
                ask.columns[observation.name], size, self._range, ask.typed
            )
            if beyond is not None:
                outside = beyond if outside is None else outside | beyond
        rows = Rows(feeds=feeds, size=size, out_of_range=outside, apart=ask.apart)
        if ask.episode_ids is not None:
            rows.episodes = self._episodes(ask.episode_ids, size)
        if ask.user_ids is not None:
            rows.users = self._users(ask.user_ids, size)
        if ask.action_masks is not None:
            rows.masks = self._read_masks(ask.action_masks, size)
        if ask.states is not None or self.stateful:
            nothing: list[str | None] = [None] * size
            rows.states = self._read_states(nothing if ask.states is None else ask.states, rows)
        return rows

    @staticmethod
    def _body_of(manifest: Manifest) -> ActBody:
        if manifest.observation_space.type == "Dict":
            return ActBody(None, 0)
        tensor = next(tensor for tensor in manifest.inputs if tensor.name == "observation")
        return ActBody(float if tensor.dtype.startswith("float") else int, len(tensor.shape))

    def columns(self, values: list[Any]) -> dict[str, Any]:
        """The values by input: for a Dict space each key's."""
        if self._observations[0].key is None:
            return {self._observations[0].name: values}
        try:
            return {one.name: [value[one.key] for value in values] for one in self._observations}
        except (KeyError, TypeError, IndexError):
            keys = [observation.key for observation in self._observations]
            raise Problem(
                422, "observation", "each observation must be an object with all keys", expected=keys
            ) from None

    def _episodes(self, ids: list[str | None], size: int) -> list[Episode | None]:
        _same_length("episode_ids", ids, size)
        signer, policy = self._signer, self._policy
        if size == 1 and ids[0] is not None:
            return [check_episode(signer, ids[0], policy)]
        seen = signer.seen.get
        return [
            None
            if one is None
            else check_episode(signer, one, policy)
            if (episode := seen(one)) is None or episode.policy != policy
            else episode
            for one in ids
        ]

    def _users(self, ids: list[str | None], size: int) -> list[str]:
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

    def _tokens(self, rows: Rows, decision: Decision) -> list[str]:
        """The token of each row: its step, the action as it went out, and the graph's next state."""
        tokens = []
        for row in range(rows.size):
            before = rows.states[row] if rows.states else None
            episode = rows.episodes[row] if rows.episodes else None
            memory = decision.memories[row] if decision.memories else None
            if memory is None and before is not None:
                memory = before.memory
            last = decision.action[row].reshape(-1).tolist()
            step = before.step + 1 if before else 1
            state = State(self._policy, episode.nonce if episode else "", step, last, memory)
            tokens.append(self._signer.state_token(state))
        return tokens


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
    if user_id is not None and (not 1 <= len(user_id) <= MAX_NAME or "\0" in user_id):
        raise Problem(422, "user_id", f"a user id has 1 to {MAX_NAME} characters, none of them NUL", came=len(user_id))


def check_size(size: int, what: str) -> None:
    """Raises Problem (413) for more of them than a request may bring."""
    if size > MAX_ROWS:
        raise Problem(413, "rows", f"at most {MAX_ROWS} {what} a request", expected=MAX_ROWS, came=size)


def _same_length(name: str, values: list[Any], size: int) -> None:
    if len(values) != size:
        raise Problem(422, "length", f"`{name}` must be as long as `observations`", expected=size, came=len(values))
