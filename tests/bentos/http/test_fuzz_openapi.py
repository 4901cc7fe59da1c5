"""Requests that schemathesis generates from the served OpenAPI document: whatever is asked, the gateway answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.bentos.fuzzing import FROM_OPENAPI, HANG_SECONDS, Target
from tests.bentos.gateway_process import ADMIN_TOKEN

PLAUSIBLE = [[0.0, 0.0, 0.0, 1.0], [0, 0, 0, -1], [[0.0] * 4] * 2, [0.0, 1e38, -1e300, 1], [[[]]], "word", 7, None]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    found = Target(tmp_path_factory.mktemp("fuzz"))
    yield found
    found.close()


def nudged(case: schemathesis.Case, data: Any) -> None:
    """Make a generated request meet something more often than chance would: a policy that is there, an observation."""
    if case.path_parameters and data.draw(st.integers(0, 3)):
        case.path_parameters["policy"] = "cartpole"
        if "version" in case.path_parameters:
            case.path_parameters["version"] = data.draw(st.sampled_from(["7", "8"]))
    if isinstance(case.body, dict):
        for name in ("observation", "observations", "action"):
            if name in case.body and data.draw(st.booleans()):
                case.body[name] = data.draw(st.sampled_from(PLAUSIBLE))
        if case.body.get("policy") is not None and data.draw(st.booleans()):
            case.body["policy"] = "cartpole"


def send_some(target: Target, session: requests.Session, operation: Any, mode: GenerationMode, count: int) -> None:
    """Send `count` requests generated for one operation, and have the answers judged."""
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def send(data: Any) -> None:
        case = data.draw(cases)
        nudged(case, data)
        response = case.call(session=session, timeout=HANG_SECONDS)
        headers = {name.lower(): value[0] for name, value in response.headers.items()}
        target.judge(response.status_code, headers, response.content, operation.path.startswith(("/v1", "/v2")))

    send()


def test_no_generated_request_is_answered_with_a_servers_error(target: Target) -> None:
    schema = schemathesis.openapi.from_url(f"{target.gateway.url}/docs.json", timeout=HANG_SECONDS)
    schema.config.update(base_url=target.gateway.url)
    operations = [result.ok() for result in schema.get_all_operations()]
    asked = [(operation, mode) for operation in operations for mode in MODES if operation.body]
    assert len(asked) >= 18
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"
        for operation in operations:
            if not operation.body:  # there is only a path to get wrong
                send_some(target, session, operation, GenerationMode.POSITIVE, max(2, FROM_OPENAPI // 100))
        for operation, mode in asked:
            send_some(target, session, operation, mode, max(2, FROM_OPENAPI // len(asked)))
