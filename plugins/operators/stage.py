"""The operator that runs one stage of a release: a thin call into `tasks/`, found by name when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from plugins.operators.links import LINKS
from plugins.operators.retry import wait_out
from tasks.errors import Misconfigured, Rejected
from tasks.spec.params import Params
from tasks.tracking.release import Release

if TYPE_CHECKING:
    from airflow.sdk import Context


def begin(context: Context) -> Release:
    """The release of the running DAG run, begun if this is its first task. Raises AirflowFailException on bad params.

    A scheduled or asset-triggered run has nobody who asked for it, so it must show superiority unless its params say
    otherwise: weekly "not worse" would walk downhill.
    """
    dag_run = context["dag_run"]
    policy = context["dag"].dag_id.removeprefix("release_")
    given = {key: value for key, value in context["params"].items() if key in Params.model_fields}
    if dag_run.run_type in ("scheduled", "asset_triggered") and "objective" not in (dag_run.conf or {}):
        given["objective"] = "superiority"
    try:
        return wait_out(Release.open, policy, dag_run.run_id, Params.model_validate(given))
    except (Misconfigured, ValueError) as error:
        raise AirflowFailException(str(error)) from error


def final(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call `work`; what must not be retried (a gate's no, a person's mistake) fails the task for good.

    While the database, MLflow or its artifact store is away it is waited for: a release does not fail of that.
    """
    try:
        return wait_out(work, *arguments, **named)
    except (Rejected, Misconfigured) as error:
        raise AirflowFailException(f"{type(error).__name__.lower()}: {error}") from error


class StageOperator(BaseOperator):
    """Runs `stage` ("module:function") on the run's Release, with `arguments`; its small dict result is the XCom.

    With `after_promotion`, the task skips itself unless the canary (task id given) ended in a promotion.
    """

    operator_extra_links = LINKS
    template_fields = ()

    def __init__(
        self,
        *,
        stage: str,
        arguments: Mapping[str, Any] | None = None,
        after_promotion: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.arguments = dict(arguments or {})
        self.after_promotion = after_promotion

    def execute(self, context: Context) -> Any:
        """Find the release, call the stage, return its result."""
        if self.after_promotion:
            verdict = (context["ti"].xcom_pull(task_ids=self.after_promotion) or {}).get("verdict")
            if verdict != "promote":
                raise AirflowSkipException(f"the canary ended {verdict}: nothing to check after deployment")
        module, _, function = self.stage.partition(":")
        release = begin(context)
        return final(getattr(import_module(module), function), release, **self.arguments)
