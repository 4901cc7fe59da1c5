"""The console's routes: pages, the fragments that keep them fresh, the same as JSON and SVG, and what acts."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from plugins.console import PREFIX, actions, airflow_client, canary, charts, formatting, forms, overview
from plugins.console.access import MayRead, SignedIn, login_url, may_act, readable
from plugins.console.thread_pool import work

_HERE = Path(__file__).parent
_DATA = ("/data/", "/fragments/", "/static/")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_SAID = {
    403: "You may not see this: it is for those who may read the policy's release DAG.",
    404: "There is no such page.",
}

_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(formatting.FILTERS)


def _render(template: str, request: Request, **found: Any) -> str:
    return _templates.get_template(template).render(base=request.scope.get("root_path", ""), **found)


def _glances(user: BaseUser) -> list[overview.Glance]:
    return overview.glances(readable(overview.names(), user))


def _page(policy: str) -> overview.PolicyPage:
    if policy not in overview.names():
        raise HTTPException(404, f"there is no policy {policy!r}")
    return overview.page(policy)


async def policies(request: Request, user: SignedIn) -> HTMLResponse:
    """The page of all policies that the user may see."""
    found = await work(_glances, user)
    return HTMLResponse(_render("policies.html", request, glances=found))


async def policies_fragment(request: Request, user: SignedIn) -> HTMLResponse:
    """What is fresh of the page of all policies."""
    return HTMLResponse(_render("_policies.html", request, glances=await work(_glances, user)))


async def policies_data(user: SignedIn) -> Response:
    """All policies that the user may see, as JSON."""
    return _json({"policies": await work(_glances, user)})


async def _policy(template: str, policy: str, request: Request, user: BaseUser) -> HTMLResponse:
    found = await work(_page, policy)
    may = await run_in_threadpool(may_act, policy, request, user)
    try:
        waiting = overview.Part(await airflow_client.awaited(request, policy))
    except airflow_client.AirflowRefused as error:
        waiting = overview.Part(problem=f"Airflow does not tell what waits for approval: {error}")
    form_token = forms.token(user) if may else None
    return HTMLResponse(_render(template, request, page=found, waiting=waiting, form_token=form_token))


async def policy_page(policy: str, request: Request, user: SignedIn) -> HTMLResponse:
    """The page of one policy."""
    return await _policy("policy.html", policy, request, user)


async def policy_fragment(policy: str, request: Request, user: SignedIn) -> HTMLResponse:
    """What is fresh of the page of one policy."""
    return await _policy("_policy.html", policy, request, user)


async def policy_data(policy: str) -> Response:
    """One policy as JSON."""
    return _json(await work(_page, policy))


async def policy_history(policy: str) -> Response:
    """Returns, latency and drift over time, as charts draw them."""
    part = await work(overview.attempt, lambda: charts.recent(policy))
    if part.problem is not None:
        raise HTTPException(503, part.problem)
    return _json({"charts": part.value})


async def canary_picture(policy: str, request: Request) -> Response:
    """The picture of the running canary, or the last one."""
    part = await work(overview.attempt, lambda: canary.picture(policy))
    if part.problem is not None:
        raise HTTPException(503, part.problem)
    if part.value is None:
        raise HTTPException(404, f"{policy} has had no canary yet")
    tag = f'"{hashlib.blake2b(part.value, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Content-Security-Policy": _SVG_POLICY}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(part.value, media_type="image/svg+xml", headers=headers)


def _path(request: Request) -> str:
    """The path asked for, below where the console is mounted."""
    return request.url.path.removeprefix(str(request.scope.get("root_path", "")))


def _json(found: Any) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json")


async def refused(request: Request, error: AnyHTTPException) -> Response:
    """A refusal: for a page, the way to the login or a page that says why; for data, JSON."""
    if _path(request).startswith(_DATA) or "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    if error.status_code == 401:
        return RedirectResponse(login_url(request, PREFIX), 307 if request.method == "GET" else 303)
    said = str(error.detail) if request.method == "POST" else _SAID.get(error.status_code, str(error.detail))
    return HTMLResponse(_render("message.html", request, said=said), error.status_code)


async def secure(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Every answer carries the headers that keep scripts, frames and guesses about types out."""
    response = await answer(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if not _path(request).startswith("/static/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def create() -> FastAPI:
    """The console, to be mounted at `PREFIX` of Airflow's API server."""
    app = FastAPI(title="Airlock", openapi_url=None)
    app.middleware("http")(secure)
    app.add_exception_handler(AnyHTTPException, refused)  # type: ignore[arg-type]
    app.get("/")(policies)
    app.get("/fragments/policies")(policies_fragment)
    app.get("/data/policies")(policies_data)
    app.get("/policies/{policy}", dependencies=[MayRead])(policy_page)
    app.get("/fragments/policies/{policy}", dependencies=[MayRead])(policy_fragment)
    app.get("/data/policies/{policy}", dependencies=[MayRead])(policy_data)
    app.get("/data/policies/{policy}/history", dependencies=[MayRead])(policy_history)
    app.get("/data/policies/{policy}/canary.svg", dependencies=[MayRead])(canary_picture)
    app.post("/policies/{policy}/{action}")(actions.act)
    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    return app
