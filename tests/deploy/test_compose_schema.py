"""docker-compose.yml against the schema of the Compose specification."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for

from tests.deploy.dockerfile import REPOSITORY


@pytest.fixture
def document() -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text()))


def problems(document: dict[str, Any]) -> list[str]:
    """What the schema has against a document: where, and why."""
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text())
    validator = validator_for(schema)
    validator.check_schema(schema)
    return [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(document)]


def test_it_is_what_the_specification_takes(document: dict[str, Any]) -> None:
    assert problems(document) == []


@pytest.mark.parametrize(
    ("key", "value"), [("heathcheck", {"test": ["CMD", "true"]}), ("depends_on", {"redis": {"condition": "healthy"}})]
)
def test_what_the_specification_does_not_take_is_found(document: dict[str, Any], key: str, value: Any) -> None:
    document["services"]["gateway"][key] = value
    assert any("gateway" in problem for problem in problems(document))
