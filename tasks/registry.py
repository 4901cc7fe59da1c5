"""The MLflow registry over REST, as the control plane uses it: quick to import, every call bounded in time.

MLflow's own client costs a second to import and may retry for minutes, longer than a lease lasts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from bentos import home
from tasks.errors import Misconfigured

TIMEOUT = httpx.Timeout(connect=3.0, write=5.0, read=12.0, pool=3.0)
"""Together less than a lease lasts (`tasks.lease.TTL_SECONDS`), so that no call of a lost lease lands late."""

_API = "/api/2.0/mlflow"
_MISSING = "RESOURCE_DOES_NOT_EXIST"


class RegistryUnavailable(Exception):
    """MLflow did not answer, or answered that it cannot now: worth another try."""


class RegistryRefused(Misconfigured):
    """MLflow said no to a request; trying again will not help."""


@dataclass(frozen=True)
class Model:
    """A registered model as it stands: alias -> version, and its tags."""

    aliases: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True)
class Version:
    """A model version: its MLflow run and its tags."""

    version: str
    run_id: str
    tags: dict[str, str]


class Registry:
    """One connection to the registry; a context manager. Safe to use from one thread."""

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or home.mlflow_url()).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise Misconfigured(f"MLFLOW_TRACKING_URI must be the URL of an MLflow server, came {self.url!r}")
        user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
        self._client = httpx.Client(
            base_url=self.url,
            timeout=TIMEOUT,
            verify=self.url.startswith("https"),
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            headers={"Authorization": f"Bearer {token}"} if token and not user else None,
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def model(self, policy: str) -> Model | None:
        """The registered model of a policy, or None when there is none yet."""
        answer = self._ask("GET", "registered-models/get", {"name": policy}, missing_ok=True)
        if answer is None:
            return None
        found = answer["registered_model"]
        return Model({item["alias"]: str(item["version"]) for item in found.get("aliases", [])}, _tags(found))

    def version(self, policy: str, version: str) -> Version | None:
        """One model version, or None when there is no such one."""
        answer = self._ask("GET", "model-versions/get", {"name": policy, "version": version}, missing_ok=True)
        return _version(answer["model_version"]) if answer else None

    def versions(self, policy: str) -> list[Version]:
        """All versions of a policy, oldest first."""
        found: list[Version] = []
        query = {"filter": f"name='{policy}'", "max_results": "1000"}
        while True:
            answer = self._ask("GET", "model-versions/search", query) or {}
            found += [_version(item) for item in answer.get("model_versions", [])]
            if not answer.get("next_page_token"):
                return sorted(found, key=lambda version: int(version.version))
            query["page_token"] = answer["next_page_token"]

    def set_alias(self, policy: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        self._ask("POST", "registered-models/alias", {"name": policy, "alias": alias, "version": version})

    def delete_alias(self, policy: str, alias: str) -> None:
        """Remove an alias; none there is success."""
        self._ask("DELETE", "registered-models/alias", {"name": policy, "alias": alias}, missing_ok=True)

    def set_model_tag(self, policy: str, key: str, value: str) -> None:
        """Set a tag of the registered model."""
        self._ask("POST", "registered-models/set-tag", {"name": policy, "key": key, "value": value})

    def delete_model_tag(self, policy: str, key: str) -> None:
        """Remove a tag of the registered model; none there is success."""
        self._ask("DELETE", "registered-models/delete-tag", {"name": policy, "key": key}, missing_ok=True)

    def set_version_tag(self, policy: str, version: str, key: str, value: str) -> None:
        """Set a tag of a model version."""
        self._ask("POST", "model-versions/set-tag", {"name": policy, "version": version, "key": key, "value": value})

    def artifact(self, run_id: str, path: str) -> Any | None:
        """A JSON artifact of an MLflow run, or None when there is none."""
        answer = self._send("GET", "/get-artifact", {"run_uuid": run_id, "path": path})
        return json.loads(answer.content) if answer.status_code == 200 else None

    def _ask(self, method: str, path: str, fields: dict[str, str], missing_ok: bool = False) -> dict[str, Any] | None:
        answer = self._send(method, f"{_API}/{path}", fields)
        if answer.status_code == 200:
            document: dict[str, Any] = answer.json()
            return document
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        if missing_ok and problem.get("error_code") == _MISSING:
            return None
        said = problem.get("message") or answer.text[:200]
        raise RegistryRefused(f"MLflow at {self.url} refused {path} {fields}: {answer.status_code} {said}")

    def _send(self, method: str, path: str, fields: dict[str, str]) -> httpx.Response:
        try:
            if method == "GET":
                answer = self._client.get(path, params=fields)
            else:
                answer = self._client.request(method, path, json=fields)
        except httpx.HTTPError as error:
            raise RegistryUnavailable(
                f"MLflow at {self.url} did not answer {path}: {type(error).__name__}: {error}"
            ) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise RegistryUnavailable(f"MLflow at {self.url} answered {answer.status_code} to {path}")
        return answer


def _tags(document: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item.get("value", "") for item in document.get("tags", [])}


def _version(document: dict[str, Any]) -> Version:
    return Version(str(document["version"]), document.get("run_id", ""), _tags(document))
