"""A whole MaskablePPO package with mask rules in its spec, served: it acts as SB3 does with both masks together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from bentos.package.digests import write_manifest
from bentos.package.loader import load
from bentos.package.safety import Condition, MaskRule, Safety
from tasks.inputs import MASK, observations
from tests.bentos.gateway_process import GatewayProcess
from tests.tasks.kinds import Real


def test_rules_and_the_requests_masks_hold_together_and_the_best_of_the_rest_is_taken(
    real_package: Callable[[str], Real], tmp_path: Path
) -> None:
    real = real_package("masked")
    seen = np.asarray(observations(real.given))
    favourite = int(np.bincount(real.actions).argmax())
    directory = tmp_path / "package"
    shutil.copytree(real.directory, directory)
    manifest = load(real.directory).manifest
    rules = [MaskRule(Condition(0, above=0.0), [favourite]), MaskRule(Condition(1, below=-0.5), [(favourite + 1) % 5])]
    serve = msgspec.structs.replace(manifest.serve, deadline_ms=60_000)
    safety = Safety(action_mask=rules)
    write_manifest(directory, msgspec.structs.replace(manifest, safety=safety, serve=serve))

    ruled = np.ones((len(seen), 5), dtype=bool)
    ruled[seen[:, 0] > 0, favourite] = False
    ruled[seen[:, 1] < -0.5, (favourite + 1) % 5] = False
    both = real.given[MASK].astype(bool) & ruled
    rows = np.flatnonzero(both.any(axis=1))[:512]
    given = {name: values[rows] for name, values in real.given.items()}
    expected = real.agent.decide({**given, MASK: both[rows]})["action"]
    changed = expected != real.agent.decide(given)["action"]
    assert 0 < changed.sum() < len(rows), "some rows must need the rules, and some not"

    gateway = GatewayProcess(tmp_path / "home", AIRLOCK_PACKAGE=str(directory))
    try:
        masks = given[MASK].astype(bool).tolist()
        answer = gateway.client.act(real.directory.name, seen[rows].tolist(), action_masks=masks)
    finally:
        gateway.stop()
    np.testing.assert_array_equal(answer["actions"], expected)
    assert not any(answer["adjusted"]), "the graph itself chose among what is allowed"
    assert set(answer["sources"]) == {"policy"}
