"""What remote policies ask of a gateway, step by step, without one: a stand-in that notes what came."""

from __future__ import annotations

import warnings
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.client.calls import Calls
from bentos.client.environments import Watch
from bentos.client.retry import Answered, GatewayError, Pause, Steps
from bentos.client.session import Held, Player

VECTOR = {"type": "Box", "shape": [2]}
CHOICE = {"type": "Discrete", "dtype": "int64", "n": 3}


class Double:
    """Answers zeros and a token a row; `asked` holds the bodies by action. `refuse` maps a return to a status."""

    def __init__(self, space: Any = VECTOR, arm: str = "champion", tokens: bool = False, **about: Any) -> None:
        self.document = {"observation_space": space, "action_space": CHOICE, **about}
        self.asked: dict[str, list[Any]] = {"episodes": [], "act": [], "outcomes": []}
        self.refuse: dict[float, int] = {}
        self._arm = arm
        self._tokens = tokens
        self._issued = 0
        self._decided = 0

    def run(self, steps: Steps[Any]) -> Any:
        came: Answered | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                return end.value
            assert not isinstance(step, Pause), "nothing fails here that is worth waiting for"
            came = self._answer(step.request.method, step.request.path.rpartition("/")[2], step.request.body)

    def _answer(self, method: str, action: str, data: bytes | None) -> Answered:
        if method == "GET":
            return Answered(200, msgspec.json.encode(self.document))
        body = msgspec.json.decode(data or b"")
        self.asked[action].append(body)
        if action == "outcomes":
            status = max([self.refuse.get(one["return"], 200) for one in body["outcomes"]])
            return Answered(status, b"{}")
        if action == "episodes":
            ids = range(self._issued, self._issued + len(body["user_ids"]))
            self._issued = ids.stop
            opened = [{"episode_id": f"e{number}", "version": "1", "arm": self._arm} for number in ids]
            return Answered(201, msgspec.json.encode({"episodes": opened}))
        size = len(body["observations"])
        self._decided += 1
        document: dict[str, Any] = {"actions": [0] * size, "versions": ["1"] * size, "arms": [self._arm] * size}
        document |= {"sources": ["policy"] * size, "adjusted": [[]] * size, "decision_ids": [""] * size}
        if self._tokens:
            document["states"] = [f"t{self._decided}-{row}" for row in range(size)]
        return Answered(200, msgspec.json.encode(document))


class Play:
    """One thread's player at a double."""

    def __init__(self, double: Double, **about: Any) -> None:
        self.double = double
        self.held = Held()
        self.player = Player(Calls("http://x", 0.0), "p", about.get("user_ids"))

    def predict(self, observation: Any, state: Any = None, starts: Any = None, **about: Any) -> Any:
        steps = self.player.predict(
            self.held, observation, state, starts, about.get("deterministic", True), about.get("action_masks")
        )
        return self.double.run(steps)

    def report(self, *returns: float) -> None:
        places = self.held.places
        given = [(place.episode, value, 1) for place, value in zip(places, returns, strict=True) if place.episode]
        self.double.run(self.player.report(given))

    def last(self, name: str) -> Any:
        return self.double.asked["act"][-1].get(name)


TWO = np.zeros((2, 2))


def test_one_observation_gives_one_action_and_a_batch_gives_a_batch() -> None:
    play = Play(Double())
    assert play.predict(np.zeros(2))[0].shape == ()
    assert play.predict(TWO)[0].shape == (2,)
    assert play.predict(TWO)[0].dtype == np.int64


def test_state_tokens_go_back_row_by_row_and_are_forgotten_at_a_start() -> None:
    play = Play(Double(tokens=True))
    _, state = play.predict(TWO, None, [True, True])
    assert play.last("states") is None
    _, state = play.predict(TWO, state, [False, True])
    assert play.last("states") == ["t1-0", None]
    play.predict(TWO, state, [False, False])
    assert play.last("states") == ["t2-0", "t2-1"]


def test_tokens_travel_without_episodes_too() -> None:
    play = Play(Double(tokens=True))
    _, state = play.predict(np.zeros(2))
    play.predict(np.zeros(2), state)
    assert (play.last("states"), play.last("episode_ids")) == (["t1-0"], None)


def test_who_never_gives_the_state_back_goes_on_with_this_threads_episodes() -> None:
    # sb3-contrib's maskable evaluate_policy calls predict(…, state=None) at every step
    play = Play(Double(tokens=True))
    play.predict(TWO, None, [True, True])
    play.predict(TWO, None, [False, False])
    assert play.last("episode_ids") == ["e0", "e1"]
    assert play.last("states") == ["t1-0", "t1-1"]


def test_an_environment_that_has_played_its_share_leaves_no_trail_of_episodes() -> None:
    # from then on evaluate_policy calls each of its steps a start
    play = Play(Double())
    _, state = play.predict(TWO, None, [True, True])
    _, state = play.predict(TWO, state, [False, False])
    for _ in range(5):
        _, state = play.predict(TWO, state, [True, False])
    assert play.last("episode_ids") == ["e2", "e1"]
    assert len(play.double.asked["episodes"]) == 2


def test_episodes_of_one_step_are_each_their_own_when_they_are_reported() -> None:
    play = Play(Double())
    state = None
    for _ in range(3):
        _, state = play.predict(np.zeros(2), state, [True])
        play.report(1.0)
    assert [one["episode_id"] for body in play.double.asked["outcomes"] for one in body["outcomes"]] == [
        "e0",
        "e1",
        "e2",
    ]


def test_the_next_question_after_a_report_opens_an_episode_whatever_it_says() -> None:
    play = Play(Double())
    _, state = play.predict(TWO, None, [True, True])
    play.report(1.0, 2.0)
    play.predict(TWO, state, [False, False])
    assert play.last("episode_ids") == ["e2", "e3"]


def test_what_was_watched_says_where_episodes_begin() -> None:
    play = Play(Double(tokens=True))
    watch = Watch(2, monitored=False)
    play.held.watch = watch
    _, state = play.predict(TWO, None, [True, True])
    watch.stepped([1, 1], [False, True], [{}, {}])
    play.held.watch = watch
    _, state = play.predict(TWO, state, [True, True])
    assert play.last("episode_ids") == ["e0", "e2"], "the first goes on, whatever evaluate_policy calls it"
    assert play.last("states") is None, "but remembers nothing"
    watch.stepped([1, 1], [False, False], [{}, {}])
    play.held.watch = watch
    play.predict(TWO)
    assert play.last("episode_ids") == ["e0", "e2"], "and nobody need say so"


def test_a_monitor_tells_returns_and_which_ends_are_none() -> None:
    watch = Watch(2, monitored=True)
    ends = watch.stepped([1, 1], [True, True], [{}, {"episode": {"r": 7.5, "l": 30}}])
    assert ends == [(1, 7.5, 30)]


def test_a_watch_without_a_monitor_adds_up() -> None:
    watch = Watch(1, monitored=False)
    assert watch.stepped([1.5], [False], [{}]) == []
    assert watch.stepped([2.0], [True], [{}]) == [(0, 3.5, 2)]
    assert watch.stepped([4.0], [True], [{}]) == [(0, 4.0, 1)]


def test_users_are_named_when_episodes_open_or_when_there_are_none() -> None:
    play = Play(Double(), user_ids=["ada", None])
    play.predict(TWO)
    assert play.last("user_ids") == ["ada", None]
    play.predict(TWO, None, [False, True])
    assert play.double.asked["episodes"][0]["user_ids"] == [None]
    play.predict(TWO, None, [True, True])
    assert play.double.asked["episodes"][1]["user_ids"] == ["ada", None]
    assert play.last("user_ids") is None


def test_every_request_for_episodes_has_a_key_of_its_own() -> None:
    play = Play(Double())
    play.predict(TWO, None, [True, True])
    play.predict(TWO, None, [True, True])
    keys = [body["idempotency_key"] for body in play.double.asked["episodes"]]
    assert len(set(keys)) == 2
    assert all(len(key) == 32 for key in keys)


def test_an_outcome_that_could_not_be_sent_is_sent_with_the_next() -> None:
    play = Play(Double())
    play.predict(TWO, None, [True, True])
    play.double.refuse = {2.0: 503}
    with pytest.raises(GatewayError, match="503"):
        play.report(1.0, 2.0)
    play.double.refuse = {}
    play.double.run(play.player.report([]))
    assert [one["return"] for one in play.double.asked["outcomes"][-1]["outcomes"]] == [1.0, 2.0]
    play.double.run(play.player.report([]))
    assert len(play.double.asked["outcomes"]) == 2


def test_outcomes_that_another_thread_sends_meanwhile_are_left_to_it() -> None:
    class Raced(deque[Any]):
        """Another thread takes one between the count and the taking."""

        def __len__(self) -> int:
            return super().__len__() + 1

    play = Play(Double())
    play.predict([[0.0, 0.0]], starts=[True])
    play.player.unsent = Raced()
    play.report(3.0)
    assert [one["return"] for one in play.double.asked["outcomes"][0]["outcomes"]] == [3.0]


def test_an_outcome_that_is_refused_does_not_cost_the_others_and_is_not_sent_again() -> None:
    play = Play(Double())
    play.predict(np.zeros((3, 2)), None, [True] * 3)
    play.double.refuse = {2.0: 422}
    with pytest.raises(GatewayError, match="422"):
        play.report(1.0, 2.0, 3.0)
    alone = [body["outcomes"][0]["return"] for body in play.double.asked["outcomes"] if len(body["outcomes"]) == 1]
    assert alone == [1.0, 2.0, 3.0]
    assert not play.player.unsent


def test_a_canarys_episode_that_ends_in_silence_is_warned_of() -> None:
    play = Play(Double(arm="control"))
    _, state = play.predict(TWO, None, [True, True])
    _, state = play.predict(TWO, state, [False, False])
    with pytest.warns(UserWarning, match=r"1 episode\(s\) of a running canary ended.*watch\(env\)"):
        play.predict(TWO, state, [True, False])


def test_episodes_outside_of_a_canary_may_end_in_silence() -> None:
    play = Play(Double())
    _, state = play.predict(TWO, None, [True, True])
    _, state = play.predict(TWO, state, [False, False])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play.predict(TWO, state, [True, False])


def test_what_is_too_much_for_a_request_is_asked_in_several() -> None:
    play = Play(Double(space={"type": "Box", "dtype": "uint8", "shape": [84, 84, 4]}, tokens=True))
    actions, state = play.predict(np.zeros((40, 84, 84, 4), np.uint8), None, [True] * 40)
    assert [len(body["observations"]) for body in play.double.asked["act"]] == [17, 17, 6]
    assert [body["episode_ids"][0] for body in play.double.asked["act"]] == ["e0", "e17", "e34"]
    assert actions.shape == (40,)
    assert state[0][39].token == "t3-5"


def test_images_are_taken_channels_first_too() -> None:
    play = Play(Double(space={"type": "Box", "dtype": "uint8", "shape": [4, 3, 2]}))
    image = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    for given in (image, image[None], image.transpose(2, 0, 1), image.transpose(2, 0, 1)[None]):
        play.predict(given)
        assert play.last("observations") == [image.tolist()]


def test_dicts_are_asked_row_by_row() -> None:
    parts = {"a": {"type": "Box", "shape": [2]}, "b": {"type": "Discrete", "dtype": "int64", "n": 5}}
    play = Play(Double(space={"type": "Dict", "spaces": parts}))
    play.predict({"a": np.ones(2), "b": 3})
    assert play.last("observations") == [{"a": [1.0, 1.0], "b": 3}]
    play.predict({"a": np.ones((2, 2)), "b": np.array([3, 4])})
    assert play.last("observations") == [{"a": [1.0, 1.0], "b": 3}, {"a": [1.0, 1.0], "b": 4}]
    with pytest.raises(ValueError, match="as many in each part"):
        play.predict({"a": np.ones((2, 2)), "b": np.array([3])})
    with pytest.raises(ValueError, match=r"dict of \['a', 'b'\]"):
        play.predict({"a": np.ones(2)})


def test_masks_go_along() -> None:
    play = Play(Double())
    play.predict(np.zeros(2), action_masks=np.array([1, 0, 1]))
    assert play.last("action_masks") == [[True, False, True]]
    play.predict(TWO, action_masks=[[True, False, True], [False, True, True]])
    assert play.last("action_masks") == [[True, False, True], [False, True, True]]
    with pytest.raises(ValueError, match="one action mask an observation"):
        play.predict(TWO, action_masks=[[True, False, True]])


@pytest.mark.parametrize(
    ("observation", "state", "starts", "says"),
    [
        (np.zeros(3), None, None, r"shape \(2,\), or a batch of them \(n, \*\(2,\)\), came \(3,\)"),
        (np.zeros((0, 2)), None, None, "a batch"),
        (TWO, None, [True], "expected 2 episode starts"),
        (TWO, (np.zeros(2),), None, "as the last predict of 2 observations returned it"),
        (TWO, (np.empty(3, dtype=object),), None, "as the last predict of 2 observations returned it"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(
    observation: Any, state: Any, starts: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Play(Double()).predict(observation, state, starts)


def test_a_policy_that_explores_may_be_asked_for_stochastic_actions() -> None:
    Play(Double(explore=True)).predict(TWO, deterministic=False)


def test_a_policy_without_a_routed_version_has_no_spaces() -> None:
    double = Double(space=None)
    with pytest.raises(GatewayError, match="no version of policy 'p' is routed yet"):
        Play(double).predict(TWO)
