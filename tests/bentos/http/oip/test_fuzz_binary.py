"""Requests of the Open Inference Protocol that say one thing and hold another: each is answered, none harms."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bentos.fuzzing import OF_TENSORS, Target

NAMES = ["observation", "action_mask", "episode_id", "user_id", "state", "observation.image", "", "x" * 3000, "\0"]
DATATYPES = ["FP32", "FP64", "FP16", "BF16", "INT64", "INT8", "UINT8", "BOOL", "BYTES", "fp32", "", "FP" + "9" * 500]
SIZES = [0, 1, 2, 3, 4, 5, 64, 4096, 4097, -1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**40, 1.5, "4", None, True, [4]]
WIDTHS = {"FP32": 4, "FP64": 8, "FP16": 2, "INT64": 8, "BOOL": 1}
OUTPUTS = ["action", "version", "arm", "source", "adjusted", "decision_id", "state", "logits", ""]
PATHS = ["/v2/models/cartpole/infer", "/v2/models/cartpole/versions/7/infer"]
ODD_PATHS = [
    "/v2/models/cartpole/versions/8/infer",
    "/v2/models/c%61rtpole/infer",
    "/v2/models/cart%2Fpole/infer",
    "/v2/models/%00/infer",
    "/v2/models/%ff%fe/infer",
    "/v2/models/../infer",
    "/v2/models/cartpole/infer/",
    "/v2/models/cartpole/infer?x=%ff",
    "/v2/models/" + "x" * 5000 + "/infer",
    "/v2//models/cartpole/infer",
    "/v1/policies/cartpole/act",
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    found = Target(tmp_path_factory.mktemp("fuzz"))
    yield found
    found.close()


def mostly(usual: Any, odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Eleven times in twelve the usual: with one thing wrong a request gets further than with five."""
    return st.integers(0, 11).flatmap(lambda chance: odd if chance == 11 else st.just(usual))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def tensors(draw: st.DrawFn, name: str, rows: int) -> tuple[dict[str, Any], bytes]:
    """An input as the protocol has it, and its bytes; each part may lie."""
    usual = {"observation": ("FP32", [rows, 4]), "action_mask": ("BOOL", [rows, 2])}.get(name, ("BYTES", [rows]))
    datatype = draw(mostly(usual[0], st.sampled_from(DATATYPES)))
    shape = draw(mostly(usual[1], st.lists(st.sampled_from(SIZES), max_size=6)))
    size = WIDTHS.get(usual[0], 4) * math.prod(usual[1])
    if usual[0] == "BYTES":
        texts = draw(st.lists(st.binary(max_size=6), min_size=rows % 64, max_size=rows % 64))
        data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        honest = np.ones(size // WIDTHS[usual[0]], {"FP32": "<f4", "BOOL": "?"}[usual[0]]).tobytes()
        data = draw(mostly(honest, st.just(b"\xff" * size) | st.binary(max_size=64)))
    data = data[: draw(mostly(len(data), st.integers(0, len(data))))]
    parameters: dict[str, Any] = {"binary_data_size": draw(mostly(len(data), st.sampled_from(SIZES)))}
    tensor = {"name": draw(mostly(name, st.sampled_from(NAMES))), "shape": shape, "datatype": datatype}
    if draw(st.integers(0, 3)) == 3:
        tensor["data"] = draw(mostly([0.5] * min(16, 4 * rows), json_values))
        parameters, data = draw(mostly({}, st.just(parameters))), b""
    if draw(st.integers(0, 9)) == 9:
        parameters |= {"shared_memory_region": draw(json_values), "binary_data": draw(json_values)}
    return {**tensor, "parameters": parameters}, data


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers."""
    path = draw(mostly(PATHS[0], st.sampled_from([*PATHS, *ODD_PATHS])))
    rows = draw(st.sampled_from([1, 1, 2, 3, 33, 300, 4096, 4097]))
    names = ["observation", *draw(mostly([], st.lists(st.sampled_from(NAMES), max_size=3)))]
    inputs = [draw(tensors(name, rows)) for name in names]
    document: dict[str, Any] = {"inputs": [tensor for tensor, _ in inputs]}
    if draw(st.booleans()):
        wanted = st.fixed_dictionaries(
            {"name": st.sampled_from(OUTPUTS)},
            optional={
                "parameters": st.fixed_dictionaries(
                    {"binary_data": st.booleans()}, optional={"classification": st.integers()}
                )
            },
        )
        document["outputs"] = draw(st.lists(wanted, max_size=5))
    parts = st.sampled_from(["id", "parameters", "outputs", "inputs"])
    document |= draw(mostly({}, st.dictionaries(parts, json_values, max_size=2)))
    head = json.dumps(document).encode()
    body = head + b"".join(data for _, data in inputs)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    if draw(st.integers(0, 9)) == 9:
        lies = [str(len(head) + 1), str(len(head) - 1), "0", "-1", "1e3", "", "9" * 4000, str(2**64), "0x10"]
        headers = draw(st.just({}) | st.sampled_from(lies).map(lambda lie: {"Inference-Header-Content-Length": lie}))
    encoding = draw(mostly("", st.sampled_from(["gzip", "deflate", "br", "gzip, gzip", "identity"])))
    if encoding:
        headers["Content-Encoding"] = encoding
        packed = {"gzip": gzip.compress(body, 1), "deflate": zlib.compress(body, 1)}.get(encoding, body)
        body = draw(mostly(packed, st.just(body) | st.just(packed[:-3]) | st.just(packed + b"more")))
    if draw(st.booleans()):
        headers["Accept-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "br;q=1, gzip;q=0", "*", "gzip;q=x"]))
    body = draw(mostly(body, st.just(body[: len(body) // 2]) | st.binary(max_size=200)))
    return path, body, headers


Request = tuple[str, bytes, dict[str, str]]


def variants(request: Request, random: Random) -> Iterator[Request]:
    """A request, and what it could have become on its way: cheaper to make than another one."""
    path, body, headers = request
    yield request
    yield path, body[: random.randrange(len(body) + 1)], headers
    damaged = bytearray(body)
    for _ in range(random.choice((1, 1, 8)) if body else 0):
        damaged[random.randrange(len(damaged))] = random.choice((0, 255, 0x22, 0x2D, 0x5D, random.randrange(256)))
    yield path, bytes(damaged), headers
    size = headers.get("Inference-Header-Content-Length", "")
    if size.isascii() and size.isdigit() and len(size) < 9:
        headers = {**headers, "Inference-Header-Content-Length": str(max(0, int(size) + random.randint(-9, 9)))}
    yield random.choice(PATHS), body + random.randbytes(random.choice((1, 4, 16))), headers


def test_no_request_of_tensors_is_answered_with_a_servers_error(target: Target) -> None:
    @settings(
        max_examples=OF_TENSORS // 4,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(), st.integers(0, 2**32))
    def send(call: Request, seed: int) -> None:
        for path, body, headers in variants(call, Random(seed)):
            target.ask("POST", path, body, headers)

    send()
    assert target.statuses[200] > OF_TENSORS // 25, "most of what is said is wrong, not all"


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("depth", [10, 60, 70, 500, 990, 1_010, 100_000, 2_000_000])
@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/v1/policies/cartpole/act", b'{"observation": ', b"}"),
        ("/v1/policies/cartpole/act", b'{"observations": [', b"]}"),
        ("/v1/policies/cartpole/act", b'{"observation": [0,0,0,0], "action_mask": ', b"}"),
        ("/v1/policies/cartpole/episodes", b'{"user_ids": ', b"}"),
        (
            PATHS[0],
            b'{"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": ',
            b"}]}",
        ),
        (PATHS[0], b'{"parameters": ', b', "inputs": []}'),
    ],
)
def test_json_however_deep_is_refused(target: Target, path: str, before: bytes, after: bytes, depth: int) -> None:
    status, _, _ = target.ask("POST", path, before + nested(depth) + after, {})
    assert status in (400, 422)


def test_one_long_text_among_many_numbers_is_refused_before_it_fills_memory(target: Target) -> None:
    """An array of texts has room for the longest in each place: 4 GB a megabyte, here."""
    rows = [["x" * 4_000_000, 0, 0, 0]] + [[0.0] * 4] * 4000
    for body in ({"observations": rows}, {"observation": rows}, {"observation": [0] * 4, "action_mask": rows}):
        status, _, _ = target.ask("POST", "/v1/policies/cartpole/act", json.dumps(body).encode(), {})
        assert status == 422
    tensor = {
        "name": "observation",
        "shape": [4001, 4],
        "datatype": "FP32",
        "data": [one for row in rows for one in row],
    }
    assert target.ask("POST", PATHS[0], json.dumps({"inputs": [tensor]}).encode(), {})[0] == 422


@pytest.mark.parametrize(
    "path", [*PATHS, *ODD_PATHS, "/v1/policies", "/v1/policies/", "/v2x", "/v1/policiesx", "/v2//"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_every_method_on_every_path_is_answered(target: Target, path: str, method: str) -> None:
    status, headers, _ = target.ask(method, path, b"", {})
    assert status != 405 or headers["allow"]
