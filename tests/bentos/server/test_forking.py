"""Workers are copies of the process that keeps them, and live as programs of their own do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from bentos.package.manifest import Serve
from bentos.server import forking
from tests.bentos.gateway_process import GatewayProcess, wait_until
from tests.bentos.policy_packages import write_package

pytestmark = pytest.mark.skipif(not forking.possible(), reason="workers are copies on Linux alone")

ACT = "/v1/policies/cartpole/act"
OBSERVATION = {"observation": [0.0, 0.0, 0.0, 0.0]}
ASKED = 40
LIFE = """
import os, sys, time
from bentos.server.forking import ForkedProcess

process = ForkedProcess("worker", 1, sys.executable, ["-m", "_bentoml_impl.worker.service", *sys.argv[1:]],
                        env=dict(os.environ), use_fds=True, pipe_stdout=False, pipe_stderr=False)
while process.poll() is None:
    time.sleep(0.05)
print("the code is", process.returncode())
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("forked")
    write_package(home / "package", name="cartpole", serve=Serve(fallback={"constant": 0}, deadline_ms=60_000))
    gateway = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_WORKERS="2")
    yield gateway
    gateway.stop()


def started(gateway: GatewayProcess) -> list[psutil.Process]:
    """Both workers, once both answer; else nothing."""
    log = gateway.log.read_text()
    workers = [one for one in gateway.workers() if f'"event":"gateway started","pid":{one.pid},' in log]
    return workers if len(workers) == 2 else []


def files(pid: int) -> set[str]:
    """The sockets, pipes and files that a process has open, but for /dev/null and what it was given to write to."""
    found = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if int(file.name) > 2}
    return {file for file in found if file != os.devnull and not file.startswith("anon_inode")}


def counted(gateway: GatewayProcess) -> float:
    """The requests that all workers have counted so far."""
    lines = httpx.get(f"{gateway.url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("rl_inference_total{"))


def test_copies_share_with_their_keeper_the_socket_they_listen_at_and_nothing_else(two: GatewayProcess) -> None:
    workers = wait_until(lambda: started(two), "two workers")
    shared = [files(worker.pid) & files(two.process.pid) for worker in workers]
    assert [[file.partition(":")[0] for file in own] for own in shared] == [["socket"], ["socket"]]
    assert all(worker.connections("tcp") for worker in workers)
    assert {os.getsid(worker.pid) for worker in workers} == {worker.pid for worker in workers}


def test_what_copies_count_is_told_by_any_of_them_and_outlives_a_killed_one(two: GatewayProcess) -> None:
    first = wait_until(lambda: started(two), "two workers")
    before = counted(two)
    for _ in range(ASKED):  # a connection each: both workers take some
        httpx.post(f"{two.url}{ACT}", json=OBSERVATION, timeout=60).raise_for_status()
    wait_until(lambda: counted(two) == before + ASKED, "all are counted")
    first[0].kill()
    second = wait_until(lambda: [] if first[0] in started(two) else started(two), "another took its place")
    assert first[1] in second
    assert httpx.post(f"{two.url}{ACT}", json=OBSERVATION, timeout=60).status_code == 200
    wait_until(lambda: counted(two) == before + ASKED + 1, "what the dead worker counted is still counted")


def test_copies_end_with_their_keeper(two: GatewayProcess) -> None:
    workers = wait_until(lambda: started(two), "two workers")
    two.process.send_signal(signal.SIGTERM)
    assert two.process.wait(180) == 0
    assert not any(worker.is_running() for worker in workers)
    log = two.log.read_text()
    assert all(f'"event":"gateway stopped","pid":{worker.pid}' in log for worker in workers)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--no-such-option"], 2), (["no.such:Service", "--fd", "0"], 1)]
)
def test_a_copy_ends_as_the_program_would(arguments: list[str], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIFE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout.endswith(f"the code is {code}\n"), done.stderr
    assert done.stdout.count("the code is") == 1, "the copy went on to live the life of what it was copied from"
