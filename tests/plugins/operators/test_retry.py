"""Outages are waited out, mistakes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from plugins.operators.retry import passing, wait_out
from tasks.tracking.client import Connection, RegistryUnavailable
from tasks.tracking.release import client
from tests.bentos.scripted_server import hangs_up, says, scripted


def failing(times: int, error: Exception) -> Callable[[str], str]:
    """Work that fails so often, then succeeds."""
    left = iter([error] * times)

    def work(word: str) -> str:
        for one in left:
            raise one
        return word

    return work


def away() -> Exception:
    """What SQLAlchemy says of a database that cannot be opened."""
    with pytest.raises(sa.exc.OperationalError) as caught:
        sa.create_engine("sqlite:////no/such/folder/airlock.db").connect()
    return caught.value


def test_work_goes_on_once_the_database_is_back() -> None:
    assert wait_out(failing(3, away()), "done", pause=0.01) == "done"


def test_work_goes_on_once_mlflow_is_back() -> None:
    with scripted(hangs_up, says(503), says(200, b'{"experiment": 1}')) as server, Connection(server.url) as connection:
        assert wait_out(connection.ask, "GET", "x", {}, pause=0.01) == {"experiment": 1}


def test_work_that_mlflows_own_client_gave_up_on_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    answer = b'{"registered_model": {"name": "cartpole"}}'
    temporary = says(503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "the database is away"}')
    with scripted(hangs_up, temporary, says(200, answer)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        found = wait_out(client().get_registered_model, "cartpole", pause=0.01)
    assert found.name == "cartpole"


def test_a_mistake_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="wrong"):
        wait_out(failing(1, ValueError("wrong")), "done", pause=0.01)
    assert not passing(sa.exc.ProgrammingError("SELECT", {}, Exception()))


def test_what_mlflow_refuses_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = says(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}')
    with scripted(refused) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with pytest.raises(Exception, match="no such model") as caught:
            client().get_registered_model("cartpole")
    assert not passing(caught.value)


def test_patience_ends() -> None:
    with pytest.raises(RegistryUnavailable):
        wait_out(failing(1000, RegistryUnavailable("away")), "done", patience=0.05, pause=0.01)
