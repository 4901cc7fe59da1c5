"""The stages of learn_<policy>: collect the log, fine-tune the champion on it, evaluate the candidate from the log."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bentos import settings as home
from bentos.package.manifest import Space
from bentos.store import tables
from tasks.build.export.formats import Exported
from tasks.build.training.agent import Agent
from tasks.build.training.train import MODEL
from tasks.control import audit
from tasks.errors import Misconfigured, Rejected
from tasks.learning import dataset, log, off_policy, on_policy
from tasks.learning.candidate import acting, alike
from tasks.learning.dataset import Transitions
from tasks.learning.evaluation import judge, worth
from tasks.learning.run import CANDIDATE, DATASET, EVALUATION, LEARNING, LINEAGE, TAG_THROUGH, Learning
from tasks.learning.trainable import Champion, trainable
from tasks.spec.sections import ON_POLICY, Learn
from tasks.stages.artifacts import EXPORT
from tasks.tracking.registry import Registry
from tasks.tracking.runs import Tracking

_WHO = "learn"

logger = logging.getLogger(__name__)


def collect(learning: Learning) -> dict[str, Any]:
    """The first stage: make the log a dataset of the run, with its digest and lineage.

    `enough` is false, and nothing is kept, while fewer decisions than `update_every` were logged since the last
    dataset that was learned from, or fewer than `minimum_episodes` are usable. Raises Rejected where too many episodes
    are suspect, Misconfigured without a champion.
    """
    settings = _settings(learning)
    kept = learning.get_json(LINEAGE)
    if kept:
        return {"enough": True, "sha256": kept["sha256"], **kept["counts"]}
    version, run_id, exported = _champion(learning.policy)
    _check_spaces(exported)
    wanted = log.Wanted(
        policy=learning.policy,
        observation_dtype=exported.inputs[0].dtype,
        observation_shape=tuple(exported.inputs[0].shape),
        action_space=exported.action_space,
        return_range=learning.spec.canary.bounds,
        reward_range=settings.reward_range,
        buffer_size=settings.buffer_size,
    )
    through = learning.learned_through()
    engine = tables.connect(home.database_url())
    with engine.connect() as connection:
        fresh = log.waiting(connection, learning.policy, through)
        if fresh < settings.update_every:
            return _too_little(f"{fresh} new decisions were logged; {settings.update_every} are waited for")
        foreign = _foreign(learning.policy, log.versions(connection, learning.policy), exported)
        found = log.collect(connection, wanted, foreign)
    data = found.transitions
    counts = {
        "episodes": data.episodes if data else 0,
        "transitions": len(data) if data else 0,
        "left_out": found.left_out,
        "suspect_share": found.suspect,
    }
    if found.suspect > settings.max_suspect:
        reason = (
            f"{found.suspect:.0%} of the ended episodes have rewards that cannot be ({found.left_out}); with more than "
            f"{settings.max_suspect:.0%} the whole log is not learned from: find out who reports them"
        )
        audit.record(engine, learning.policy, _WHO, "log_refused", reason, dag_run_id=learning.dag_run_id, **counts)
        raise Rejected(reason)
    if data is None or data.episodes < settings.minimum_episodes:
        return _too_little(
            f"{counts['episodes']} episodes are usable, {settings.minimum_episodes} are waited for; left out: "
            f"{found.left_out}"
        )
    lineage = {
        "policy": learning.policy,
        "champion": {"version": version, "run_id": run_id},
        "versions": sorted(set(data.version)),
        "decisions": {"after": through, "through": found.through},
        "time": {"first": found.first_at, "last": found.last_at},
        "counts": counts,
        "sources": found.sources,
        "adjusted": found.adjusted,
        "mean_return": float(data.returns.mean()),
    }
    with learning.scratch() as scratch:
        path = scratch / Path(DATASET).name
        digest = dataset.write(data, path, lineage)
        learning.put_file(path, "dataset")
    learning.log_dataset(f"{learning.policy} log", digest, counts, str(exported.observation_space))
    learning.put_json(LINEAGE, {**lineage, "sha256": digest})  # last: its presence says that the dataset is whole
    return {"enough": True, "sha256": digest, **counts}


def fine_tune(learning: Learning) -> dict[str, Any]:
    """The second stage: a candidate from the champion and the episodes that are not held out."""
    settings = _settings(learning)
    kept = learning.get_json(LEARNING)
    if kept:
        return dict(kept)
    lineage = learning.need_json(LINEAGE)
    with learning.scratch() as scratch:
        data = _dataset(learning, scratch, lineage)
        champion = _fetch_champion(learning, scratch, lineage)
        agent = trainable(learning.spec, champion, settings.seed)
        training = data.only(~data.held_out(settings.holdout))
        started = time.monotonic()
        score = _scoring(learning, training, _champion_exported(lineage).action_space)
        fine_tuned(agent, training, settings, score, _noting(learning))
        directory = scratch / CANDIDATE
        directory.mkdir()
        model = directory / Path(MODEL).name
        agent.model.save(model, exclude=["replay_buffer", "rollout_buffer", "_last_obs", "env"])
        if champion.statistics is not None:
            shutil.copy(champion.statistics, directory)  # learning leaves them as they are
        document = {
            "algorithm": agent.algorithm,
            "dataset_sha256": lineage["sha256"],
            "champion": lineage["champion"],
            "episodes": training.episodes,
            "transitions": len(training),
            "seconds": round(time.monotonic() - started, 3),
            "settings": settings.model_dump(mode="json"),
            "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        }
        learning.put_directory(directory, CANDIDATE)
    learning.put_json(LEARNING, document)
    with Tracking() as tracking:
        tracking.tag(learning.run_id, {TAG_THROUGH: str(lineage["decisions"]["through"])})
    return document


def fine_tuned(
    agent: Agent,
    training: Transitions,
    settings: Learn,
    score: Callable[[Agent], float],
    note: Callable[[int, dict[str, float]], None] = lambda step, seen: None,
) -> None:
    """Fine-tune the agent's model in place, by the method of its algorithm. `score` is what it would earn, by the
    log."""
    if agent.algorithm in ON_POLICY:
        on_policy.fine_tune(agent, training, settings.epochs, note)
    else:
        steps = max(1, round(settings.updates_per_transition * len(training)))
        off_policy.fine_tune(agent, training, steps, settings.conservatism, lambda: score(agent), note)


def evaluate(learning: Learning) -> dict[str, Any]:
    """The gate: what the candidate would have earned in the held-out episodes. Raises Rejected, its evidence kept."""
    settings = _settings(learning)
    lineage, document = learning.need_json(LINEAGE), learning.need_json(LEARNING)
    with learning.scratch() as scratch:
        data = _dataset(learning, scratch, lineage)
        directory = learning.fetch(CANDIDATE, scratch)
        held = data.held_out(settings.holdout)
        explores = learning.spec.serve.explore
        learned = Champion(directory, document["algorithm"]).agent()
        served = _fetch_champion(learning, scratch, lineage).agent()
        candidate, champion = (acting(agent, explores, settings.seed) for agent in (learned, served))
        verdict = judge(
            data.only(~held),
            data.only(held),
            _champion_exported(lineage).action_space,
            candidate,
            champion.act,
            settings.alpha,
            settings.seed,
            settings.require,
            alike(learned, served, data.observation),
        )
    learning.put_json(EVALUATION, verdict.document())
    learning.log_metrics({f"ope/{one.method.replace(' ', '_')}/gain": one.gain for one in verdict.estimates})
    engine = tables.connect(home.database_url())
    what = "learned" if verdict.passed else "not_learned"
    audit.record(engine, learning.policy, _WHO, what, verdict.reason, dag_run_id=learning.dag_run_id)
    logger.info("%s", verdict.reason)
    learning.end("FINISHED")
    if not verdict.passed:
        raise Rejected(verdict.reason)
    return {"learned_run": learning.run_id, "reason": verdict.reason}


def _settings(learning: Learning) -> Learn:
    settings = learning.spec.learn
    if settings is None:
        raise Misconfigured(f"the spec of {learning.policy} says nothing of learning: give it a section `learn`")
    return settings


def _too_little(reason: str) -> dict[str, Any]:
    logger.info("nothing to learn from yet: %s", reason)
    return {"enough": False, "reason": reason}


def _champion(policy: str) -> tuple[str, str, Exported]:
    """The champion's version, its run and what was exported of it."""
    with Registry() as registry:
        model = registry.model(policy)
        version = model.aliases.get("champion") if model else None
        found = registry.version(policy, version) if version else None
        document = registry.artifact(found.run_id, EXPORT) if found else None
    if version is None or found is None or document is None:
        raise Misconfigured(f"{policy} has no champion to learn from: release it first")
    return version, found.run_id, msgspec.convert(document, Exported)


def _champion_exported(lineage: dict[str, Any]) -> Exported:
    with Registry() as registry:
        return msgspec.convert(registry.artifact(lineage["champion"]["run_id"], EXPORT), Exported)


def _check_spaces(exported: Exported) -> None:
    space, action = exported.observation_space, exported.action_space
    if space.type != "Box" or len(space.shape) != 1 or action.type not in ("Box", "Discrete"):
        raise Misconfigured(
            "learn: expected observations in a flat Box and actions in a Box or a Discrete space, came "
            f"{space.type}{list(space.shape)} and {action.type}: set learn to null"
        )


def _foreign(policy: str, versions: list[str], champion: Exported) -> frozenset[str]:
    """The versions whose spaces are not the champion's, or are not known."""
    foreign = set()
    with Registry() as registry:
        for version in versions:
            found = registry.version(policy, version)
            document = registry.artifact(found.run_id, EXPORT) if found else None
            exported = msgspec.convert(document, Exported) if document else None
            if exported is None or (exported.observation_space, exported.action_space) != (
                champion.observation_space,
                champion.action_space,
            ):
                foreign.add(version)
    return frozenset(foreign)


def _dataset(learning: Learning, scratch: Path, lineage: dict[str, Any]) -> Transitions:
    path = learning.fetch(DATASET, scratch)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != lineage["sha256"]:
        raise Misconfigured(f"{DATASET} of the run {learning.run_id} is not the file that was collected: learn again")
    return dataset.read(path)[0]


def _fetch_champion(learning: Learning, scratch: Path, lineage: dict[str, Any]) -> Champion:
    with Tracking() as tracking:
        directory = tracking.fetch(tracking.get(lineage["champion"]["run_id"]).root, "model", scratch / "champion")
    return Champion(directory, learning.spec.train.algorithm)


def _scoring(learning: Learning, training: Transitions, space: Space) -> Callable[[Agent], float]:
    explores, seed = learning.spec.serve.explore, _settings(learning).seed
    return lambda agent: worth(training, space, acting(agent, explores, seed).act)


def _noting(learning: Learning) -> Callable[[int, dict[str, float]], None]:
    def note(step: int, seen: dict[str, float]) -> None:
        logger.info("%d gradient steps: %s", step, seen)
        learning.log_metrics({f"learn/{name}": value for name, value in seen.items()}, step)

    return note
