"""A client of Airflow's REST API: triggers a DAG, follows its run, reads the logs of its tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from bentos import settings
from bentos.http_client import trusted

FINISHED = ("success", "failed")
"""States in which a DAG run has ended."""

_PATIENCE = 60.0
"""How long a transient fault of the API server (it restarts) is waited out while a run is followed, s."""


class AirflowError(Exception):
    """Airflow said no or did not answer; the message says what was asked, what came and what to do."""


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run. `state` is None until it is scheduled; times are Unix seconds; `map_index` is -1 unmapped."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    started: float | None
    ended: float | None

    @property
    def group(self) -> str:
        """The task group it stands in, or its own id outside of one."""
        return self.task_id.split(".", 1)[0]

    def seconds(self, now: float) -> float:
        """How long it has run by `now`, or ran."""
        return 0.0 if self.started is None else max(0.0, (self.ended or now) - self.started)


@dataclass(frozen=True)
class Run:
    """A DAG run and its tasks."""

    dag_id: str
    run_id: str
    state: str
    tasks: tuple[TaskInstance, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the run has succeeded or failed."""
        return self.state in FINISHED

    def failed(self) -> list[TaskInstance]:
        """Its tasks that failed, in order of their end."""
        found = [task for task in self.tasks if task.state == "failed"]
        return sorted(found, key=lambda task: task.ended or 0.0)


def credentials() -> tuple[str, str]:
    """User and password: `$AIRLOCK_AIRFLOW_USER` and `$AIRLOCK_AIRFLOW_PASSWORD`, else the embedded stack's admin."""
    from tasks.stack.environment import ADMIN, passwords, passwords_file

    user = os.environ.get("AIRLOCK_AIRFLOW_USER", ADMIN)
    password = os.environ.get("AIRLOCK_AIRFLOW_PASSWORD")
    if password is None:
        known = passwords() if passwords_file().exists() else {}
        if user not in known:
            raise AirflowError(
                f"no password for the Airflow user {user!r}: start the embedded stack with `airlock up`, or set "
                "AIRLOCK_AIRFLOW_USER and AIRLOCK_AIRFLOW_PASSWORD"
            )
        password = known[user]
    return user, password


def _unix(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp() if moment else None


def _detail(response: httpx.Response) -> str:
    try:
        document = response.json()
    except ValueError:
        return response.text.strip()[:500] or response.reason_phrase
    detail = document.get("detail", document) if isinstance(document, dict) else document
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(str(p) for p in item.get('loc', []))}: {item.get('msg')}" for item in detail)
    return str(detail).split("\n\n", 1)[0]  # what follows is the schema that was violated


class Airflow:
    """A session with one Airflow. Use as a context manager.

    Every method raises AirflowError. The token is fetched on first use and again when it has expired.
    """

    def __init__(self, url: str | None = None, user: str | None = None, password: str | None = None) -> None:
        self.url = (url or settings.airflow_url()).rstrip("/")
        self._login = (user, password) if user and password else None
        self._http = httpx.Client(base_url=self.url, timeout=30, verify=trusted(self.url))
        self._token: str | None = None

    def __enter__(self) -> Airflow:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _authenticate(self) -> str:
        user, password = self._login or credentials()
        response = self._send("POST", "/auth/token", json={"username": user, "password": password})
        if response.status_code in (401, 403):
            raise AirflowError(f"Airflow does not accept the password of {user!r}")
        if not response.is_success:
            raise AirflowError(f"Airflow gives no token ({response.status_code}): {_detail(response)}")
        return str(response.json()["access_token"])

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise AirflowError(
                f"Airflow does not answer at {self.url} ({type(error).__name__}: {error}); "
                "is the stack up? `airlock up` starts it, `airlock status` shows it"
            ) from error

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One call of `/api/v2{path}` with a token; any status below 500 is returned."""
        for attempt in (1, 2):
            self._token = self._token or self._authenticate()
            headers = {"Authorization": f"Bearer {self._token}", **arguments.get("headers", {})}
            response = self._send(method, f"/api/v2{path}", **{**arguments, "headers": headers})
            if response.status_code != 401 or attempt == 2:
                break
            self._token = None
        if response.status_code >= 500:
            raise AirflowError(f"Airflow failed with {response.status_code} at {path}: {_detail(response)}")
        return response

    def _json(self, method: str, path: str, what: str, **arguments: Any) -> Any:
        response = self.request(method, path, **arguments)
        if response.is_success:
            return response.json()
        reason = {
            400: "it does not accept the request",
            401: "the login has expired",
            403: "this user is not allowed to",
            404: "there is no such thing",
            409: "it exists already",
            422: "it does not accept the request",
        }.get(response.status_code, f"status {response.status_code}")
        raise AirflowError(f"{what}: {reason}: {_detail(response)}")

    def import_errors(self) -> dict[str, str]:
        """DAG files that Airflow cannot load: file name to the end of the traceback."""
        document = self._json("GET", "/importErrors", "listing import errors")
        return {str(e["filename"]): str(e["stack_trace"]).strip() for e in document["import_errors"]}

    def await_dag(self, dag_id: str, timeout: float = 60.0) -> None:
        """Return when Airflow has loaded the DAG. A new DAG file takes it up to half a minute."""
        deadline = time.monotonic() + timeout
        while True:
            response = self.request("GET", f"/dags/{quote(dag_id)}")
            if response.is_success:
                return
            if response.status_code != 404:
                raise AirflowError(f"the DAG {dag_id} cannot be read: {_detail(response)}")
            policy = dag_id.split("_", 1)[-1]
            for file, trace in self.import_errors().items():
                if file.endswith(f"{policy}.py"):
                    raise AirflowError(f"the DAG file {file} does not load: {trace.splitlines()[-1]}")
            if time.monotonic() > deadline:
                raise AirflowError(
                    f"Airflow has no DAG {dag_id}; `airlock policies sync` writes the DAG files of new specs"
                )
            time.sleep(1)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> Run:
        """Start a run of the DAG with `conf` as its params. A param outside its bounds is an AirflowError."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        document = self._json("POST", f"/dags/{quote(dag_id)}/dagRuns", f"triggering {dag_id}", json=body)
        return Run(dag_id, str(document["dag_run_id"]), str(document["state"]))

    def run(self, dag_id: str, run_id: str) -> Run:
        """A run with the state of each of its tasks."""
        path = f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"
        document = self._json("GET", path, f"reading the run {run_id} of {dag_id}")
        instances = self._json("GET", f"{path}/taskInstances?limit=100", f"reading the tasks of {run_id}")
        tasks = [
            TaskInstance(
                task_id=str(item["task_id"]),
                map_index=int(item["map_index"]),
                state=item["state"],
                try_number=int(item["try_number"] or 0),
                started=_unix(item["start_date"]),
                ended=_unix(item["end_date"]),
            )
            for item in instances["task_instances"]
        ]
        return Run(dag_id, run_id, str(document["state"]), tuple(tasks))

    def log(self, run: Run, task: TaskInstance, lines: int = 20) -> str:
        """The end of the log of a task's latest try, as plain lines."""
        path = f"/dags/{quote(run.dag_id)}/dagRuns/{quote(run.run_id, safe='')}/taskInstances/{quote(task.task_id)}"
        document = self._json(
            "GET",
            f"{path}/logs/{max(1, task.try_number)}",
            f"reading the log of {task.task_id}",
            params={"map_index": task.map_index, "full_content": True},
            headers={"Accept": "application/json"},
        )
        events = [entry if isinstance(entry, str) else _event(entry) for entry in document["content"]]
        return "\n".join([line for event in events for line in event.splitlines()][-lines:])

    def follow(
        self,
        dag_id: str,
        run_id: str,
        on_change: Callable[[Run], None] = lambda run: None,
        timeout: float | None = None,
        every: float = 1.0,
    ) -> Run:
        """Wait until the run has ended, calling `on_change` after every look. A restarting API server is waited for.

        Raises AirflowError when it stays away, or when `timeout` seconds have passed.
        """
        begun = answered = time.monotonic()
        while True:
            try:
                run = self.run(dag_id, run_id)
                answered = time.monotonic()
            except AirflowError:
                if time.monotonic() - answered > _PATIENCE:
                    raise
            else:
                on_change(run)
                if run.ended:
                    return run
            if timeout is not None and time.monotonic() - begun > timeout:
                raise AirflowError(f"the run {run_id} of {dag_id} has not ended after {timeout:.0f} s")
            time.sleep(every)

    def run_url(self, dag_id: str, run_id: str) -> str:
        """The run's page in the Airflow UI."""
        return f"{self.url}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"


def _event(entry: Mapping[str, Any]) -> str:
    details = entry.get("error_detail") or []
    causes = [f"{cause.get('exc_type')}: {cause.get('exc_value')}" for cause in details]
    return "\n".join([str(entry.get("event", "")), *causes])
