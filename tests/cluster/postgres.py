"""What the image of PostgreSQL does before it starts the server: a data directory, a password, the scripts, once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.postgres import binary, unprivileged

START_SECONDS = 120.0


def command(arguments: Sequence[str], data: Path, address: str) -> list[str]:
    """The server's command with what the image would set."""
    own = ["-D", str(data), "-c", f"listen_addresses={address}", "-c", "unix_socket_directories="]
    return [binary("postgres"), *arguments[1:], *own]


def initialise(data: Path, address: str, password: str, scripts: Path, environment: Mapping[str, str]) -> None:
    """Make the data directory unless it is there, and run the scripts on it."""
    if (data / "PG_VERSION").exists():
        return
    user = unprivileged(data)
    given = data.parent / f".{data.name}.password"
    given.write_text(password)
    given.chmod(0o644)
    options = ["--username=postgres", f"--pwfile={given}", "--auth=scram-sha-256", "--encoding=UTF8"]
    subprocess.run(
        [binary("initdb"), "-D", str(data), *options],
        check=True,
        capture_output=True,
        text=True,
        cwd=data,
        **user,
    )
    given.unlink()
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    server = subprocess.Popen(
        [*command(["postgres"], data, address), "-p", "5433"],
        cwd=data,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    try:
        reach = {**environment, "PGHOST": address, "PGPORT": "5433", "PGPASSWORD": password}
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(["pg_isready", "--quiet"], env=reach, check=False).returncode:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            assert server.poll() is None, "PostgreSQL ended while it was set up"
            time.sleep(0.2)
        for script in sorted(scripts.glob("*.sh")):
            text = script.read_text().replace("/run/secrets", str(scripts.parent / "run/secrets"))
            subprocess.run(["sh", "-c", text], env=reach, check=True, capture_output=True, text=True)
    finally:
        server.send_signal(2)
        server.wait(60)
