"""Work for `tasks.sandbox` that does what foreign code may do; run as a module."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tasks import sandbox
from tasks.errors import Misconfigured, Rejected


def work(request: dict[str, Any], say: sandbox.Say) -> dict[str, Any]:
    """Do the deed that is asked for."""
    say("doing a deed")
    match request["deed"]:
        case "answer":
            sys.stdout.write('{"result": {"forged": true}}\n')
            return {"environment": dict(os.environ), "path": sys.path, "cwd": str(Path.cwd())}
        case "sleep":
            time.sleep(600)
        case "eat":
            hoard = []
            while True:
                hoard.append(b"x" * 2**24)
        case "feed":
            subprocess.run([sys.executable, "-c", "hoard = []\nwhile True: hoard.append(b'x' * 2**24)"], check=True)
        case "fork":
            shared = b"x" * (300 * 2**20)
            with multiprocessing.get_context("fork").Pool(1) as pool:
                pool.apply(sum, (shared[:10],))
                time.sleep(2)
        case "print":
            while True:
                os.write(1, b"x" * 2**20)
        case "exit":
            os.write(1, b"goodbye\n")
            os._exit(0)
        case "leave":
            sys.exit("I leave")
        case "crash":
            os.abort()
        case "spawn":
            child = subprocess.Popen(["sleep", "600"])
            Path(request["into"]).write_text(str(child.pid))
            time.sleep(600)
        case "refuse":
            raise Misconfigured("this is why")
        case "reject":
            raise Rejected("not equal")
        case "raise":
            raise RuntimeError("first line\nsecond line")
    return {}


if __name__ == "__main__":
    sandbox.answer(work)
