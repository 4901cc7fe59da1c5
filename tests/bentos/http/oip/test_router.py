"""The Open Inference Protocol as an unmodified `tritonclient.http`, and any other client of it, meets it."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from bentos.http.oip.router import place_of
from bentos.package.loader import load
from tests.bentos.gateway_process import GatewayProcess, wait_until

INFER = "/v2/models/cartpole/infer"


@pytest.fixture(scope="module")
def triton(served: GatewayProcess) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def http(served: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def observation(rows: np.ndarray, binary: bool = True, name: str = "observation") -> InferInput:
    tensor = InferInput(name, list(rows.shape), {"float32": "FP32", "float64": "FP64"}[rows.dtype.name])
    return tensor.set_data_from_numpy(rows, binary_data=binary)


def texts(name: str, values: list[str], binary: bool = True) -> InferInput:
    tensor = InferInput(name, [len(values)], "BYTES")
    return tensor.set_data_from_numpy(np.array([one.encode() for one in values], dtype=object), binary_data=binary)


def some(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def test_the_server_says_what_it_is(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    server = triton.get_server_metadata()
    assert server["name"] == "airlock"
    assert "binary_tensor_data" in server["extensions"]
    index = triton.get_model_repository_index()
    assert index == [{"name": "cartpole", "version": "7", "state": "READY", "reason": ""}]


def test_a_policy_is_a_model_with_its_tensors(triton: InferenceServerClient) -> None:
    for version in ("", "7"):
        assert triton.is_model_ready("cartpole", version)
        model = triton.get_model_metadata("cartpole", version)
        assert (model["name"], model["versions"]) == ("cartpole", ["7"])
        assert model["inputs"] == [{"name": "observation", "datatype": "FP32", "shape": [-1, 4]}]
        assert model["outputs"][0] == {"name": "action", "datatype": "INT64", "shape": [-1]}
    config = triton.get_model_config("cartpole")
    optional = {tensor["name"]: tensor["optional"] for tensor in config["input"]}
    assert optional == {"observation": False, "action_mask": True, "episode_id": True, "user_id": True, "state": True}
    assert not triton.is_model_ready("cartpole", "8")
    assert not triton.is_model_ready("chess")
    with pytest.raises(InferenceServerException, match="no version '8'"):
        triton.get_model_metadata("cartpole", "8")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_inference_gives_the_packages_own_actions(
    served: GatewayProcess, triton: InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    rows = some(300)
    outputs = [InferRequestedOutput("action", binary_data=binary_out)]
    result = triton.infer("cartpole", [observation(rows, binary_in)], outputs=outputs, request_id="r-1")
    np.testing.assert_array_equal(result.as_numpy("action"), load(served.home / "package").predict(rows))
    assert result.as_numpy("action").dtype == np.int64
    shown = result.get_response()
    assert (shown["id"], shown["model_name"], shown["model_version"]) == ("r-1", "cartpole", "7")


def test_every_output_can_be_asked_for(triton: InferenceServerClient) -> None:
    names = ["source", "action", "version", "arm", "adjusted", "decision_id"]
    for binary in (True, False):
        outputs = [InferRequestedOutput(name, binary_data=binary) for name in names]
        result = triton.infer("cartpole", [observation(some(3), binary)], outputs=outputs)
        assert [output["name"] for output in result.get_response()["outputs"]] == names
        text = {name: [str(one, "utf-8") if binary else one for one in result.as_numpy(name)] for name in names[2:]}
        assert text["version"] == ["7"] * 3
        assert text["arm"] == ["champion"] * 3
        assert text["adjusted"] == [""] * 3
        assert len(set(text["decision_id"])) == 3


def test_without_requested_outputs_the_action_comes_and_one_row_says_how_it_came_about(
    triton: InferenceServerClient,
) -> None:
    result = triton.infer("cartpole", [observation(some(1))])
    shown = result.get_response()
    assert [output["name"] for output in shown["outputs"]] == ["action"]
    assert result.as_numpy("action").shape == (1,)
    assert set(shown["parameters"]) == {"arm", "source", "decision_id"}


def test_episodes_and_users_travel_as_inputs_or_as_parameters_of_one_row(
    served: GatewayProcess, triton: InferenceServerClient
) -> None:
    (episode,) = served.client.start_episodes("cartpole", [None])
    identity = episode["episode_id"]
    rows = np.array([[0, 0, 0, 1]] * 3, np.float32)
    served.client.set_override("cartpole", 0, ttl_seconds=60, reason="a test", user_id="ada")
    try:
        for binary in (True, False):
            inputs = [observation(rows), texts("user_id", ["ada", "bob", ""], binary)]
            assert triton.infer("cartpole", inputs).as_numpy("action").tolist() == [0, 1, 1]
        for version in ("", "7"):
            one = triton.infer(
                "cartpole", [observation(rows[:1])], model_version=version, parameters={"user_id": "ada"}
            )
            assert one.get_response()["parameters"]["source"] == "override"
    finally:
        served.client.clear_override("cartpole", user_id="ada")
    for given in ({"inputs": [texts("episode_id", [identity])]}, {"parameters": {"episode_id": identity}}):
        inputs = [observation(rows[:1]), *given.get("inputs", [])]
        result = triton.infer("cartpole", inputs, parameters=given.get("parameters"), model_version="7")
        assert result.as_numpy("action").tolist() == [1]
    with pytest.raises(InferenceServerException, match="for one row"):
        triton.infer("cartpole", [observation(rows)], parameters={"user_id": "ada"})
    with pytest.raises(InferenceServerException, match="the episode id was refused") as caught:
        triton.infer("cartpole", [observation(rows[:1])], parameters={"episode_id": identity[:-3] + "AAA"})
    assert caught.value.status() == "403"


def test_a_mask_forbids_actions(triton: InferenceServerClient) -> None:
    rows = np.array([[0, 0, 0, 1]] * 2, np.float32)
    mask = np.array([[True, False], [True, True]])
    for binary in (True, False):
        tensor = InferInput("action_mask", [2, 2], "BOOL").set_data_from_numpy(mask, binary_data=binary)
        outputs = [InferRequestedOutput("action"), InferRequestedOutput("adjusted")]
        result = triton.infer("cartpole", [observation(rows, binary), tensor], outputs=outputs)
        assert result.as_numpy("action").tolist() == [0, 1]
        assert result.as_numpy("adjusted").tolist() == [b"action_mask", b""]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(triton: InferenceServerClient, http: httpx.Client, algorithm: str) -> None:
    rows = some(3000)
    result = triton.infer(
        "cartpole",
        [observation(rows)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("action"), (rows[:, 2] + rows[:, 3] > 0).astype(np.int64))
    body = json.dumps(json_request(rows)).encode()
    answer = http.post(INFER, content=body, headers={"accept-encoding": algorithm})
    assert answer.headers["content-encoding"] == algorithm
    assert answer.json()["outputs"][0]["shape"] == [3000]


def test_statistics_count_what_was_inferred(triton: InferenceServerClient) -> None:
    def counted() -> int:
        (one,) = triton.get_inference_statistics("cartpole", "7")["model_stats"]
        assert one["inference_stats"]["success"]["ns"] > 0
        return int(one["inference_count"])

    triton.infer("cartpole", [observation(some(5))])
    assert counted() >= 5
    assert len(triton.get_inference_statistics()["model_stats"]) == 1


def test_statistics_say_when_was_last_inferred(triton: InferenceServerClient) -> None:
    def last() -> int:
        (one,) = triton.get_inference_statistics("cartpole", "7")["model_stats"]
        return int(one["last_inference"])

    for _ in range(2):
        began = time.time_ns() // 1_000_000
        triton.infer("cartpole", [observation(some(1))])
        wait_until(lambda began=began: last() >= began, "the inference is dated")
        assert last() <= time.time_ns() // 1_000_000


def json_request(rows: np.ndarray, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "observation", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist(), **changes}
    return {"inputs": [tensor]}


def test_json_data_may_be_nested_or_flat(http: httpx.Client) -> None:
    rows = some(5)
    nested = http.post(INFER, json=json_request(rows)).json()["outputs"]
    flat = http.post(INFER, json=json_request(rows, data=rows.reshape(-1).tolist())).json()["outputs"]
    assert nested == flat == [{"name": "action", "datatype": "INT64", "shape": [5], "data": nested[0]["data"]}]


def binary_request(tensor: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    head = json.dumps({"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", **tensor}]}).encode()
    return head + data, {"inference-header-content-length": str(len(head))}


FOUR = struct.pack("<4f", 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("tensor", "data", "status", "reason"),
    [
        ({"parameters": {"binary_data_size": 16}}, FOUR, 200, ""),
        ({"parameters": {"binary_data_size": 16}}, FOUR[:-1], 422, "binary_size"),
        ({"parameters": {"binary_data_size": 15}}, FOUR, 422, "binary_size"),
        ({"parameters": {"binary_data_size": 2**62}}, FOUR, 422, "binary_size"),
        ({"parameters": {"binary_data_size": -1}}, FOUR, 422, "body"),
        ({"parameters": {"binary_data_size": 16}, "data": [0]}, FOUR, 422, "data"),
        ({}, FOUR, 422, "data"),
        ({"parameters": {"binary_data_size": 16}, "shape": [2, 2]}, FOUR, 422, "shape"),
        ({"parameters": {"binary_data_size": 16}, "shape": [2**62, 4]}, FOUR, 413, "rows"),
        ({"parameters": {"binary_data_size": 16}, "shape": [-1, 4]}, FOUR, 422, "body"),
        ({"parameters": {"binary_data_size": 0}, "shape": [0, 4]}, b"", 422, "shape"),
        ({"parameters": {"binary_data_size": 16}, "shape": []}, FOUR, 422, "body"),
        ({"parameters": {"binary_data_size": 16}, "datatype": "INT32"}, FOUR, 422, "datatype"),
        ({"parameters": {"binary_data_size": 16}}, struct.pack("<4f", 0, 0, float("nan"), 1), 422, "non_finite"),
        ({"parameters": {"binary_data_size": 16}, "name": "image"}, FOUR, 422, "input"),
        ({"parameters": {"shared_memory_region": "r"}}, b"", 422, "shared_memory"),
    ],
)
def test_what_a_binary_request_says_must_be_what_it_holds(
    http: httpx.Client, tensor: dict[str, Any], data: bytes, status: int, reason: str
) -> None:
    body, headers = binary_request(tensor, data)
    answer = http.post(INFER, content=body, headers=headers)
    assert (answer.status_code, answer.json().get("reason", "")) == (status, reason)
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("size", ["9999", "-1", "1e2", "", "x", "9" * 5000, "²"])
def test_a_lying_json_size_is_refused(http: httpx.Client, size: str) -> None:
    body, _ = binary_request({"parameters": {"binary_data_size": 16}}, FOUR)
    answer = http.post(INFER, content=body, headers=[(b"inference-header-content-length", size.encode("latin-1"))])
    assert answer.status_code == 400


def test_a_misaligned_tensor_is_read_all_the_same(http: httpx.Client) -> None:
    for padding in range(8):
        document = {**json_request(some(1)), "id": "x" * padding}
        document["inputs"][0] |= {"parameters": {"binary_data_size": 16}}
        del document["inputs"][0]["data"]
        head = json.dumps(document).encode()
        headers = {"inference-header-content-length": str(len(head))}
        assert http.post(INFER, content=head + FOUR, headers=headers).json()["outputs"][0]["data"] == [1]


def test_a_bomb_is_refused_before_it_is_unpacked(http: httpx.Client) -> None:
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    answer = http.post(INFER, content=bomb, headers={"content-encoding": "deflate"})
    assert (answer.status_code, answer.json()["reason"]) == (413, "body_size")
    for body, encoding, status in ((bomb[:-9], "deflate", 413), (b"{}", "gzip", 400), (b"{}", "br", 415)):
        assert http.post(INFER, content=body, headers={"content-encoding": encoding}).status_code == status


@pytest.mark.parametrize(
    ("path", "action"),
    [
        ("/v2", "server"),
        ("/v2/", "server"),
        ("/v2/models/stats", "stats"),
        ("/v2/models/a%2Fb/infer", "infer"),
        ("/v2/models//infer", None),
        ("/v2/models/a/versions//infer", None),
        ("/v2/models/a/versions/1", "model"),
        ("/v2/models/a/dance", None),
        ("/v2/models", None),
        ("/v2/health/well", None),
    ],
)
def test_paths(path: str, action: str | None) -> None:
    place = place_of(path)
    assert (place.action if place else None) == action
    if action == "infer":
        assert place is not None
        assert place.policy == "a/b"
