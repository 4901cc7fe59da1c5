"""The stage `train`: train a model, import a zip, or take over a learned candidate, and keep it in the run."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.build.training.agent import LIMITS, resave_apart
from tasks.build.training.train import MODEL, Training, params_digest, train_model
from tasks.build.training.zip_file import read_data
from tasks.build.training.zoo import find_layout
from tasks.errors import Misconfigured
from tasks.learning.run import CANDIDATE, EVALUATION, LEARNING
from tasks.stages.artifacts import TRAINING
from tasks.tracking.registry import Registry
from tasks.tracking.release import Release
from tasks.tracking.runs import Tracking

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


log = logging.getLogger(__name__)


def _champion_run(policy: str) -> str | None:
    with Registry() as registry:
        model = registry.model(policy)
        champion = model.aliases.get("champion") if model else None
        found = registry.version(policy, champion) if champion else None
    return found.run_id if found else None


def _warm_start_from(run_id: str, scratch: Path) -> Callable[[BaseAlgorithm], None]:
    def copy(model: BaseAlgorithm) -> None:
        with Tracking() as tracking:
            path = tracking.fetch(tracking.get(run_id).root, MODEL, scratch / "champion")
        try:
            model.set_parameters(str(path), exact_match=True, device="cpu")
        except (ValueError, RuntimeError, KeyError) as error:
            raise Misconfigured(
                f"warm_start: the champion's weights do not fit this spec's network: {error}; set warm_start: false"
            ) from error
        log.info("training starts from the champion's weights (run %s)", run_id)

    return copy


def train(release: Release) -> dict[str, Any]:
    """The stage: train (or import the zip the release names) and keep the model in the run.

    A model that is already there from the same parameters is kept as it is.
    """
    if release.params.source == "zip":
        return import_zip(release)
    if release.params.source == "learned":
        return adopt(release)
    champion = _champion_run(release.policy) if release.spec.train.warm_start else None
    digest = params_digest(release.spec, "train", champion)
    kept = release.get_json(TRAINING)
    if kept and kept["params_digest"] == digest and release.has(MODEL):
        log.info("already trained with these parameters; kept")
        return {"timesteps": kept["timesteps"], "seconds": kept["seconds"], "kept": True}
    with release.scratch() as scratch:
        model = scratch / "model"
        model.mkdir()
        warm_start = _warm_start_from(champion, scratch) if champion else None
        training = train_model(release.spec, model, release.log_rows, warm_start, digest)
        release.put_directory(model, "model")
    release.put_json(TRAINING, asdict(training))  # last: its presence says that the model is whole
    release.tag(stage="trained")
    return {"timesteps": training.timesteps, "seconds": training.seconds, "kept": False}


def import_zip(release: Release) -> dict[str, Any]:
    """The stage, for `source: zip`: open the zip the release names and keep it in the run like a trained model."""
    if not release.params.zip_path:
        raise Misconfigured("source is zip, but zip_path is empty: give the path of a zip saved by Stable-Baselines3")
    zip_path = Path(release.params.zip_path).expanduser()
    layout = find_layout(zip_path)
    layout.require_statistics(zip_path)
    statistics = layout.statistics
    read_data(zip_path, LIMITS.memory_mb)
    content = hashlib.sha256(zip_path.read_bytes() + (statistics.read_bytes() if statistics else b"")).hexdigest()
    digest = params_digest(release.spec, f"zip:{content}")
    kept = release.get_json(TRAINING)
    if kept and kept["params_digest"] == digest and release.has(MODEL):
        return {"timesteps": kept["timesteps"], "seconds": kept["seconds"], "kept": True}
    started = time.monotonic()
    with release.scratch() as scratch:
        model = scratch / "model"
        model.mkdir()
        found = resave_apart(zip_path, model, release.spec.train.algorithm, statistics)
        log.info("imported %s: %s", zip_path.name, found)
        release.put_directory(model, "model")
    training = Training(
        algorithm=found["algorithm"],
        timesteps=found["timesteps"],
        seconds=round(time.monotonic() - started, 3),
        seed=found["seed"],
        source="zip",
        curve=[],
        params_digest=digest,
    )
    release.put_json(TRAINING, asdict(training))
    release.tag(stage="trained")
    return {"timesteps": training.timesteps, "seconds": training.seconds, "kept": False}


def adopt(release: Release) -> dict[str, Any]:
    """The stage of a release whose source is `learned`: keep the candidate of a learn run like a trained model.

    Raises Misconfigured where the run has no candidate, its evaluation did not let it pass, or its model was changed.
    """
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
    log.info("took over the candidate of %s: %s", run_id, verdict["reason"])
    return {"timesteps": training.timesteps, "seconds": training.seconds, "kept": False}


def _json(content: bytes | None) -> Any:
    return None if content is None else json.loads(content)
