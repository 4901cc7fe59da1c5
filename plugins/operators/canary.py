"""The canary as a deferrable operator: between looks it holds no worker, only a trigger that waits and reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from plugins.operators.links import LINKS
from plugins.operators.stage import begin, final

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


class CanaryTrigger(BaseTrigger):
    """Looks at a running canary every `poll_seconds` and fires when there is something to do.

    It reads stored rows only, so two triggerers may run it at once; the resumed task acts. It keeps quiet for
    `quiet_seconds` at first: a deferral whose trigger fires before the scheduler has booked it fails the task.
    """

    def __init__(
        self, policy: str, generation: str, plan: dict[str, Any], poll_seconds: float, quiet_seconds: float
    ) -> None:
        super().__init__()
        self.policy = policy
        self.generation = generation
        self.plan = plan
        self.poll_seconds = poll_seconds
        self.quiet_seconds = quiet_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, for the triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "policy": self.policy,
                "generation": self.generation,
                "plan": self.plan,
                "poll_seconds": self.poll_seconds,
                "quiet_seconds": self.quiet_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: the judgement that asks for a step or ends the canary. A failed look is tried again."""
        await asyncio.sleep(self.quiet_seconds)
        while True:
            try:
                judgement = await asyncio.to_thread(_look, self.policy, self.generation, self.plan)
            except Exception:
                log.exception("canary %s of %s: the look failed; trying again", self.generation, self.policy)
            else:
                log.info("canary %s of %s: %s", self.generation, self.policy, judgement["reason"])
                if judgement["verdict"] != "continue" or judgement["advance"]:
                    yield TriggerEvent(judgement)
                    return
            await asyncio.sleep(self.poll_seconds)


def _look(policy: str, generation: str, plan: dict[str, Any]) -> dict[str, Any]:
    from tasks.canary import lifecycle  # in the thread: importing it must not block the triggerer's loop

    return lifecycle.look(policy, generation, plan)


class CanaryOperator(BaseOperator):
    """Starts the canary, takes its ramp from step to step, and ends it by its verdict.

    A task that is killed and tried again takes the same canary up where it stands.
    """

    operator_extra_links = LINKS

    def __init__(self, *, poll_seconds: float = 2.0, quiet_seconds: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poll_seconds = poll_seconds
        self.quiet_seconds = quiet_seconds

    def execute(self, context: Context) -> dict[str, Any]:
        """Start (or take up) the canary and wait."""
        from tasks.canary import lifecycle

        release = begin(context)
        done = final(release.get_json, "canary/verdict.json")
        if done:
            return dict(done)
        final(lifecycle.start, release)
        return self._wait(release)

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Act on what the trigger saw: the next ramp step, or the verdict, computed again from the stored rows."""
        from tasks.canary import lifecycle

        release = begin(context)
        if event["verdict"] == "continue":
            final(lifecycle.advance, release)
            return self._wait(release)
        outcome = final(lifecycle.finish, release, event)
        if outcome["verdict"] == "continue":
            return self._wait(release)
        return dict(outcome)

    def _wait(self, release: Any) -> Any:
        from tasks.canary import lifecycle

        plan = final(lifecycle.plan, release)
        self.defer(
            trigger=CanaryTrigger(
                release.policy, plan.generation, plan.document(), self.poll_seconds, self.quiet_seconds
            ),
            method_name="resume",
        )
