"""Private parts of other libraries that the server uses or replaces, each with its reason, and for which versions.

BentoML has no setting for what is changed here. Each version range is the one that the parts were read and tested in:
at import it is checked, so that an upgrade that could break the gateway ends its start with a clear error, not its
requests. `bentos/http/protocol.py` is the one other module that builds on private parts, of uvicorn.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from bentoml._internal.container import BentoMLContainer
from bentoml._internal.utils import circus as bentoml_circus
from circus import process as circus_process
from circus import watcher as circus_watcher
from circus.util import _setproctitle

WRITTEN_FOR = {"bentoml": "1.4.", "kantoku": "0.18.", "uvicorn": "0.54."}
"""How the versions begin that this module and the protocol were written for; kantoku is what brings Circus here."""

Arbiter = bentoml_circus.Arbiter
"""The process that keeps BentoML's workers. Subclassed, since it looks for dead workers every ten seconds only."""

Process = circus_process.Process
"""What Circus keeps of a worker. Subclassed, since it starts each worker as a Python that imports everything anew."""

WORKER = "_bentoml_impl.worker.service"
"""The module that Circus runs as BentoML's worker: by it a worker's command line is told from others."""

WORKER_IMPORTS = ("_bentoml_impl.worker.patch", "_bentoml_impl.server.app", "_bentoml_impl.client")
"""What that module imports: imported before workers are forked, so that they share it."""

BAD_REQUESTS_LOGGER = "bentoml._internal.server.http_app"
"""Where BentoML logs a traceback of each request that it refuses."""

set_process_title = _setproctitle
"""Circus's own, which does without the library that it needs."""


def check(versions: dict[str, str] = WRITTEN_FOR) -> None:
    """Raises ImportError that names every library whose version the patches were not written for."""
    wrong = {name: found for name, begin in versions.items() if not (found := metadata.version(name)).startswith(begin)}
    if wrong:
        have = ", ".join(f"{name} {found} (written for {versions[name]}x)" for name, found in wrong.items())
        raise ImportError(f"Airlock's gateway builds on private parts of other libraries, and has others here: {have}")


def metrics_directory() -> str:
    """Where prometheus_client's files of all workers lie, which BentoML chooses."""
    return str(BentoMLContainer.prometheus_multiproc_dir.get())


def serve_http_with(protocol: type[Any]) -> None:
    """Have the uvicorn server that BentoML makes next in this process speak `protocol`: BentoML does not pass it on."""
    from uvicorn.protocols.http import auto

    auto.AutoHTTPProtocol = protocol


def keep_workers_with(arbiter: type[Any], process: type[Any] | None) -> None:
    """Have BentoML keep its workers with `arbiter`, and that keep each as a `process`; None: as Circus does."""
    bentoml_circus.Arbiter = arbiter
    if process is not None:
        circus_watcher.Process = process


check()
