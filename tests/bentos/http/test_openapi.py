"""The served OpenAPI document, and BentoML's typed client, which lives on it."""

from __future__ import annotations

import json
from typing import Any

import bentoml
import httpx
import pytest
import yaml
from bentoml.exceptions import BentoMLException

from bentos.http import openapi
from bentos.http.auth import Guard
from bentos.http.router import Router
from bentos.tokens import Signer
from tests.bentos.gateway_process import EPISODE_KEY, GatewayProcess

RIGHT, LEFT = [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0]


@pytest.fixture(scope="module")
def document(served: GatewayProcess) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{served.url}/docs.json").json()
    return found


def test_the_document_describes_the_gateways_routes_beside_bentomls(document: dict[str, Any]) -> None:
    assert document["openapi"] == openapi.VERSION
    for operation in openapi.operations():
        assert operation.method in document["paths"][operation.path]
    assert {"/act", "/readyz", "/metrics"} <= set(document["paths"])
    act = document["paths"]["/v1/policies/{policy}/act"]
    assert act["parameters"][0]["schema"]["examples"] == ["cartpole"]
    assert act["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ActRequest")
    typed = document["components"]["schemas"]["ActRequest"]["properties"]
    assert "episode_ids" in typed


def test_the_log_of_overrides_is_described_as_the_admins(document: dict[str, Any]) -> None:
    log = document["paths"]["/v1/policies/{policy}/override"]["get"]
    assert log["security"] == [{"admin": []}]
    assert [one["name"] for one in log["parameters"]] == ["limit"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, list):
            return [found for one in value for found in references(one)]
        if isinstance(value, dict):
            here = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return here + [found for one in value.values() for found in references(one)]
        return []

    found = references(document)
    assert found
    for reference in found:
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def test_a_bento_keeps_the_document_as_plain_yaml() -> None:
    whole = openapi.merged({"openapi": "3.0.2", "info": {}, "paths": {}}, ["cartpole"])
    assert yaml.safe_load(yaml.dump(whole)) == whole.asdict()


def test_bentomls_client_asks_with_types(served: GatewayProcess) -> None:
    (episode,) = served.client.start_episodes("cartpole", [None])
    with bentoml.SyncHTTPClient(served.url) as client:
        answer = client.act(policy="cartpole", observations=[RIGHT, LEFT], episode_ids=[episode["episode_id"], None])
        assert answer["actions"] == [1, 0]
        assert (answer["versions"], answer["sources"]) == (["7", "7"], ["policy", "policy"])
        masked = client.act(policy="cartpole", observations=[RIGHT], action_masks=[[True, False]])
        assert (masked["actions"], masked["adjusted"]) == ([0], [["action_mask"]])
        served.client.set_override("cartpole", 0, ttl_seconds=60, reason="a test", user_id="ada")
        try:
            overridden = client.act(policy="cartpole", observations=[RIGHT, RIGHT], user_ids=["ada", None])
        finally:
            served.client.clear_override("cartpole", user_id="ada")
        assert overridden["sources"] == ["override", "policy"]
        with pytest.raises(BentoMLException, match="no policy"):
            client.act(policy="chess", observations=[RIGHT])
    assert Signer(EPISODE_KEY).episode(episode["episode_id"]).version == "7"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"policy": "cartpole"}', 400, "observations: Field required"),
        (b'{"policy": "cartpole", "observations": [[1.0]]}', 422, "observation"),
        (b'{"policy": "chess", "observations": [[1.0]]}', 404, "chess"),
        (b'{"policy": ', 400, ""),
    ],
)
def test_a_bad_request_to_bentomls_route_is_a_line_in_the_log(
    served: GatewayProcess, body: bytes, status: int, said: str
) -> None:
    before = len(served.log.read_bytes())
    answer = httpx.post(f"{served.url}/act", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    added = served.log.read_bytes()[before:].decode()
    assert "Traceback" not in added
    (line,) = [json.loads(one) for one in added.splitlines() if '"path":"/act"' in one]
    assert (line["status"], line["level"], line["method"]) == (status, "warning", "POST")
    assert said in line["detail"]


def test_bentomls_route_is_described_with_its_answer(document: dict[str, Any]) -> None:
    act = document["paths"]["/act"]["post"]
    asked = act["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"policy", "observations", "user_ids", "episode_ids", "action_masks", "states"} == set(asked)
    answered = act["responses"]["200"]["content"]["application/json"]["schema"]
    schemas = document["components"]["schemas"]
    if "$ref" in answered:
        answered = schemas[answered["$ref"].rsplit("/", 1)[1]]
    assert {"actions", "versions", "arms", "sources", "adjusted", "decision_ids"} <= set(answered["properties"])


def test_no_route_of_the_gateway_is_left_out() -> None:
    described = {(operation.method.upper(), operation.path) for operation in openapi.operations()}
    for method, action in Router(Guard("token")).v1._handlers:
        path = "/v1/policies/{policy}" + (f"/{action}" if action else "")
        assert (method, path) in described
