"""A candidate: how it would act and how probably, for its evaluation; and how a release takes it over."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.training.agent import Agent
from tasks.errors import Misconfigured
from tasks.inputs import Array
from tasks.learning.evaluation import Judged
from tasks.spec.sections import STOCHASTIC

if TYPE_CHECKING:
    from tasks.tracking.release import Release

_ROWS = 4_096

logger = logging.getLogger(__name__)


def acting(agent: Agent, explores: bool, seed: int) -> Judged:
    """How the agent acts as it would be served, and the probabilities of actions under it (none: it does not explore).

    Log-densities are those that the gateway would record: in [-1, 1] where the policy is squashed.
    """
    import torch

    torch.manual_seed(seed)
    model: Any = agent.model

    def act(observation: Array) -> Array:
        return np.asarray(model.predict(agent.normalize(observation), deterministic=not explores)[0])

    def log_prob(observation: Array, action: Array) -> Array:
        found = []
        with torch.no_grad():
            for at in range(0, len(observation), _ROWS):
                some = torch.as_tensor(agent.normalize(observation[at : at + _ROWS]))
                found.append(_log_prob(agent.algorithm, model, some, action[at : at + _ROWS]).numpy().reshape(-1))
        return np.concatenate(found).astype(np.float64)

    return Judged(act, log_prob if explores and agent.algorithm in STOCHASTIC else None)


def alike(one: Agent, other: Agent, observation: Array) -> bool:
    """Whether both take the same deterministic action for every observation [n, ...], but for rounding."""

    def acts(agent: Agent) -> Array:
        model: Any = agent.model
        return np.asarray(model.predict(agent.normalize(observation), deterministic=True)[0])

    return bool(np.allclose(acts(one), acts(other), rtol=0.0, atol=1e-6))


def _log_prob(algorithm: str, model: Any, observation: Any, action: Array) -> Any:
    import torch

    if algorithm in ("sac", "tqc", "crossq"):
        mean, log_std, options = model.actor.get_action_dist_params(observation)
        scaled = torch.as_tensor(model.policy.scale_action(action), dtype=torch.float32)
        return model.actor.action_dist.proba_distribution(mean, log_std, **options).log_prob(scaled)
    return model.policy.evaluate_actions(observation, torch.as_tensor(action))[1]


def adopt(release: Release) -> dict[str, Any]:
    """The stage of a release whose source is `learned`: keep the candidate of a learn run like a trained model.

    Raises Misconfigured where the run has no candidate, its evaluation did not let it pass, or its model was changed.
    """
    from tasks.build.training.train import MODEL, TRAINING, Training, params_digest
    from tasks.learning.run import CANDIDATE, EVALUATION, LEARNING
    from tasks.tracking.runs import Tracking

    run_id = release.params.learned_run
    if not run_id:
        raise Misconfigured("source is learned, but learned_run is empty: give the MLflow run of learn_<policy>")
    with Tracking() as tracking, release.scratch() as scratch:
        root = tracking.get(run_id).root
        document, verdict = (_json(tracking.read(root, path)) for path in (LEARNING, EVALUATION))
        if document is None or verdict is None or not verdict["passed"]:
            raise Misconfigured(f"the MLflow run {run_id} has no candidate that its evaluation from the log let pass")
        digest = params_digest(release.spec, f"learned:{document['model_sha256']}")
        kept = release.get_json(TRAINING)
        if kept and kept["params_digest"] == digest and release.has(MODEL):
            return {"timesteps": kept["timesteps"], "seconds": kept["seconds"], "kept": True}
        directory = tracking.fetch(root, CANDIDATE, scratch)
        model = directory / Path(MODEL).name
        if hashlib.sha256(model.read_bytes()).hexdigest() != document["model_sha256"]:
            raise Misconfigured(
                f"the candidate in the MLflow run {run_id} is not the one that was learned: learn again"
            )
        (directory / Path(LEARNING).name).unlink()
        release.put_directory(directory, "model")
    training = Training(
        algorithm=document["algorithm"],
        timesteps=document["transitions"],
        seconds=document["seconds"],
        seed=document["settings"]["seed"],
        source="learned",
        curve=[],
        params_digest=digest,
    )
    release.put_json(TRAINING, asdict(training))
    release.tag(stage="trained", learned_run=run_id)
    logger.info("took over the candidate of %s: %s", run_id, verdict["reason"])
    return {"timesteps": training.timesteps, "seconds": training.seconds, "kept": False}


def _json(content: bytes | None) -> Any:
    import json

    return None if content is None else json.loads(content)
