"""Makes the DAGs of one policy from its spec. Wiring only: what a task does lives in `tasks/`."""

from __future__ import annotations

from airflow.sdk import DAG

from dags.learn import learn_dag
from dags.monitor import monitor_dag
from dags.release import release_dag
from tasks.spec.files import load


def dags_of(policy: str) -> dict[str, DAG]:
    """The DAGs of `policy`, by the name a DAG file binds them to. Raises SpecError when its spec is broken."""
    spec = load(policy)
    dags = {f"release_{policy}": release_dag(spec), f"monitor_{policy}": monitor_dag(spec)}
    return dags | ({f"learn_{policy}": learn_dag(spec, spec.learn)} if spec.learn else {})
