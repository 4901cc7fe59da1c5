"""A person's approval before the canary: asked for by the spec or the trigger form, safe when nobody answers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from plugins.operators.links import LINKS
from plugins.operators.stage import begin, final

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReleaseApproval(ApprovalOperator):
    """Lets the candidate through where no approval is asked for (its checklist approved it); else waits for a person.

    No answer within `timeout_hours` rejects. A rejection is recorded on the model version and ends the release.
    """

    operator_extra_links = LINKS

    def __init__(self, *, timeout_hours: float, **kwargs: Any) -> None:
        super().__init__(
            defaults=[self.REJECT], response_timeout=timedelta(hours=timeout_hours), fail_on_reject=True, **kwargs
        )

    def execute(self, context: Context) -> Any:
        """Ask, if the release asks for it."""
        from tasks import approval

        release = begin(context)
        if release.spec.approval == "none":
            return {"approved_by": "the pre-deployment checklist", "reason": "no approval was asked for"}
        self.subject, self.body = approval.question(release)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Record the answer on the model version. Raises AirflowFailException on a rejection."""
        from tasks import approval

        release = begin(context)
        if "error" in event:
            self.process_trigger_event_error(event)
        user = event.get("responded_by_user")
        who = (user or {}).get("name") or "nobody (the deadline passed)"
        if event["chosen_options"] == [self.APPROVE]:
            return final(approval.approve, release, who, "approved in the Airflow UI")
        reason = f"rejected by {who}"
        final(approval.reject, release, who, reason)
        raise AirflowFailException(reason)
