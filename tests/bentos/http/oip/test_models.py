"""Policies of other kinds as models: several inputs, continuous actions, state tokens, and versions asked by name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.canary import Canary
from bentos.errors import Problem
from bentos.gateway.assign import Assign
from bentos.gateway.validate import Validate
from bentos.http.oip.datatypes import pack, unpack
from bentos.http.oip.metadata import Model
from bentos.http.oip.requests import ask_of, parse
from bentos.http.oip.responses import response, wanted
from bentos.package.loader import load
from bentos.package.manifest import Serve, Space, Tensor
from bentos.package.safety import Safety
from bentos.routing.route import Route
from bentos.routing.version import Version
from bentos.rows import Rows
from bentos.runners import settled
from bentos.store.overrides import Overrides
from bentos.telemetry.counters import Stats
from bentos.tokens import Episode, Signer
from tests.bentos.policy_packages import BOX, constant_graph, write_package

FAR = 2.0**40


def version_of(package: Path, name: str) -> Version:
    return Version(
        name,
        load(package),
        "digest",
        stats=Stats(),
        overrides=Overrides(),
        champion=lambda: None,
        opened=lambda version, reason: None,
    )


def route_of(
    versions: dict[str, Version], champion: str, canary: Canary | None = None, withdrawn: frozenset[str] = frozenset()
) -> Route:
    return Route(
        "cartpole",
        champion=versions[champion],
        previous=None,
        canary=canary,
        versions=versions,
        withdrawn=withdrawn,
        provider=None,
        shown={},
    )


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    """Version 1 always answers 0, version 2 always 1."""
    home = tmp_path_factory.mktemp("versions")
    for action in (0, 1):
        write_package(home / str(action), graph=constant_graph(action))
    return {str(action + 1): version_of(home / str(action), str(action + 1)) for action in (0, 1)}


def rows(count: int = 2, **given: Any) -> Rows:
    return Rows(feeds={"observation": np.zeros((count, 4), np.float32)}, size=count, **given)


def test_a_version_asked_by_name_answers_by_itself_and_outside_the_experiment(versions: dict[str, Version]) -> None:
    everybody = Canary("g1", "1", "2", 0.5, "00", 3)
    assign = Assign(route_of(versions, "1", everybody))
    for name, action in (("1", 0), ("2", 1)):
        for users in (None, ["ada", "bob"]):
            seats = assign.seats(rows(), users, name)
            decision = asyncio.run(settled(assign.decide(rows(), seats)))
            assert decision.action.tolist() == [action] * 2
            assert {(seat.version, seat.arm, seat.generation) for seat in seats} == {(name, "champion", "")}


def test_an_episode_of_the_version_that_is_named_stays_in_its_arm_and_another_is_refused(
    versions: dict[str, Version],
) -> None:
    assign = Assign(route_of(versions, "1", Canary("g1", "1", "2", 0.5, "00", 3)))
    episodes = [Episode("cartpole", "2", "challenger", "g1", "n", "", FAR), None]
    seats = assign.seats(rows(episodes=episodes), None, "2")
    assert [(seat.arm, seat.generation) for seat in seats] == [("challenger", "g1"), ("champion", "")]
    with pytest.raises(Problem) as caught:
        assign.seats(rows(episodes=episodes), None, "1")
    assert (caught.value.status, caught.value.came) == (422, "2")


def test_versions_that_serve_nobody_cannot_be_asked_by_name(versions: dict[str, Version]) -> None:
    in_shadow = route_of(versions, "1", Canary("g1", "1", "2", 0.0, "00", -1))
    withdrawn = route_of(versions, "1", withdrawn=frozenset({"2"}))
    for route in (in_shadow, withdrawn):
        assert route.answering == ["1"]
        with pytest.raises(Problem) as caught:
            route.seat_of_version("2")
        assert (caught.value.status, caught.value.expected) == (404, ["1"])
    assert route_of(versions, "2").answering == ["1", "2"]


def test_a_policy_with_several_observations_is_a_model_with_several_inputs(tmp_path: Path) -> None:
    write_package(tmp_path)
    parts = {"image": Space("Box", "uint8", (2, 2), (0,) * 4, (255,) * 4), "goal": Space("Discrete", "int64", n=3)}
    inputs = (Tensor("observation.image", "uint8", (2, 2)), Tensor("observation.goal", "int64", ()))
    manifest = msgspec.structs.replace(
        load(tmp_path).manifest, observation_space=Space("Dict", spaces=parts), inputs=inputs
    )
    model = Model(manifest, stateful=False)
    assert [(one.name, one.datatype, one.shape) for one in model.metadata(["1"]).inputs] == [
        ("observation.image", "UINT8", [-1, 2, 2]),
        ("observation.goal", "INT64", [-1]),
    ]

    def asked(goals: list[int], *names: str) -> Any:
        tensors = {
            "observation.image": {"shape": [2, 2, 2], "datatype": "UINT8", "data": list(range(8))},
            "observation.goal": {"shape": [len(goals)], "datatype": "INT64", "data": goals},
        }
        document = {"inputs": [{"name": name, **tensors[name]} for name in names]}
        return ask_of(model, *parse(json.dumps(document).encode(), None))

    ask = asked([0, 2], "observation.goal", "observation.image")
    nowhere = Assign(route_of({"1": version_of(tmp_path, "1")}, "1"))
    feeds = Validate(nowhere, manifest, Signer("key"), False).rows(ask).feeds
    assert feeds["observation.image"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert feeds["observation.goal"].tolist() == [0, 2]
    with pytest.raises(Problem, match="as many rows"):
        asked([0], "observation.image", "observation.goal")
    with pytest.raises(Problem, match="missing"):
        asked([0, 1], "observation.goal")


def test_the_state_of_one_answer_goes_into_the_next_question(tmp_path: Path) -> None:
    """A rate limit of 0.5: the action nears its aim by that much a step, as the state says where it was."""
    write_package(tmp_path, action_space=BOX, safety=Safety(rate_limit=0.5))
    version = version_of(tmp_path, "1")
    door = Validate(Assign(route_of({"1": version}, "1")), version.manifest, Signer("key"), version.stateful)
    model = Model(version.manifest, version.stateful)
    assert model.given == ("action", "state")

    def step(aims: list[float], states: list[str]) -> tuple[list[float], list[str]]:
        observations = np.zeros((len(aims), 4), np.float32)
        observations[:, 3] = aims
        data = observations.tobytes()
        tensor = {"name": "observation", "shape": list(observations.shape), "datatype": "FP32"}
        inputs = [{**tensor, "parameters": {"binary_data_size": len(data)}}]
        if states:
            packed = pack(states)
            parameters = {"binary_data_size": len(packed)}
            inputs.append({"name": "state", "shape": [len(aims)], "datatype": "BYTES", "parameters": parameters})
            data += packed
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        request, rest = parse(head + data, str(len(head)))
        answer = asyncio.run(settled(door.decide(ask_of(model, request, rest))))
        body, size = response(model, request, wanted(model, request), answer, lambda count: ["d"] * count)
        assert size is not None
        outputs = json.loads(body[:size])["outputs"]
        assert [(one["name"], one["datatype"]) for one in outputs] == [("action", "FP32"), ("state", "BYTES")]
        split = size + outputs[0]["parameters"]["binary_data_size"]
        actions = np.frombuffer(body[size:split], "<f4").tolist()
        return actions, unpack("state", memoryview(body)[split:], len(aims))

    actions, states = step([-1.0, 1.0], [])
    assert actions == [-1.0, 1.0]
    actions, states = step([1.0, -1.0], states)
    assert actions == [-0.5, 0.5]
    actions, _ = step([1.0, -1.0], [states[0], ""])
    assert actions == [0.0, -1.0]


def test_a_policy_that_explores_tells_how_likely_its_actions_were(tmp_path: Path) -> None:
    write_package(tmp_path, serve=Serve(fallback={"constant": 0}, explore=True, deadline_ms=60_000))
    version = version_of(tmp_path, "1")
    door = Validate(Assign(route_of({"1": version}, "1")), version.manifest, Signer("key"), version.stateful)
    model = Model(version.manifest, False)
    tensor = {"name": "observation", "shape": [3, 4], "datatype": "FP32", "data": [0.0] * 12}
    for binary in (True, False):
        output = {"name": "log_prob", "parameters": {"binary_data": binary}}
        request, rest = parse(json.dumps({"inputs": [tensor], "outputs": [output]}).encode(), None)
        answer = asyncio.run(settled(door.decide(ask_of(model, request, rest))))
        body, size = response(model, request, wanted(model, request), answer, lambda count: ["d"] * count)
        (shown,) = json.loads(body[:size])["outputs"]
        assert (shown["datatype"], shown["shape"]) == ("FP64", [3])
        values = np.frombuffer(body[size:], "<f8") if binary else shown["data"]
        np.testing.assert_allclose(values, np.log([0.5] * 3))


def test_arrays_of_a_request_reach_the_graph_uncopied_and_cannot_be_written_to(tmp_path: Path) -> None:
    write_package(tmp_path)
    version = version_of(tmp_path, "1")
    door = Validate(Assign(route_of({"1": version}, "1")), version.manifest, Signer("key"), version.stateful)
    data = np.arange(8, dtype="<f4").tobytes()
    tensor = {"name": "observation", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
    head = json.dumps({"inputs": [tensor]}).encode()
    head += b" " * (-len(head) % 8)
    body = head + data
    request, rest = parse(body, str(len(head)))
    array = door.rows(ask_of(Model(version.manifest, False), request, rest)).feeds["observation"]
    assert array.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x05\0\0\0four", b"\xff\xff\xff\xff", b"\0\0\0\0\0", b"\1\0\0\0\xff"])
def test_a_bytes_tensor_that_does_not_hold_one_text_is_refused(data: bytes) -> None:
    with pytest.raises(Problem) as caught:
        unpack("user_id", memoryview(data), 1)
    assert caught.value.status == 422


def test_texts_are_packed_and_unpacked(tmp_path: Path) -> None:
    texts = ["", "ada", "Å" * 300]
    assert unpack("user_id", memoryview(pack(texts)), 3) == texts
