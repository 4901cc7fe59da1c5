"""A person's approval before the canary: asked for by the spec or the trigger form, safe when nobody answers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from plugins.operators.links import LINKS
from plugins.operators.stage import begin, final

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tasks.stages.approval import Answer
    from tasks.tracking.release import Release


class ReleaseApproval(ApprovalOperator):
    """Lets the candidate through where no approval is asked for (its checklist approved it); else waits for a person.

    No answer by the deadline rejects. An answer is recorded in the audit log and on the model version; a rejection
    fails the task, so that nothing after it runs but the report.
    """

    operator_extra_links = LINKS

    def __init__(self, **kwargs: Any) -> None:
        reason = Param("", type="string", title="Reason", description="Kept with the answer.", source="task")
        kwargs["params"] = {
            "reason": reason
        }  # in place of the DAG's, which Airflow hands on and which ask nothing here
        super().__init__(defaults=[self.REJECT], fail_on_reject=True, **kwargs)

    def execute(self, context: Context) -> Any:
        """Ask, if the release asks for it. What was answered before this try was killed is not asked again."""
        from tasks.stages import approval

        release = begin(context)
        if release.spec.approval_hours is None:
            return {"approved_by": "the pre-deployment checklist", "reason": "no approval was asked for"}
        given = final(approval.answered, release)
        if given is None:
            question = final(approval.ask, release)
            if question.seconds > 0:
                self.subject, self.body = question.subject, question.body
                self.response_timeout = timedelta(seconds=question.seconds)
                return super().execute(context)
            given = approval.Answer(False, approval.NOBODY, "", timed_out=True)
        return self._act(release, given)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Act on the answer. Raises AirflowFailException on a rejection."""
        from tasks.stages import approval

        release = begin(context)
        if "error" in event:
            self.process_trigger_event_error(event)
        user = event.get("responded_by_user")
        given = approval.Answer(
            event["chosen_options"] == [self.APPROVE],
            user["name"] if user else approval.NOBODY,
            str((event.get("params_input") or {}).get("reason") or "").strip() if user else "",
            timed_out=user is None,
        )
        return self._act(release, given)

    def _act(self, release: Release, given: Answer) -> dict[str, Any]:
        from tasks.stages import approval

        done = final(approval.answer, release, given)
        if not given.approved:
            raise AirflowFailException(done["words"])
        return dict(done)
