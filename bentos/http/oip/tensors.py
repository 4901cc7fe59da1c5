"""Input tensors of a request: their bytes found, their shapes and sizes checked, read without a copy where possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bentos.errors import Problem, brief
from bentos.http.oip.datatypes import BYTES, layout_of, name_of, unpack
from bentos.http.oip.schemas import InputTensor
from bentos.package.manifest import Array, Tensor
from bentos.rows import MAX_ROWS

Chunks = dict[str, memoryview]


def chunks(inputs: Sequence[InputTensor], rest: memoryview) -> Chunks:
    """By input, the bytes that were sent after the JSON. Raises Problem (422) unless they are exactly all of `rest`."""
    found: Chunks = {}
    at = 0
    for tensor in inputs:
        given = tensor.parameters
        if given is not None and given.shared_memory_region is not None:
            raise Problem(422, "shared_memory", f"{tensor.name}: shared memory is not served; send the data")
        size = None if given is None else given.binary_data_size
        if (size is None) == (tensor.data is None):
            raise Problem(422, "data", f"{tensor.name} needs either `data` or the parameter `binary_data_size`")
        if size is not None:
            found[tensor.name] = rest[at : at + size]
            at += size
    if at != len(rest):
        raise Problem(422, "binary_size", "the sizes of the binary tensors do not add up", expected=len(rest), came=at)
    return found


def rows_of(tensor: InputTensor, expected: Tensor) -> int:
    """The batch size of an input whose shape beyond it is `expected`. Raises Problem (422, 413)."""
    if tuple(tensor.shape[1:]) != expected.shape:
        raise Problem(
            422,
            "shape",
            f"{tensor.name} has the wrong shape; the first dimension is the batch",
            expected=[-1, *expected.shape],
            came=brief(tensor.shape),
        )
    size = tensor.shape[0]
    if size < 1:
        raise Problem(422, "shape", f"{tensor.name} needs at least one row", came=size)
    if size > MAX_ROWS:
        raise Problem(413, "rows", f"at most {MAX_ROWS} rows a request", expected=MAX_ROWS, came=size)
    return size


def numbers(tensor: InputTensor, expected: Tensor, data: memoryview | None) -> Array | list[Any]:
    """The values [batch, ...] of an input: an array where they came as bytes, else the list in rows.

    Call it after `rows_of`. An array is read-only memory of the request. Raises Problem (422).
    """
    datatype = name_of(expected.dtype)
    if tensor.datatype != datatype:
        raise Problem(
            422, "datatype", f"{tensor.name} has the wrong datatype", expected=datatype, came=brief(tensor.datatype)
        )
    if data is None:
        return _from_json(tensor, expected)
    layout = layout_of(expected.dtype)
    count = math.prod(tensor.shape)
    if len(data) != count * layout.itemsize:
        raise Problem(
            422,
            "binary_size",
            f"{tensor.name} has the wrong size in bytes",
            expected=count * layout.itemsize,
            came=len(data),
        )
    array = np.frombuffer(data, layout).reshape(tensor.shape)
    if not array.flags.aligned:
        array = array.copy()
    if expected.dtype == "bool":
        if array.size and array.max() > 1:
            raise Problem(422, "datatype", f"{tensor.name}: a boolean is a byte 0 or 1", came=int(array.max()))
        return array.view(np.bool_)
    return array


def texts(tensor: InputTensor, size: int, data: memoryview | None) -> list[str | None]:
    """The values of a BYTES input [batch]; an empty one is None. Raises Problem (422)."""
    if tensor.datatype != BYTES or tensor.shape != [size]:
        raise Problem(
            422,
            "datatype" if tensor.datatype != BYTES else "shape",
            f"{tensor.name} is one text a row",
            expected=[BYTES, [size]],
            came=brief([tensor.datatype, tensor.shape]),
        )
    if data is not None:
        return [text or None for text in unpack(tensor.name, data, size)]
    given = tensor.data or []
    if len(given) != size or not all(type(text) is str for text in given):
        raise Problem(422, "data", f"{tensor.name} must be {size} texts", came=brief(given))
    return [text or None for text in given]


def _from_json(tensor: InputTensor, expected: Tensor) -> list[Any]:
    """Rows of the JSON data, nested as it came, or flat and cut into rows: what is in them is checked where all is."""
    values = tensor.data or []
    size = tensor.shape[0]
    inner = math.prod(expected.shape)
    if not expected.shape or (len(values) == size and values and isinstance(values[0], list)):
        return values
    if len(values) != size * inner:
        raise Problem(
            422, "data", f"{tensor.name} has the wrong number of values", expected=size * inner, came=len(values)
        )
    for extent in reversed(expected.shape):
        values = [values[at : at + extent] for at in range(0, len(values), extent)] if extent else values
    return values
