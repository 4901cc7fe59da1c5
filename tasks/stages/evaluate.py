"""The stage `evaluate`: play seeded episodes with the release's model and hold their mean against the minimum."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.build.training.evaluation import evaluate_policy, save_rollout
from tasks.errors import Rejected
from tasks.stages.artifacts import EVALUATION, ROLLOUT
from tasks.tracking.release import Release

log = logging.getLogger(__name__)


def evaluate(release: Release) -> dict[str, Any]:
    """The stage: judge the release's model. The evidence is kept before a failing candidate raises Rejected."""
    import torch

    from tasks.build.export.families import exporter_for
    from tasks.build.training.environments import check_limits, make
    from tasks.stages.artifacts import fetch_agent

    torch.set_num_threads(1)
    settings = release.spec.evaluate
    with release.scratch() as scratch:
        agent = fetch_agent(release, scratch)
        environment = make(release.spec.environment)
        check_limits(release.spec, environment.observation_space, environment.action_space)
        interface = exporter_for(agent, environment.observation_space).inputs
        environment.close()
        evaluation, rollout = evaluate_policy(
            release.spec.environment, agent.decide, settings.episodes, settings.minimum_mean_return, interface
        )
        path = scratch / Path(ROLLOUT).name
        save_rollout(rollout, path)
        release.put_file(path, "evaluation")
    release.put_json(EVALUATION, asdict(evaluation))
    release.log_metrics(
        {"evaluation/mean": evaluation.mean, "evaluation/lower": evaluation.lower, "evaluation/upper": evaluation.upper}
    )
    release.tag(stage="evaluated")
    summary = (
        f"mean return {evaluation.mean:.1f} [{evaluation.lower:.1f}, {evaluation.upper:.1f}] over "
        f"{evaluation.episodes} episodes; the spec asks for {evaluation.minimum:g}"
    )
    log.info(summary)
    if not evaluation.passed:
        raise Rejected(summary)
    return {key: getattr(evaluation, key) for key in ("mean", "lower", "upper", "episodes", "minimum", "passed")}
