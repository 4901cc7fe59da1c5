"""Work that runs code of others: in a process of its own, with limits of time and memory and none of our secrets.

The process answers over a pipe of its own, so that what it prints confuses nobody. That guards against broken files,
not against malice.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tasks.errors import Misconfigured, Rejected, first_line

INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "AIRLOCK_GIT_SHA")
LOG_LIMIT_MB = 64.0
_POLL_S = 0.02
_LOOK_S = 1.0
_LEAVE_S = 5.0
_PR_SET_PDEATHSIG = 1

Say: TypeAlias = Callable[[str], None]
"""Tells the waiting process what is being done now."""


@dataclass(frozen=True)
class Limits:
    """When the process is ended: after `seconds` of wall time, or beyond `memory_mb` of resident memory.

    Memory of the processes that it starts counts, too.
    """

    seconds: float
    memory_mb: float


def run(
    module: str,
    request: Mapping[str, Any],
    subject: str,
    limits: Limits,
    home: Path | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """What `answer` of `module` gives for `request` in a process of its own; `say` hears its steps.

    It finds what this process would import, and the working directory after that; its HOME and temporary directory are
    `home` (a new one by default). Raises Misconfigured or Rejected with its own explanation, and Misconfigured that
    names `subject` when it hits a limit or ends without an answer.
    """
    import psutil

    with tempfile.TemporaryDirectory(dir=home, prefix="apart-") as own:
        reader, writer = os.pipe()
        with (Path(own) / "output").open("w+", errors="replace") as output, os.fdopen(reader, "rb", 0) as channel:
            process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(request), str(writer), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(own),
                pass_fds=(writer,),
                start_new_session=True,
            )
            os.close(writer)
            try:
                answer = _Watch(
                    subject, limits, psutil.Process(process.pid), output.fileno(), say or (lambda _step: None)
                ).follow(channel)
                if not answer:
                    process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(process)
            output.seek(0)
            said = output.read().strip()
    if "result" in answer:
        return dict(answer["result"])
    if "error" in answer:
        raise {"Rejected": Rejected}.get(answer["kind"], Misconfigured)(answer["error"])
    last = said.splitlines()[-1][:300] if said else "it printed nothing"
    raise Misconfigured(
        f"{subject}: the process that opened it ended with code {process.returncode} before it was done; {last}"
    )


@dataclass
class _Watch:
    """Listens to a process and ends the wait at a limit."""

    subject: str
    limits: Limits
    process: Any
    output: int
    say: Say
    step: str = "starting"
    started: list[Any] = field(default_factory=list)
    looked: float = 0.0

    def follow(self, channel: Any) -> dict[str, Any]:
        """The last message of the process: its result, its error, or nothing where it ended without one."""
        deadline = time.monotonic() + self.limits.seconds
        pending = b""
        answer: dict[str, Any] = {}
        while True:
            self._check(deadline)
            if not select.select([channel], [], [], _POLL_S)[0]:
                continue
            received = os.read(channel.fileno(), 1 << 16)
            if not received:
                return answer
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "step" in message:
                    self.step = message["step"]
                    self.say(self.step)
                else:
                    answer = message
            if answer:
                return answer

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise Misconfigured(f"{self.subject}: {self.step} took longer than {self.limits.seconds:g} s")
        if self._used_mb() > self.limits.memory_mb:
            raise Misconfigured(f"{self.subject}: {self.step} took more than {self.limits.memory_mb:g} MB of memory")
        if os.fstat(self.output).st_size > LOG_LIMIT_MB * 2**20:
            raise Misconfigured(f"{self.subject}: {self.step} printed more than {LOG_LIMIT_MB:g} MB")

    def _used_mb(self) -> float:
        """Memory of the process and of all that it started. What two of them share counts once, where that matters."""
        import psutil

        if time.monotonic() > self.looked + _LOOK_S:
            self.looked = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                self.started = self.process.children(recursive=True)
        resident = [_bytes(one) for one in (self.process, *self.started)]
        used = sum(resident) / 2**20
        if used <= self.limits.memory_mb or sum(map(bool, resident)) < 2:
            return used
        return sum(_bytes(one, shared=True) for one in (self.process, *self.started)) / 2**20


def _bytes(process: Any, shared: bool = False) -> int:
    """Resident memory of a process, 0 once it is gone; `shared`: pages of several processes count by their share."""
    import psutil

    try:
        # Counting shares walks every page table entry: too slow to do it each time.
        return int(process.memory_full_info().pss if shared else process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    except AttributeError:
        return int(process.memory_info().rss)


def _environment(home: str) -> dict[str, str]:
    """Only what Python needs: code that runs there finds neither tokens nor addresses in its environment."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    paths = [str(Path(__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "HOME": home, "TMPDIR": home}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def end_with(parent: int) -> None:
    """Have this process end when its parent (a process id) does; a parent that is gone already ends it here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def answer(work: Callable[[dict[str, Any], Say], dict[str, Any]]) -> None:
    """In the process apart: do `work` with the request it was given, and send the result or the error back."""
    end_with(int(sys.argv[3]))
    sys.path.append(str(Path.cwd()))  # last: a custom class is found there, and nothing of ours is hidden by it
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "w") as channel:

        def send(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        try:
            result = work(json.loads(sys.argv[1]), lambda step: send({"step": step}))
        except (Misconfigured, Rejected) as error:
            send({"error": str(error), "kind": type(error).__name__})
        except Exception as error:  # noqa: BLE001 - whatever a foreign file provokes is told in a line, not in a trace
            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {first_line(error)}", "kind": "Misconfigured"})
        else:
            send({"result": result})
