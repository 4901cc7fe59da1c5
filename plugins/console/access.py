"""Who may see what, and who may act: Airflow's own users and permissions on a policy's release DAG."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user, requires_access_dag
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool


def dag_of(policy: str) -> str:
    """The DAG whose readers may see the policy."""
    return f"release_{policy}"


def bearer(request: Request) -> str | None:
    """The bearer token of the request, where it carries one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


async def signed_in(request: Request) -> BaseUser:
    """The Airflow user of the request, by its token or cookie. Raises HTTPException 401 where there is none."""
    try:
        return await get_user(request, None, await bearer_scheme(request))
    except HTTPException as error:
        # an outdated cookie too is answered by signing in again
        raise HTTPException(401, "sign in to Airflow first", {"WWW-Authenticate": "Bearer"}) from error


SignedIn = Annotated[BaseUser, Depends(signed_in)]


async def may_read(policy: str, request: Request, user: SignedIn) -> None:
    """Let pass who may read the policy's release DAG. Raises HTTPException 403."""
    await run_in_threadpool(requires_access_dag("GET", param_dag_id=dag_of(policy)), request, user)


MayRead = Depends(may_read)


def may_act(policy: str, request: Request, user: BaseUser) -> bool:
    """Whether the user may change the policy: who may edit its release DAG and trigger it."""
    dag = dag_of(policy)
    try:
        requires_access_dag("PUT", param_dag_id=dag)(request, user)
        requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=dag)(request, user)
    except HTTPException:
        return False
    return True


def readable(policies: Iterable[str], user: BaseUser) -> list[str]:
    """Those of the policies that the user may see, in their order."""
    policies = list(policies)
    teams = DagModel.get_dag_id_to_team_name_mapping([dag_of(policy) for policy in policies])
    dags: dict[str | None, set[str]] = {}
    for policy in policies:
        dags.setdefault(teams.get(dag_of(policy)), set()).add(dag_of(policy))
    manager = get_auth_manager()
    allowed: set[str] = set()
    for team, ids in dags.items():
        allowed |= manager.filter_authorized_dag_ids(dag_ids=ids, user=user, method="GET", team_name=team)
    return [policy for policy in policies if dag_of(policy) in allowed]


def login_url(request: Request, prefix: str) -> str:
    """Where to sign in, coming back to the page asked for; `prefix` is where the console is mounted."""
    root = str(request.scope.get("root_path", "")).removesuffix(prefix)
    page = request.url.path
    if request.method != "GET":
        page = page.rpartition("/")[0]  # what acts stands below its page
    return f"{root}/api/v2/auth/login?{urlencode({'next': page})}"
