"""What a person sees of a training while it runs: log lines, MLflow metrics, the learning curve."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

LINE_SECONDS = 2.0
FLUSH_SECONDS = 5.0
CURVE_POINTS = 50

log = logging.getLogger(__name__)

Sink = Callable[[list[tuple[str, float, int, int]]], None]
"""Takes a batch of (key, value, Unix milliseconds, step)."""


class MetricsWriter(KVWriter):
    """An SB3 logger output that hands scalars to `sink` in batches, not one call a value."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Collect one dump of the SB3 logger; scalars only, finite only."""
        now = int(time.time() * 1000)
        for key, value in key_values.items():
            if "mlflow" in (key_excluded.get(key) or ()):
                continue
            if isinstance(value, int | float | np.number) and math.isfinite(value):
                self._pending.append((key, float(value), now, step))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """Hand over what is left."""
        self._flush()

    def _flush(self) -> None:
        for first in range(0, len(self._pending), 1000):  # MLflow takes at most 1,000 metrics a call
            self._sink(self._pending[first : first + 1000])
        self._pending.clear()
        self._flushed = time.monotonic()


class Progress(BaseCallback):
    """Logs a line about every two seconds and keeps the learning curve.

    `curve` holds [timesteps, mean return of the last 100 episodes] at about 50 evenly spaced points.
    """

    def __init__(self, total_timesteps: int) -> None:
        super().__init__()
        self.curve: list[list[float]] = []
        self._total = total_timesteps
        self._every = max(1, total_timesteps // CURVE_POINTS)
        self._due = self._every
        self._started = self._said = time.monotonic()

    def _on_training_start(self) -> None:
        self._started = self._said = time.monotonic()
        log.info("training: %d timesteps", self._total)

    def _mean_return(self) -> float | None:
        buffer = self.model.ep_info_buffer
        return float(np.mean([episode["r"] for episode in buffer])) if buffer else None

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._due:
            self._due = (self.num_timesteps // self._every + 1) * self._every
            if (mean := self._mean_return()) is not None:
                self.curve.append([self.num_timesteps, round(mean, 4)])
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            self._say()
        return True

    def _say(self) -> None:
        elapsed = time.monotonic() - self._started
        speed = self.num_timesteps / max(elapsed, 1e-9)
        mean = self._mean_return()
        log.info(
            "training: %3.0f %%  mean return %s  %.0f steps/s  %.0f s left",
            100 * min(1.0, self.num_timesteps / self._total),
            "-" if mean is None else f"{mean:.1f}",
            speed,
            max(0, self._total - self.num_timesteps) / speed,
        )

    def _on_training_end(self) -> None:
        self._say()
        mean = self._mean_return()
        if mean is not None and (not self.curve or self.curve[-1][0] != self.num_timesteps):
            self.curve.append([self.num_timesteps, round(mean, 4)])
