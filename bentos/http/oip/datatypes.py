"""Datatypes of the Open Inference Protocol, and how their elements lie in binary tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bentos.errors import Problem

BYTES = "BYTES"

_NAMES = {
    "bool": "BOOL",
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
_LENGTH_BYTES = 4


def name_of(dtype: str) -> str:
    """The protocol's name of a numpy dtype: `float32` is `FP32`. Raises KeyError for what it cannot carry."""
    return _NAMES[dtype]


def layout_of(dtype: str) -> np.dtype[np.generic]:
    """How a dtype's elements lie in a binary tensor: little-endian; a boolean as the byte that it is sent as."""
    return np.dtype("u1") if dtype == "bool" else np.dtype(dtype).newbyteorder("<")


def config_name_of(datatype: str) -> str:
    """A datatype as model configurations spell it: `FP32` is `TYPE_FP32`, `BYTES` is `TYPE_STRING`."""
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def pack(texts: Sequence[str]) -> bytes:
    """A BYTES tensor: each element's length (4 bytes, little-endian), then its UTF-8."""
    pieces: list[bytes] = []
    for text in texts:
        data = text.encode()
        pieces += (len(data).to_bytes(_LENGTH_BYTES, "little"), data)
    return b"".join(pieces)


def unpack(name: str, data: memoryview, size: int) -> list[str]:
    """The `size` elements of the BYTES tensor `name`. Raises Problem (422) when they do not fill `data` exactly."""
    texts: list[str] = []
    at = 0
    for _ in range(size):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data):
            raise Problem(422, "bytes", f"{name} ends within an element", expected=size, came=len(texts))
        try:
            texts.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise Problem(422, "bytes", f"{name}: element {len(texts)} is not UTF-8") from error
    if at != len(data):
        raise Problem(422, "bytes", f"{name} goes on after its last element", expected=at, came=len(data))
    return texts
