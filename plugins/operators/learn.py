"""The operator that runs one stage of learn_<policy>."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from plugins.operators.retry import wait_out
from tasks.errors import Misconfigured, Rejected

if TYPE_CHECKING:
    from airflow.sdk import Context


class LearnOperator(BaseOperator):
    """Runs `stage` ("module:function") on the run's Learning; its small dict result is the XCom.

    A stage that says `enough: false` skips itself and what follows; so does an evaluation's no, which is a good end.
    """

    template_fields = ()

    def __init__(self, *, stage: str, rejection_skips: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.rejection_skips = rejection_skips

    def execute(self, context: Context) -> Any:
        """Find the learning, call the stage, return its result."""
        from tasks.learning.run import Learning

        policy = context["dag"].dag_id.removeprefix("learn_")
        module, _, function = self.stage.partition(":")
        try:
            learning = wait_out(Learning.begin, policy, context["dag_run"].run_id)
        except (Misconfigured, ValueError) as error:
            raise AirflowFailException(str(error)) from error
        work = getattr(import_module(module), function)
        try:
            result = wait_out(work, learning)
        except Rejected as error:
            if self.rejection_skips:
                raise AirflowSkipException(f"no candidate to release: {error}") from error
            raise AirflowFailException(f"rejected: {error}") from error
        except Misconfigured as error:
            raise AirflowFailException(f"misconfigured: {error}") from error
        if not result.get("enough", True):
            raise AirflowSkipException(result["reason"])
        return result
