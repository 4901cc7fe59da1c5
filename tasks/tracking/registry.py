"""The MLflow registry over REST, as the control plane uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tasks.tracking.client import Connection


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


class Registry(Connection):
    """One connection to the registry; a context manager. Safe to use from one thread."""

    def model(self, policy: str) -> Model | None:
        """The registered model of a policy, or None when there is none yet."""
        answer = self.ask("GET", "registered-models/get", {"name": policy}, missing_ok=True)
        if answer is None:
            return None
        found = answer["registered_model"]
        return Model({item["alias"]: str(item["version"]) for item in found.get("aliases", [])}, _tags(found))

    def version(self, policy: str, version: str) -> Version | None:
        """One model version, or None when there is no such one."""
        answer = self.ask("GET", "model-versions/get", {"name": policy, "version": version}, missing_ok=True)
        return _version(answer["model_version"]) if answer else None

    def versions(self, policy: str) -> list[Version]:
        """All versions of a policy, oldest first."""
        found: list[Version] = []
        query = {"filter": f"name='{policy}'", "max_results": "1000"}
        while True:
            answer = self.ask("GET", "model-versions/search", query) or {}
            found += [_version(item) for item in answer.get("model_versions", [])]
            if not answer.get("next_page_token"):
                return sorted(found, key=lambda version: int(version.version))
            query["page_token"] = answer["next_page_token"]

    def set_alias(self, policy: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        self.ask("POST", "registered-models/alias", {"name": policy, "alias": alias, "version": version})

    def delete_alias(self, policy: str, alias: str) -> None:
        """Remove an alias; none there is success."""
        self.ask("DELETE", "registered-models/alias", {"name": policy, "alias": alias}, missing_ok=True)

    def set_model_tag(self, policy: str, key: str, value: str) -> None:
        """Set a tag of the registered model."""
        self.ask("POST", "registered-models/set-tag", {"name": policy, "key": key, "value": value})

    def delete_model_tag(self, policy: str, key: str) -> None:
        """Remove a tag of the registered model; none there is success."""
        self.ask("DELETE", "registered-models/delete-tag", {"name": policy, "key": key}, missing_ok=True)

    def set_version_tag(self, policy: str, version: str, key: str, value: str) -> None:
        """Set a tag of a model version."""
        self.ask("POST", "model-versions/set-tag", {"name": policy, "version": version, "key": key, "value": value})

    def describe_version(self, policy: str, version: str, text: str) -> None:
        """Set the description of a model version, Markdown, at most 5,000 characters."""
        self.ask("PATCH", "model-versions/update", {"name": policy, "version": version, "description": text})

    def describe_model(self, policy: str, text: str) -> None:
        """Set the description of the registered model, Markdown, at most 5,000 characters."""
        self.ask("PATCH", "registered-models/update", {"name": policy, "description": text})

    def artifact(self, run_id: str, path: str) -> Any | None:
        """A JSON artifact of an MLflow run, or None when there is none."""
        folder = path.rpartition("/")[0]

        def listed() -> list[str]:
            fields = {"run_id": run_id} | ({"path": folder} if folder else {})
            found = self.ask("GET", "artifacts/list", fields) or {}
            return [item["path"] for item in found.get("files", [])]

        answer = self.file("/get-artifact", {"run_uuid": run_id, "path": path}, listed, path)
        return json.loads(answer.content) if answer is not None and answer.status_code == 200 else None


def _tags(document: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item.get("value", "") for item in document.get("tags", [])}


def _version(document: dict[str, Any]) -> Version:
    return Version(str(document["version"]), document.get("run_id", ""), _tags(document))
