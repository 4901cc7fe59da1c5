"""A private PostgreSQL cluster for tests: Debian's server, a temporary directory, a free port."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from tasks.ports import free_port

_USER, _GROUP = "nobody", "nogroup"
_START_SECONDS = 60.0


def binary(name: str) -> str:
    """Where a program of PostgreSQL is; fails where it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = str(installed[-1]) if installed else shutil.which(name)
    if found is None:
        raise AssertionError(f"PostgreSQL's {name} is not installed: `make test-servers` installs it (as root)")
    return found


def unprivileged(*owned: Path) -> dict[str, Any]:
    """Arguments of Popen for PostgreSQL, which refuses to run as root; then the directories become its user's."""
    if os.getuid():
        return {}
    for directory in owned:
        shutil.chown(directory, _USER, _GROUP)
    return {"user": _USER, "group": _GROUP, "extra_groups": []}


class Cluster:
    """A running server of its own. It refuses to run as root, so it runs as an unprivileged user there."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="airlock-postgres-"))
        self._as = unprivileged(self.directory)
        self._run(binary("initdb"), "-D", str(self.directory / "data"), "-U", "airlock", "--auth=trust", "-E", "UTF8")
        self._databases = 0
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start it (again) on its port and wait until it answers."""
        command = [binary("postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.directory}"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log, **self._as)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.administer("SELECT 1")
                return
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError(f"PostgreSQL did not start:\n{(self.directory / 'log').read_text()}") from None
                time.sleep(0.1)

    def kill(self) -> None:
        """Take it away at once, as a crash does: every connection breaks, what is committed stays."""
        self.process.send_signal(3)  # SIGQUIT: PostgreSQL's immediate shutdown; its children end with it
        self.process.wait(30)

    def hang(self) -> None:
        """Let all its processes stand still: connections stay open and nobody answers on them."""
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.suspend()

    def go_on(self) -> None:
        """End a `hang`."""
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def _family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children()]

    def stop(self) -> None:
        """End it and remove all its data."""
        if self.process.poll() is None:
            self.go_on()
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def administer(self, statement: str) -> None:
        """Run one statement as the cluster's owner, in a transaction of none."""
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        self.administer(f"CREATE DATABASE airlock_{self._databases}")
        return self._url(f"airlock_{self._databases}")

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://airlock@127.0.0.1:{self.port}/{database}"

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, **self._as)
        assert done.returncode == 0, done.stderr
