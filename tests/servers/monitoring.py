"""Prometheus and Alertmanager from Debian, each in a directory of its own, as quick as they can be made."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from tasks.ports import free_port
from tests.bentos.gateway_process import wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


class _Server:
    """A program with an HTTP port; a context manager."""

    health = "/-/ready"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), cwd=self.directory, stdout=log, stderr=log)
        try:
            wait_until(self._ready, f"{self.command()[0]} is ready", 120)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self.directory / "log").read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}{self.health}").status_code == 200
        except httpx.HTTPError:
            return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)


class Prometheus(_Server):
    """The deployed configuration with other addresses, and with intervals of a second."""

    def __init__(
        self, directory: Path, target: str, rules: str = "groups: []", alertmanager: str | None = None
    ) -> None:
        super().__init__(directory)
        document = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = document["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [target]}]
        found = [{"targets": [alertmanager]}] if alertmanager else []
        document["alerting"]["alertmanagers"] = [{"static_configs": found}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(document))
        (directory / "airlock-rules.yml").write_text(rules)

    def command(self) -> list[str]:
        """As Debian's unit starts it."""
        storage = ["--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{self.port}"]
        return ["prometheus", "--config.file=prometheus.yml", *storage]

    def query(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=20)
        assert answer.is_success, f"{query}: {answer.text}"
        return list(answer.json()["data"]["result"])


class Alertmanager(_Server):
    """The deployed configuration, told to another receiver and without patience."""

    def __init__(self, directory: Path, receiver: str) -> None:
        super().__init__(directory)
        document = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
        document["receivers"][0]["webhook_configs"][0]["url"] = receiver
        document["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        (directory / "alertmanager.yml").write_text(yaml.safe_dump(document))

    def command(self) -> list[str]:
        """Alone, without a cluster."""
        listen = [f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address="]
        return ["prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=data", *listen]


class Page:
    """Serves a page of metrics, made anew at every scrape; while `down` it answers nothing but errors."""

    def __init__(self, make: Callable[[], str]) -> None:
        self.down = False

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                body = b"" if self.down else make().encode()
                handler.send_response(503 if self.down else 200)
                handler.send_header("Content-Type", "text/plain; version=0.0.4")
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, format: str, *args: Any) -> None:  # noqa: N805
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Page:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
