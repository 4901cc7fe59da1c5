"""The MLflow registry over its REST API, read only: importing MLflow would cost a worker 120 MB."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bentos.http_client import mlflow_login, trusted
from bentos.package.digests import BASELINE, MANIFEST, verify_file
from bentos.package.manifest import Manifest, PackageError, decode_manifest

_DIGEST = re.compile("[0-9a-f]{64}")

ROUTABLE = ("approved", "promoted")
"""Values of the version tag `validation_status` that a gateway routes new traffic to."""

_ARTIFACTS = "mlflow-artifacts:"
_MANIFEST_LIMIT = 16 * 2**20


class RegistryDown(Exception):
    """The registry did not answer, or not as expected."""


class Picture(msgspec.Struct, frozen=True):
    """What the registry says about one policy. `versions` maps the versions that matter to their tags.

    `canary` is the raw tag; `newest` is the latest version there is.
    """

    policy: str
    champion: str | None
    previous: str | None
    challenger: str | None
    newest: str | None
    canary: str | None
    versions: dict[str, dict[str, str]]


class Registry:
    """A read-only client."""

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, verify=trusted(url), auth=mlflow_login())
        self._tags: dict[tuple[str, str], dict[str, str]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def pictures(self, refresh: bool) -> list[Picture]:
        """All of Airlock's policies. Raises RegistryDown.

        `refresh` asks again for the tags of versions that are not the newest; those of the newest come with every call,
        those of a version just aliased are always asked for.
        """
        if refresh:
            self._tags.clear()
        found: list[Picture] = []
        token: str | None = ""
        while token is not None:
            query = {"filter": "tags.airlock = 'policy'", "max_results": "200"}
            if token:
                query["page_token"] = token
            page = await self._get("/api/2.0/mlflow/registered-models/search", query)
            for model in page.get("registered_models", ()):
                found.append(await self._picture(model))
            token = page.get("next_page_token") or None
        return found

    async def _picture(self, model: dict[str, Any]) -> Picture:
        name = model["name"]
        aliases = {item["alias"]: str(item["version"]) for item in model.get("aliases", ())}
        latest = {str(item["version"]): _tags(item) for item in model.get("latest_versions", ())}
        newest = max(latest, key=int, default=None)
        canary = _tags(model).get("canary") or None
        wanted = {aliases.get(alias) for alias in ("champion", "previous", "challenger")}
        wanted |= {newest, _version_of(canary)}
        versions: dict[str, dict[str, str]] = {}
        for version in sorted(one for one in wanted if one is not None):
            tags = latest.get(version)
            if tags is None:
                tags = self._tags.get((name, version))
            if tags is None:
                tags = await self._version(name, version)
                self._tags[name, version] = tags
            versions[version] = tags
        return Picture(
            policy=name,
            champion=aliases.get("champion"),
            previous=aliases.get("previous"),
            challenger=aliases.get("challenger"),
            newest=newest,
            canary=canary,
            versions=versions,
        )

    async def _version(self, name: str, version: str) -> dict[str, str]:
        answer = await self._get("/api/2.0/mlflow/model-versions/get", {"name": name, "version": version}, missing={})
        return _tags(answer.get("model_version", {}))

    async def _get(self, path: str, query: dict[str, str], missing: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = await self._client.get(path, params=query)
            if response.status_code == 404 and missing is not None:
                return missing
            response.raise_for_status()
            document: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            raise RegistryDown(f"{path}: {type(error).__name__}: {error}") from error
        return document

    async def fetch_package(self, uri: str, package_sha256: str, cache: Path) -> Path:
        """The local directory of a package, downloaded into `cache` unless it is there, whole and unchanged.

        Only what serving needs is fetched: the manifest, the baseline and the graph that is served, digests checked
        before the directory gets its name. Raises PackageError (a digest or a file does not fit) or RegistryDown.
        """
        if not _DIGEST.fullmatch(package_sha256):
            raise PackageError(f"the tag package_sha256 is not a SHA-256 in hex: {package_sha256[:80]!r}")
        target = cache / package_sha256
        if target.is_dir():
            try:
                await asyncio.to_thread(verify, target, package_sha256)
                return target
            except PackageError:
                await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        draft = cache / f".{package_sha256[:16]}.{os.getpid()}.{secrets.token_hex(4)}"
        draft.mkdir(parents=True)
        try:
            await self._download(uri, MANIFEST, draft, _MANIFEST_LIMIT)
            manifest = checked_manifest(draft, package_sha256)
            for name in needed_files(manifest):
                await self._download(uri, name, draft, manifest.files[name].size)
            await asyncio.to_thread(verify, draft, package_sha256)
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():  # else another worker was first, with the same bytes
                    raise
        finally:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        return target

    async def _download(self, uri: str, name: str, directory: Path, limit: int) -> None:
        path = f"/api/2.0/mlflow-artifacts/artifacts/{artifact_path(uri)}/{name}"
        size = 0
        try:
            async with self._client.stream("GET", path) as response:
                if response.status_code == 404:
                    raise PackageError(f"{uri}/{name}: missing in the artifact store")
                response.raise_for_status()
                with (directory / name).open("wb") as file:
                    async for chunk in response.aiter_bytes():
                        size += len(chunk)
                        if size > limit:
                            raise PackageError(f"{uri}/{name}: larger than the {limit} bytes expected")
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise RegistryDown(f"{path}: {type(error).__name__}: {error}") from error


def artifact_path(uri: str) -> str:
    """The path below MLflow's artifact proxy. Raises PackageError for any other kind of URI."""
    if not uri.startswith(_ARTIFACTS):
        raise PackageError(f"package_uri {uri!r}: expected {_ARTIFACTS}/..., packages come through MLflow's proxy")
    path = uri.removeprefix(_ARTIFACTS)
    if path.startswith("//"):
        path = path[2:].partition("/")[2]
    return path.strip("/")


def checked_manifest(directory: Path, package_sha256: str) -> Manifest:
    """The manifest of a downloaded package. Raises PackageError when its digest is not the registered one."""
    data = (directory / MANIFEST).read_bytes()
    came = hashlib.sha256(data).hexdigest()
    if came != package_sha256:
        raise PackageError(f"{MANIFEST}: digest mismatch: the registry says sha256 {package_sha256}, came {came}")
    return decode_manifest(data, MANIFEST)


def needed_files(manifest: Manifest) -> list[str]:
    """The files of a package that serving needs, beside the manifest. Raises PackageError for unsafe names."""
    names = [manifest.served_file(manifest.shipped_variant)]
    if BASELINE in manifest.files:
        names.append(BASELINE)
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise PackageError(f"{MANIFEST}: unsafe file name {name!r}")
    return names


def verify(directory: Path, package_sha256: str) -> None:
    """Check the digests of a downloaded package. Raises PackageError."""
    manifest = checked_manifest(directory, package_sha256) if (directory / MANIFEST).is_file() else None
    if manifest is None:
        raise PackageError(f"{directory}: no {MANIFEST}")
    for name in needed_files(manifest):
        verify_file(directory, manifest, name)


def _tags(item: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in item.get("tags", ())}


def _version_of(canary: str | None) -> str | None:
    try:
        document = msgspec.json.decode(canary or "null")
        return str(document["version"]) if isinstance(document, dict) else None
    except (msgspec.MsgspecError, KeyError):
        return None
