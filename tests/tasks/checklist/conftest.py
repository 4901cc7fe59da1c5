"""A policy package without a registry, for checks that only look at the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from bentos.package.loader import load
from bentos.package.session import Policy
from tasks.spec.files import load as load_spec
from tasks.spec.params import Params
from tasks.tracking.release import Release
from tests.tasks import fabricated


@pytest.fixture
def package(tmp_path: Path) -> Policy:
    """The fabricated CartPole policy as a loaded package."""
    release = Release("cartpole", "manual__1", "run", "0", load_spec("cartpole"), Params())
    fabricated.write_package(tmp_path / "package", release)
    return load(tmp_path / "package")
