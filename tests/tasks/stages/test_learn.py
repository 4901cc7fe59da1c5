"""The stages of learn_<policy> against a real MLflow: the log becomes a dataset, a candidate, a verdict, a release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.build.training.agent import load_model
from tasks.build.training.environments import describe
from tasks.control import audit
from tasks.errors import Misconfigured, Rejected
from tasks.learning import dataset as transitions
from tasks.learning.run import CANDIDATE, DATASET, EVALUATION, LINEAGE, Learning
from tasks.spec.params import Params
from tasks.stages import learn as stages
from tasks.stages.artifacts import EXPORT, TRAINING
from tasks.stages.train import train
from tasks.tracking import release as runs
from tasks.tracking.registry import Registry
from tasks.tracking.release import Release
from tests.tasks.agents import agent
from tests.tasks.learning import logged

MakePolicy = Callable[..., str]
EPISODES = 24


@pytest.fixture
def policy(mlflow_server: str, make_policy: MakePolicy, tmp_path: Path) -> str:
    """A policy whose champion is a small SAC model of a flat space."""
    from gymnasium import spaces

    learn = {"update_every": 30, "minimum_episodes": 10, "updates_per_transition": 0.5}
    name = make_policy("pendulum", learn=learn, train={"hyperparameters": {"policy_kwargs": {"net_arch": [8]}}})
    made = agent("sac", spaces.Box(-2, 2, (1,)), spaces.Box(-9, 99, (2,)), policy_kwargs={"net_arch": [8]})
    release = Release.open(name, "first", Params())
    made.model.save(tmp_path / "model.zip")
    release.put_file(tmp_path / "model.zip", "model")
    space = describe(made.model.observation_space), describe(made.model.action_space)
    inputs = ({"name": "observation", "dtype": "float32", "shape": [2]},)
    exported = {"inputs": inputs, "outputs": (), "opset": 18, "parity": {}}
    release.put_json(EXPORT, exported | {"observation_space": built(space[0]), "action_space": built(space[1])})
    client = runs.client()
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{release.run_id}/model", release.run_id)
    with Registry() as registry:
        registry.set_alias(name, "champion", "1")
    return name


def built(value: object) -> object:
    return msgspec.to_builtins(value)


def log_episodes(policy: str, earns: float = -1.0, first: int = 0) -> sa.Engine:
    engine = tables.connect(settings.database_url())
    random = np.random.default_rng(first)
    for number in range(first, first + EPISODES):
        rows = logged.Rows(f"e{number}")
        for row in (*rows.decisions, *rows.rewards, *rows.outcomes):
            row["policy"] = policy
        for row in rows.decisions:
            row["action"] = [float(random.uniform(-1, 1))]
        for row in rows.rewards:
            row["reward"] = earns
        rows.outcomes[0]["episode_return"] = 3 * earns
        rows.insert(engine)
    return engine


def test_the_log_becomes_a_dataset_a_candidate_and_a_verdict(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = log_episodes(policy)
    learning = Learning.begin(policy, "run-1")
    assert Learning.begin(policy, "run-1") == learning
    found = stages.collect(learning)
    assert (found["enough"], found["episodes"], found["transitions"]) == (True, EPISODES, 3 * EPISODES)
    assert stages.collect(learning) == found, "a second try keeps what the first made"
    lineage = learning.need_json(LINEAGE)
    assert lineage["champion"]["version"] == "1"
    assert lineage["decisions"] == {"after": 0, "through": 3 * EPISODES}
    (dataset,) = runs.client().get_run(learning.run_id).inputs.dataset_inputs
    assert lineage["sha256"].startswith(dataset.dataset.digest)
    with learning.scratch() as scratch:
        path = learning.fetch(DATASET, scratch)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == found["sha256"]
        assert transitions.read(path)[1]["policy"] == policy

    document = stages.fine_tune(learning)
    assert document["dataset_sha256"] == found["sha256"]
    assert stages.fine_tune(learning) == document
    assert 0 < document["episodes"] < EPISODES, "some episodes are held out"

    with pytest.raises(Rejected, match=r"finds it worse|no method"):
        stages.evaluate(learning)  # every action earns the same
    evaluation = learning.need_json(EVALUATION)
    assert evaluation["passed"] is False
    assert evaluation["episodes"] == EPISODES - document["episodes"]
    assert audit.story(engine, policy)[0].what == "not_learned"

    release = Release.open(policy, "second", Params(source="learned", learned_run=learning.run_id))
    with pytest.raises(Misconfigured, match="no candidate that its evaluation"):
        train(release)
    learning.put_json(EVALUATION, evaluation | {"passed": True, "reason": "a test says so"})
    assert train(release)["kept"] is False
    assert train(release)["kept"] is True
    assert release.need_json(TRAINING)["source"] == "learned"
    with release.scratch() as scratch:
        ours = load_model(release.fetch("model/model.zip", scratch), None, "sac").model
        theirs = load_model(learning.fetch(f"{CANDIDATE}/model.zip", scratch), None, "sac").model
        seen = np.zeros((1, 2), np.float32)
        assert ours.predict(seen, deterministic=True)[0] == theirs.predict(seen, deterministic=True)[0]

    later = Learning.begin(policy, "run-2")
    assert "0 new decisions" in stages.collect(later)["reason"], "what was learned from is not new"
    assert [one for one in (Release.find(policy, "run-1"), Release.find(policy, "run-2")) if one] == []


def test_a_log_of_inverted_rewards_is_refused_whole_and_the_refusal_told(policy: str) -> None:
    log_episodes(policy)
    engine = log_episodes(policy, earns=+1.0, first=EPISODES)
    learning = Learning.begin(policy, "run-1")
    with pytest.raises(Rejected, match="50% of the ended episodes have rewards that cannot be"):
        stages.collect(learning)
    assert learning.get_json(LINEAGE) is None
    event = audit.story(engine, policy)[0]
    assert (event.what, event.detail["left_out"]) == ("log_refused", {"out_of_range": EPISODES})


def test_without_a_champion_or_decisions_there_is_nothing_to_learn_from(policy: str, make_policy: MakePolicy) -> None:
    assert "0 new decisions were logged" in stages.collect(Learning.begin(policy, "run-1"))["reason"]


def test_a_policy_without_a_champion_or_without_the_section_says_so(
    mlflow_server: str, make_policy: MakePolicy
) -> None:
    with pytest.raises(Misconfigured, match="has no champion"):
        stages.collect(Learning.begin(make_policy("pendulum", learn={"update_every": 1}), "run-1"))
    with pytest.raises(Misconfigured, match="give it a section `learn`"):
        stages.collect(Learning.begin(make_policy("cartpole"), "run-1"))


def test_a_dataset_that_was_changed_is_not_learned_from(policy: str, tmp_path: Path) -> None:
    log_episodes(policy)
    learning = Learning.begin(policy, "run-1")
    stages.collect(learning)
    (tmp_path / Path(DATASET).name).write_bytes(b"something else")
    learning.put_file(tmp_path / Path(DATASET).name, "dataset")
    with pytest.raises(Misconfigured, match="not the file that was collected"):
        stages.fine_tune(learning)
