"""Which certificates HTTP clients trust: a list read once a process, since that costs as much as many requests."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


def trusted(url: str) -> ssl.SSLContext | bool:
    """httpx's `verify` for an address: the certificates that it trusts by itself, where the address asks for any."""
    return False if url.lower().startswith("http:") else _known()


@cache
def _known() -> ssl.SSLContext:
    return httpx.create_ssl_context()
