"""The gateway's client of the registry: who asks, and that a tag never names a directory of its own choice."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bentos.package.manifest import PackageError
from bentos.routing.registry import Registry, RegistryDown
from tasks.tracking.client import RegistryRefused
from tasks.tracking.registry import Registry as Tasks

LOGIN = {"MLFLOW_TRACKING_USERNAME": "gate", "MLFLOW_TRACKING_PASSWORD": "s3cret"}
TOKEN = {"MLFLOW_TRACKING_TOKEN": "t0ken"}


@pytest.fixture
def guarded() -> Iterator[str]:
    """A registry without policies that answers those alone whom it knows."""
    known = ("Basic " + base64.b64encode(b"gate:s3cret").decode(), "Bearer t0ken")

    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            welcome = self.headers.get("Authorization") in known
            body = b"{}" if welcome else b'{"message": "who are you?"}'
            self.send_response(200 if welcome else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("variables", "welcome"),
    [(LOGIN, True), (TOKEN, True), ({}, False), ({**LOGIN, "MLFLOW_TRACKING_PASSWORD": "guessed"}, False)],
    ids=["login", "token", "nobody", "wrong"],
)
def test_gateways_and_tasks_ask_an_mlflow_that_wants_a_login_as_whom_they_were_told(
    guarded: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], welcome: bool
) -> None:
    for name in (*LOGIN, *TOKEN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    async def look() -> int:
        registry = Registry(guarded)
        try:
            return len(await registry.pictures(refresh=True))
        finally:
            await registry.close()

    with Tasks(guarded) as tasks:
        if welcome:
            assert asyncio.run(look()) == 0
            assert tasks.ask("GET", "registered-models/search", {}) == {}
        else:
            with pytest.raises(RegistryDown, match="401"):
                asyncio.run(look())
            with pytest.raises(RegistryRefused, match="401"):
                tasks.ask("GET", "registered-models/search", {})


@pytest.mark.parametrize("digest", ["..", "", "/", "../precious", "A" * 64, "0" * 63])
def test_a_digest_that_is_none_touches_no_directory(tmp_path: Path, digest: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    cache = tmp_path / "cache"
    cache.mkdir()

    async def fetch() -> Path:
        registry = Registry("http://127.0.0.1:9")
        try:
            return await registry.fetch_package("mlflow-artifacts:/1/run/artifacts/package", digest, cache)
        finally:
            await registry.close()

    with pytest.raises(PackageError, match="SHA-256"):
        asyncio.run(fetch())
    assert (tmp_path / "precious" / "file").read_text() == "kept"
    assert cache.is_dir()
