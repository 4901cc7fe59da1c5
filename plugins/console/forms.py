"""Forms that act: read with a limit, and proved to come from one of the console's own pages.

A cookie alone does not prove that its user wanted a request: another site can make a browser send one. Airflow's cookie
is `SameSite=Lax`, which keeps other sites out but not other pages of the same site (another port or subdomain), so each
form carries a token that only the console can make, for this user, and that no other origin can read. On top, what the
browser itself says of where the request comes from must fit. A request with a bearer token needs none of this: no
browser adds one by itself, and Airflow then takes the user from it, not from the cookie.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.configuration import conf
from fastapi import HTTPException, Request
from itsdangerous import BadSignature, TimestampSigner

from plugins.console.access import bearer

TOKEN = "form_token"
_LARGEST = 64 * 1024
_FIELDS = 20
_HOUR = 3600
_LIFE = 12 * _HOUR


class _Signer(TimestampSigner):
    """Tokens of one user are the same within an hour, so that a page that did not change is sent unchanged."""

    def get_timestamp(self) -> int:
        """Now, in whole hours, as Unix seconds."""
        return int(time.time()) // _HOUR * _HOUR


def _signer() -> _Signer:
    # the key that all of Airflow's API servers share
    return _Signer(conf.get_mandatory_value("api", "secret_key"), salt="airlock.console.forms")


def token(user: BaseUser) -> str:
    """What a form of this user's page carries in its field `TOKEN`."""
    return _signer().sign(str(user.get_id())).decode()


async def fields(request: Request) -> dict[str, str]:
    """The fields of a URL-encoded form. Raises HTTPException 413 or 422."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise HTTPException(413, f"a form may have at most {_LARGEST} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=_FIELDS))
    except ValueError as error:
        raise HTTPException(422, "send the fields as application/x-www-form-urlencoded") from error


def check(request: Request, user: BaseUser, sent: Mapping[str, str]) -> None:
    """Raise HTTPException 403 unless the form is from a page that the console made for this user."""
    if bearer(request):
        return
    if _from_elsewhere(request):
        raise HTTPException(403, "this form was sent from another site")
    try:
        whose = _signer().unsign(sent.get(TOKEN, ""), max_age=_LIFE).decode()
    except BadSignature as error:
        raise HTTPException(403, "this form is too old or not the console's own: reload the page") from error
    if whose != str(user.get_id()):
        raise HTTPException(403, "this form was made for another user: reload the page")


def _from_elsewhere(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = request.headers.get("origin")
    ours = {request.headers.get("host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    return origin is not None and urlsplit(origin).netloc not in ours - {""}
