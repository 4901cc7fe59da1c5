"""What users do from the console: each deed authorised, proved to be wanted, carried out, and told in the story.

What the control plane and the gateway do leaves rows with the user's name by itself (`tasks/control/audit.py` reads
them). The audit log gets what leaves none: releases that were triggered, and everything that was refused or failed.
"""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from bentos import settings
from bentos.store import tables
from plugins.console import airflow_client, commands, forms, overview
from plugins.console.access import SignedIn, may_act
from plugins.console.airflow_client import AirflowRefused
from plugins.console.commands import BadForm
from plugins.console.thread_pool import work
from tasks.control import audit
from tasks.control.lease import LeaseHeld, LeaseLost
from tasks.control.overrides import OverrideRefused
from tasks.errors import Misconfigured, first_line
from tasks.tracking.client import RegistryUnavailable

log = logging.getLogger(__name__)

RELEASE = "release"
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BadForm, 422),
    (Misconfigured, 409),
    (OverrideRefused, 409),
    (LeaseHeld, 409),
    (LeaseLost, 409),
    (RegistryUnavailable, 503),
    (sa.exc.SQLAlchemyError, 503),
)


def who(user: BaseUser) -> str:
    """The user as the registry, the override log and the story name them."""
    return f"{user.get_name()} (console)"


async def act(policy: str, action: str, request: Request, user: SignedIn) -> Response:
    """Do what the form asks. A page goes back to the policy's; who wants JSON gets {"said"}. Raises HTTPException."""
    if (action != RELEASE and action not in commands.DEEDS) or policy not in await work(overview.names):
        raise HTTPException(404, f"there is no {action} of a policy {policy!r}")
    try:
        if not await run_in_threadpool(may_act, policy, request, user):
            raise HTTPException(403, "this is for those who may edit and trigger the policy's release DAG")
        sent = await forms.fields(request)
        forms.check(request, user, sent)
        sent.pop(forms.TOKEN, None)
        said = await _do(policy, action, request, user, sent)
    except HTTPException as error:
        await work(_tell, policy, user, "refused", f"{action}: {error.detail}", {"status": error.status_code})
        raise
    await work(overview.forget)
    if _wants_json(request):
        return JSONResponse({"said": said})
    return RedirectResponse(f"{request.scope.get('root_path', '')}/policies/{policy}", 303)


async def _do(policy: str, action: str, request: Request, user: BaseUser, sent: dict[str, str]) -> str:
    try:
        if action != RELEASE:
            return await work(commands.DEEDS[action], policy, who(user), sent)
        form = commands.filled(commands.Release, sent)
        run = await airflow_client.trigger(request, policy, form.conf(), form.reason)
    except AirflowRefused as error:
        raise HTTPException(error.status if error.status < 500 else 503, str(error)) from error
    except tuple(kind for kind, _ in _STATUS) as error:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        raise HTTPException(status, first_line(error)) from error
    await work(_tell, policy, user, "release_triggered", form.reason, {"dag_run_id": run, **form.conf()})
    return f"The release {run} was triggered."


def _tell(policy: str, user: BaseUser, what: str, words: str, detail: dict[str, Any]) -> None:
    """Record what has no row of its own. A log that cannot be written must not hide from the user what happened."""
    log.info("%s of %s by %s: %s %s", what, policy, who(user), words, detail)
    try:
        audit.record(tables.connect(settings.database_url()), policy, who(user), what, words, **detail)
    except sa.exc.SQLAlchemyError:
        log.exception("the audit log of %s could not be written", policy)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")
