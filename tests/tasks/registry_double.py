"""A registry in memory with the control plane's view of MLflow, for tests that make hundreds of transitions."""

from __future__ import annotations

from typing import Any

from tasks.tracking.client import RegistryRefused
from tasks.tracking.registry import Model, Registry, Version


class RegistryDouble(Registry):
    """Behaves as MLflow does for the calls the control plane makes; several policies."""

    def __init__(self) -> None:
        self.url = "memory"
        self._aliases: dict[str, dict[str, str]] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self._versions: dict[str, dict[str, dict[str, str]]] = {}

    def create(self, policy: str) -> None:
        """Create a registered model."""
        self._aliases[policy], self._tags[policy], self._versions[policy] = {}, {}, {}

    def create_version(self, policy: str) -> str:
        """Create the next version, without tags."""
        version = str(len(self._versions[policy]) + 1)
        self._versions[policy][version] = {}
        return version

    def model(self, policy: str) -> Model | None:
        if policy not in self._tags:
            return None
        return Model(dict(self._aliases[policy]), dict(self._tags[policy]))

    def version(self, policy: str, version: str) -> Version | None:
        tags = self._versions.get(policy, {}).get(version)
        return None if tags is None else Version(version, "run", dict(tags))

    def versions(self, policy: str) -> list[Version]:
        return [Version(version, "run", dict(tags)) for version, tags in self._versions[policy].items()]

    def set_alias(self, policy: str, alias: str, version: str) -> None:
        self._known(policy, version)
        self._aliases[policy][alias] = version

    def delete_alias(self, policy: str, alias: str) -> None:
        self._aliases[policy].pop(alias, None)

    def set_model_tag(self, policy: str, key: str, value: str) -> None:
        self._tags[policy][key] = value

    def delete_model_tag(self, policy: str, key: str) -> None:
        self._tags[policy].pop(key, None)

    def set_version_tag(self, policy: str, version: str, key: str, value: str) -> None:
        self._known(policy, version)[key] = value

    def artifact(self, run_id: str, path: str) -> Any | None:
        return None

    def _known(self, policy: str, version: str) -> dict[str, str]:
        try:
            return self._versions[policy][version]
        except KeyError:
            raise RegistryRefused(f"{policy} has no version {version}") from None
