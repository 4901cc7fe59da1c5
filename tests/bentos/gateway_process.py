"""Real processes for tests; benchmarks need them, too."""

from benchmarks.processes import (
    ADMIN_TOKEN,
    EPISODE_KEY,
    REPOSITORY,
    START_SECONDS,
    GatewayProcess,
    MlflowProcess,
    wait_until,
)

__all__ = [
    "ADMIN_TOKEN",
    "EPISODE_KEY",
    "REPOSITORY",
    "START_SECONDS",
    "GatewayProcess",
    "MlflowProcess",
    "wait_until",
]
