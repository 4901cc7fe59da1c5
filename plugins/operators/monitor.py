"""The two tasks of a monitoring run: look at the champion, and ask for a release where that is what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from plugins.operators.stage import final

if TYPE_CHECKING:
    from airflow.sdk import Context


class LookAtChampion(BaseOperator):
    """Makes the monitor's checks and acts on them; its result says what was found and done."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Look once. A run that was cut short and is tried again does nothing twice."""
        from tasks.monitoring.monitor import monitor

        policy = context["dag"].dag_id.removeprefix("monitor_")
        result: dict[str, Any] = final(monitor, policy, context["dag_run"].run_id)
        self.log.info("%s version %s: %s; %s", policy, result["version"], result["verdict"], result["action"]["why"])
        return result


class AskForRelease(BaseOperator):
    """Emits the event of its outlets where the task `after` asked for a release; else it skips itself."""

    def __init__(self, *, after: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.after = after

    def execute(self, context: Context) -> dict[str, Any]:
        """Say why on the event, for whoever reads the release it starts."""
        from tasks.monitoring.actions import RETRAIN

        found = context["ti"].xcom_pull(task_ids=self.after) or {}
        action = found.get("action", {})
        if action.get("what") != RETRAIN:
            raise AirflowSkipException(f"no release is asked for: {action.get('why')}")
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"why": action["why"], "version": found["version"]}
        return dict(action)
