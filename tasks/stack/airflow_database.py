"""Airflow's tables: prepared once for each database and each version of Airflow."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tasks.stack import supervisor
from tasks.stack.components import StackError
from tasks.stack.environment import REPOSITORY

LOG = "airflow-migrate"


class Preparation:
    """`airflow db migrate`, running beside whatever else starts; nothing where an earlier start has done it.

    Asking Airflow itself whether there is anything to do takes it several seconds; a mark in the home does not.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._url = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        self._mark = supervisor.directory() / "airflow-database"
        self._process: subprocess.Popen[bytes] | None = None
        if not self._done():
            with (supervisor.logs() / f"{LOG}.log").open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "airflow", "db", "migrate"],
                    env=environment,
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )

    def _wanted(self) -> str:
        return f"{version('apache-airflow-core')} {hashlib.sha256(self._url.encode()).hexdigest()}"

    def _done(self) -> bool:
        there = not self._url.startswith("sqlite:///") or Path(self._url.removeprefix("sqlite:///")).exists()
        return there and self._mark.exists() and self._mark.read_text() == self._wanted()

    def wait(self, timeout: float) -> None:
        """Return when the tables are there. Raises StackError with the end of the log."""
        if self._process is None:
            return
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"`airflow db migrate` has not ended after {timeout:.0f} s") from error
        if code:
            raise StackError(f"Airflow's database cannot be prepared:\n{supervisor.tail(LOG)}")
        self._mark.write_text(self._wanted())

    def stop(self) -> None:
        """End it, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
