"""A stand-in for Airflow's REST API: logins, one DAG, runs whose tasks move as the test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request

TASKS = ("build.train", "build.evaluate", "register.model_version", "canary.verdict", "report")


def instance(task_id: str, state: str | None, started: str | None = None, ended: str | None = None) -> dict[str, Any]:
    """A task instance as Airflow's API writes it."""
    return {
        "task_id": task_id,
        "map_index": -1,
        "state": state,
        "try_number": 1 if state else 0,
        "start_date": started,
        "end_date": ended,
    }


@dataclass
class AirflowDouble:
    """`moments` are what a run looks like at one look after the other: (run state, task instances); the last stays."""

    moments: list[tuple[str, list[dict[str, Any]]]] = field(
        default_factory=lambda: [("success", [instance(task, "success") for task in TASKS])]
    )
    dags: set[str] = field(default_factory=lambda: {"release_cartpole"})
    import_errors: list[dict[str, str]] = field(default_factory=list)
    viewers: bool = False
    faults: list[int] = field(default_factory=list)
    """Status codes that the next looks at a run answer with."""
    tokens: int = 0
    triggered: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def revoke(self) -> None:
        """Let every token expire that was given out so far."""
        self._valid = f"token-{self.tokens + 1}"

    def application(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI()
        self._valid = "token-1"

        def allowed(authorization: str) -> None:
            if authorization != f"Bearer {self._valid}":
                raise HTTPException(401, "expired")

        @app.post("/auth/token", status_code=201)
        async def token(request: Request) -> dict[str, str]:
            login = await request.json()
            if (login["username"], login["password"]) != ("admin", "secret"):
                raise HTTPException(401, "Invalid credentials")
            self.tokens += 1
            return {"access_token": f"token-{self.tokens}"}

        @app.get("/api/v2/dags/{dag_id}")
        def dag(dag_id: str, authorization: str = Header()) -> dict[str, str]:
            allowed(authorization)
            if dag_id not in self.dags:
                raise HTTPException(404, f"The DAG with ID: `{dag_id}` was not found")
            return {"dag_id": dag_id}

        @app.get("/api/v2/importErrors")
        def import_errors(authorization: str = Header()) -> dict[str, Any]:
            allowed(authorization)
            return {"import_errors": self.import_errors}

        @app.post("/api/v2/dags/{dag_id}/dagRuns")
        async def trigger(dag_id: str, request: Request, authorization: str = Header()) -> dict[str, str]:
            allowed(authorization)
            body = await request.json()
            if self.viewers:
                raise HTTPException(403, "Forbidden")
            if body["conf"].get("seed", 0) < 0:
                raise HTTPException(400, "Invalid input for param seed: -3 is less than 0\n\nFailed validating")
            assert body["logical_date"] is None
            self.triggered.append(body["conf"])
            return {"dag_run_id": "manual__1", "state": "queued"}

        @app.get("/api/v2/dags/{dag_id}/dagRuns/{run_id}")
        def run(authorization: str = Header()) -> dict[str, str]:
            allowed(authorization)
            if self.faults:
                raise HTTPException(self.faults.pop(0), "restarting")
            return {"state": self.moments[0][0]}

        @app.get("/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        def instances(authorization: str = Header()) -> dict[str, Any]:
            allowed(authorization)
            moment = self.moments.pop(0) if len(self.moments) > 1 else self.moments[0]
            return {"task_instances": moment[1]}

        @app.get("/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}")
        def logs(task_id: str, authorization: str = Header()) -> dict[str, Any]:
            allowed(authorization)
            cause = {"exc_type": "Rejected", "exc_value": "mean return 9.3 is below 400"}
            return {"content": [{"event": f"{task_id} begins"}, {"event": "it broke", "error_detail": [cause]}]}

        return app


@contextmanager
def serving(double: AirflowDouble) -> Iterator[AirflowDouble]:
    """The double, listening on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(double.application(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    double.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield double
    finally:
        server.should_exit = True
        thread.join(timeout=10)
