"""Threads of the console's own: MLflow or a gateway that hangs must not use up those that Airflow's routes run in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_THREADS = 4
_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="airlock-console")


async def work(do: Callable[..., T], *arguments: Any) -> T:
    """What `do(*arguments)` returns or raises, in one of those threads."""
    return await asyncio.get_running_loop().run_in_executor(_pool, do, *arguments)
