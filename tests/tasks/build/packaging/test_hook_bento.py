"""An override hook from the file beside the spec to the Bento that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bentos.package.loader import load
from bentos.package.manifest import Serve
from tasks.build.packaging import bento
from tasks.build.packaging.scratch_server import serving
from tasks.errors import Misconfigured
from tasks.gateway_requests import ask
from tasks.inputs import of_observations
from tasks.spec.files import load as load_spec
from tasks.spec.packaging import Packaging
from tests.bentos.policy_packages import write_package

ICY = "def override(observation, context):\n    return context.actions * 0, observation[:, 0] > 1\n"


def test_a_built_bento_runs_the_hook_it_was_packaged_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    serve = Serve(fallback={"constant": 0}, deadline_ms=5_000, override_hook="icy:override")
    write_package(tmp_path / "package", serve=serve, hook=ICY)
    package = load(tmp_path / "package")
    release: Any = SimpleNamespace(policy="cartpole", run_id="run")
    path = bento.assemble(release, "1", package, tmp_path / "context")
    with serving(path, tmp_path / "server") as server:
        given = of_observations(np.array([[0, 0, 1, 0], [2, 0, 1, 0]], np.float32))
        answer = ask(server.url, "cartpole", given)
    assert answer["actions"] == [1, 0]
    assert answer["sources"] == ["policy", "override"]
    assert bento._compare(package, "the package", answer, np.array([1, 1])) == 1, "what the hook changed is left out"


def test_a_release_packages_the_file_beside_the_spec_and_says_what_is_wrong_with_it(
    tmp_path: Path, make_policy: Callable[..., str]
) -> None:
    policy = make_policy(serve={"override_hook": "icy:override"})
    with pytest.raises(Misconfigured, match=r"icy\.py cannot be read"):
        Packaging.of(load_spec(policy))
    directory = tmp_path / "policies" / "hooks"
    directory.mkdir()
    (directory / "icy.py").write_text("def other(observation, context):\n    return None\n")
    with pytest.raises(Misconfigured, match="defines no function 'override'"):
        Packaging.of(load_spec(policy))
    (directory / "icy.py").write_text(ICY)
    packaging = Packaging.of(load_spec(policy))
    assert (packaging.hook, packaging.serve.override_hook) == (ICY.encode(), "icy:override")
