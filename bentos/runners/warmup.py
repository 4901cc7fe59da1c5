"""Warm-up: a version's first calls, made before anyone waits for them, and what they tell of its pace."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bentos.package.manifest import Manifest, PackageError
from bentos.rows import Array, Rows
from bentos.runners.infer import Infer

_RUNS = 5
_DOUBT_SECONDS = 0.1
"""How long a graph that seems slow is run on: in a process that is busy answering, waiting for a turn looks like it."""
_MORE_DOUBT_SECONDS = 2.0
"""The same where the processor time of a call says that it is fast: it waited, for others or by itself."""
_INLINE_SECONDS = 0.0005
_INLINE_MOST_SECONDS = 0.002
_PAYS = 1.5
"""Two calls at a time pay when they take less than this many times as long as one."""


class Pace(NamedTuple):
    """How a version is best called: rows of a request that are answered at once, and how many calls at a time pay."""

    inline_rows: int
    in_flight: int


def example_feeds(manifest: Manifest, size: int) -> dict[str, Array]:
    """Feeds of `size` rows that fit the graph's inputs: zeros, with every action allowed."""
    feeds: dict[str, Array] = {}
    for tensor in manifest.inputs:
        fill = 1 if tensor.name in ("action_mask", "episode_start") else 0
        feeds[tensor.name] = np.full((size, *tensor.shape), fill, dtype=tensor.dtype)
    return feeds


def warm_up(infer: Infer, manifest: Manifest) -> Pace:
    """Run one row and full batches a few times. Raises PackageError for a graph that does not do as it declares.

    A graph that answers a full batch within half a millisecond is run inline, and so are larger requests that take it
    up to two. A slower one has calls of its own threads, two at a time if that pays.
    """
    size = manifest.serve.batch_size
    try:
        infer.run(Rows(feeds=example_feeds(manifest, 1), size=1))
        full = Rows(feeds=example_feeds(manifest, size), size=size)
        seconds = _best(infer, full)
        decision = infer.run(full)
    except Exception as error:
        raise PackageError(f"{manifest.name}: the graph does not run on its declared inputs: {error}") from error
    expected = (full.size, *manifest.action_space.shape)
    if decision.action.shape != expected:
        raise PackageError(f"{manifest.name}: expected actions of shape {expected}, came {decision.action.shape}")
    if seconds <= _INLINE_SECONDS:
        return Pace(size * int(_INLINE_MOST_SECONDS / max(seconds, 1e-9)), 1)
    return Pace(0, 2 if _together(infer, full) < _PAYS * seconds else 1)


def _best(infer: Infer, rows: Rows) -> float:
    """The fastest of some calls, in seconds."""
    began = time.perf_counter()
    best = work = float("inf")
    calls = 0
    while True:
        passed, worked = _timed(infer, rows)
        best, work, calls = min(best, passed), min(work, worked), calls + 1
        doubt = _DOUBT_SECONDS if work > _INLINE_SECONDS else _MORE_DOUBT_SECONDS
        if calls >= _RUNS and (best <= _INLINE_SECONDS or time.perf_counter() - began > doubt):
            return best


def _timed(infer: Infer, rows: Rows) -> tuple[float, float]:
    """How long a call takes, and this thread's processor time of it, in seconds."""
    started, worked = time.perf_counter(), time.thread_time()
    infer.run(rows)
    return time.perf_counter() - started, time.thread_time() - worked


def _together(infer: Infer, rows: Rows) -> float:
    """The fastest pair of calls at the same time, in seconds."""
    with ThreadPoolExecutor(2) as threads:
        best = float("inf")
        for _ in range(2):
            started = time.perf_counter()
            for call in [threads.submit(infer.run, rows) for _ in range(2)]:
                call.result()
            best = min(best, time.perf_counter() - started)
        return best
