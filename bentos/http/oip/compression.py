"""Compressed bodies, as clients of the Open Inference Protocol may send and ask for them: gzip and deflate."""

from __future__ import annotations

import zlib

from bentos.errors import Problem

WORTH_BYTES = 4096
"""A smaller response is sent as it is: compressing it takes longer than sending it."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_FASTEST = 1


def expand(body: bytes, encoding: str, limit: int) -> bytes:
    """A body that was sent as `encoding`. Raises Problem: 415 for another encoding, 413 beyond `limit` bytes, 400."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WBITS:
        raise Problem(415, "encoding", f"no body is read as {encoding[:40]!r}", expected=sorted(_WBITS))
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        expanded = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Problem(400, "encoding", f"the body is not {encoding}: {error}") from error
    if len(expanded) > limit:
        raise Problem(413, "body_size", f"a request body has at most {limit} bytes, expanded", expected=limit)
    if not stream.eof or stream.unused_data:
        raise Problem(400, "encoding", f"the body is not one whole {encoding} stream")
    return expanded


def chosen(accepted: str) -> str | None:
    """The encoding for a response, of those that `Accept-Encoding` names; None: as it is."""
    for offer in accepted.lower().split(","):
        name, _, quality = offer.partition(";")
        if name.strip() in _WBITS and quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name.strip()
    return None


def compress(body: bytes, encoding: str) -> bytes:
    """A response's body as gzip or deflate."""
    stream = zlib.compressobj(_FASTEST, wbits=_WBITS[encoding])
    return stream.compress(body) + stream.flush()
