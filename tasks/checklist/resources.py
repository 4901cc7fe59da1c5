"""What the gateways' workers use while they work, as their pages of metrics tell it, wherever they run."""

from __future__ import annotations

import threading
from types import TracebackType

import httpx

from bentos.http_client import trusted
from tasks.checklist.live import Usage

PERIOD_SECONDS = 0.25
FAMILIES = ("rl_worker_memory_bytes", "rl_worker_cpu_seconds", "rl_worker_open_files")

Reading = dict[str, tuple[float, ...]]
"""By worker, its values of `FAMILIES`."""


class Sampler:
    """Reads the metrics behind a URL every quarter of a second in a thread, until left; a context manager.

    Behind a load balancer each reading is one gateway's, so that a few seconds show several of them.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._readings: list[Reading] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource-sampler", daemon=True)

    def wait(self, seconds: float) -> None:
        """Let it sample for so long."""
        self._over.wait(seconds)

    @property
    def samples(self) -> list[Usage]:
        """A moment for each reading, of all workers that told of themselves at least twice, added up."""
        readings = list(self._readings)
        told = [worker for reading in readings for worker in reading]
        now = {worker: values for reading in reversed(readings) for worker, values in reading.items()}
        kept = sorted({worker for worker in told if told.count(worker) > 1})
        found = []
        for reading in readings if kept else []:
            now.update(reading)
            memory, cpu, files = (sum(now[worker][place] for worker in kept) for place in range(len(FAMILIES)))
            found.append(Usage(memory / 1e6, cpu, int(files)))
        return found

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                # a connection each, so that a load balancer may choose another gateway
                answer = httpx.get(f"{self._url}/metrics", timeout=5.0, verify=trusted(self._url))
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.is_success and (reading := parse(answer.text)):
                self._readings.append(reading)
            self._over.wait(PERIOD_SECONDS)


def parse(page: str) -> Reading:
    """What a page of metrics says of each worker that tells all of it."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in page.splitlines() if line.startswith(FAMILIES)]
    told: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            told.setdefault(sample.labels["worker"], {})[sample.name] = sample.value
    return {
        worker: tuple(values[name] for name in FAMILIES)
        for worker, values in told.items()
        if len(values) == len(FAMILIES)
    }
