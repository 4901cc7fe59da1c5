"""A run of learn_<policy> in MLflow: where its dataset, its candidate and its evidence are kept."""

from __future__ import annotations

from typing import Any

from tasks.spec.files import load
from tasks.spec.params import Params
from tasks.spec.sections import PolicySpec
from tasks.tracking.release import SPEC, Release, recorded
from tasks.tracking.runs import TrackedRun, Tracking

TAG_LEARN_RUN = "airlock.learn_run_id"
TAG_LEARN_POLICY = "airlock.learn_policy"
TAG_THROUGH = "airlock.learned_through"

DATASET = "dataset/transitions.parquet"
LINEAGE = "dataset/dataset.json"
CANDIDATE = "candidate"
LEARNING = "candidate/learning.json"
EVALUATION = "ope/evaluation.json"


class Learning(Release):
    """One run of learn_<policy>: its artifacts are written and read as a release's are; it is none, and is not listed
    among them."""

    @staticmethod
    def begin(policy: str, dag_run_id: str) -> Learning:
        """The learning of this DAG run, found or begun; the spec is frozen into it. Raises SpecError."""
        found = Learning.find(policy, dag_run_id)
        if found:
            return found
        spec = load(policy)
        with Tracking() as tracking:
            experiment_id = tracking.ensure_experiment(policy)
            tags = {TAG_LEARN_RUN: dag_run_id, TAG_LEARN_POLICY: policy}
            run = tracking.begin(experiment_id, f"learn {dag_run_id}", tags)
        learning = _learning(policy, dag_run_id, experiment_id, spec, run)
        learning.put_json(SPEC, spec.model_dump(mode="json"))
        return learning

    @staticmethod
    def find(policy: str, dag_run_id: str) -> Learning | None:
        """The learning of this DAG run, or None when it never began."""
        found = recorded(policy, TAG_LEARN_RUN, dag_run_id, SPEC)
        if found is None:
            return None
        experiment_id, run, (spec,) = found
        return _learning(policy, dag_run_id, experiment_id, PolicySpec.model_validate_json(spec), run)

    def learned_through(self) -> int:
        """The last logged decision that an earlier run made a candidate of; 0: none was."""
        with Tracking() as tracking:
            runs = tracking.latest(self.experiment_id, f"tags.`{TAG_LEARN_POLICY}` = '{self.policy}'", 100)
        ids = [int(run.tags[TAG_THROUGH]) for run in runs if TAG_THROUGH in run.tags and run.run_id != self.run_id]
        return max(ids, default=0)

    def log_dataset(self, name: str, digest: str, profile: dict[str, Any], schema: str) -> None:
        """Note the dataset as the run's input, as MLflow shows it. Noted twice it is the same one."""
        import json

        dataset = {
            "name": name,
            "digest": digest[:32],
            "source_type": "airlock_decision_log",
            "source": json.dumps({"run_id": self.run_id, "artifact": DATASET, "sha256": digest}),
            "schema": schema,
            "profile": json.dumps(profile),
        }
        tags = [{"key": "mlflow.data.context", "value": "training"}]
        with Tracking() as tracking:
            body = {"run_id": self.run_id, "datasets": [{"dataset": dataset, "tags": tags}]}
            tracking.ask("POST", "runs/log-inputs", body)


def _learning(policy: str, dag_run_id: str, experiment_id: str, spec: PolicySpec, run: TrackedRun) -> Learning:
    return Learning(policy, dag_run_id, run.run_id, experiment_id, spec, Params(), run.root)
