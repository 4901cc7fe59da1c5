"""Airflow as the console meets it: its users, its permissions, and the application that the console is mounted in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.api_fastapi.app import create_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.testclient import TestClient

from plugins.console import PREFIX
from plugins.console.mount import Console


@pytest.fixture(scope="module")
def airflow() -> FastAPI:
    """Airflow's auth manager with its database, and the console mounted as Airflow mounts it.

    What the console asks of Airflow's REST API is answered by a double; the live stack's tests have the real one.
    """
    from airflow import models, settings
    from airflow.models.base import Base

    settings.initialize()
    models.import_all_models()
    Base.metadata.create_all(settings.engine)
    create_auth_manager().init()
    app = FastAPI()

    app.state.triggered = []

    @app.get("/api/v2/dags/{dag}/dagRuns/~/hitlDetails")
    def waiting(dag: str) -> dict[str, Any]:
        task = {"state": "awaiting_input", "dag_run_id": "manual__1", "task_id": "pre_deployment.approval"}
        answered = {"subject": "answered since", "task_instance": {**task, "state": "success"}}
        return {"hitl_details": [{"subject": "Release it?", "task_instance": task}, answered]}

    @app.post("/api/v2/dags/{dag}/dagRuns")
    def trigger(dag: str, body: dict[str, Any], request: Request) -> Response:
        if body["conf"].get("timesteps", 1) > 100:
            return JSONResponse({"detail": "timesteps: too many\n\nthe schema"}, 400)
        app.state.triggered.append((dag, body, request.headers["authorization"]))
        return JSONResponse({"dag_run_id": "manual__2"})

    app.mount(PREFIX, Console())
    return app


@pytest.fixture
def visit(airflow: FastAPI) -> Callable[..., TestClient]:
    """`visit("viewer")` is a browser that signed in with that role; `visit()` one that did not."""

    def browser(role: str | None = None, known_role: bool = True, name: str = "somebody") -> TestClient:
        client = TestClient(airflow, follow_redirects=False)
        if role is not None:
            user = SimpleAuthManagerUser(username=name, role=role if known_role else None, teams=None)
            client.cookies.set(COOKIE_NAME_JWT_TOKEN, create_auth_manager().generate_jwt(user))
        return client

    return browser
