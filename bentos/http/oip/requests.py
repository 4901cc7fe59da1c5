"""An inference request as what it asks of the gateway."""

from __future__ import annotations

from typing import Any

import msgspec

from bentos.errors import Problem, brief
from bentos.gateway.validate import Ask
from bentos.http.oip.metadata import EPISODE, STATE, TEXT_INPUTS, USER, Model
from bentos.http.oip.schemas import InferRequest, InputTensor, RequestParameters, decode_request
from bentos.http.oip.tensors import Chunks, chunks, numbers, rows_of, texts
from bentos.package.interface import MASK


def parse(body: bytes, json_size: str | None) -> tuple[InferRequest, memoryview]:
    """A request's JSON, and the bytes after it; `json_size` is the header `Inference-Header-Content-Length`.

    Raises Problem: 400 for what is not JSON of that size, 422 for what does not fit.
    """
    whole = memoryview(body)
    if json_size is None:
        size = len(body)
    elif json_size.isascii() and json_size.isdigit() and len(json_size) < 20:
        size = int(json_size)
    else:
        raise Problem(400, "json_size", "`Inference-Header-Content-Length` must be a number", came=brief(json_size))
    if size > len(body):
        raise Problem(400, "json_size", "the body is shorter than its JSON", expected=size, came=len(body))
    try:
        return decode_request(whole[:size]), whole[size:]
    except msgspec.ValidationError as error:
        raise Problem(422, "body", f"the request does not fit: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "json", f"the request is not valid JSON: {error}") from error


def ask_of(model: Model, request: InferRequest, rest: memoryview) -> Ask:
    """What a request asks for. Arrays in it are read-only memory of the request. Raises Problem (422, 413)."""
    tensors = _named(model, request.inputs)
    data = chunks(request.inputs, rest)
    columns: dict[str, Any] = {}
    size = 0
    for name, expected in model.observations.items():
        tensor = tensors[name]
        rows = rows_of(tensor, expected)
        if size not in (0, rows):
            raise Problem(422, "shape", "all inputs must have as many rows", expected=size, came=rows)
        size = rows
        columns[name] = numbers(tensor, expected, data.get(name))
    ask = Ask(columns, size)
    if len(tensors) > len(columns):
        _add_optional(ask, model, tensors, data)
    if request.parameters is not None:
        _add_parameters(ask, request.parameters)
    return ask


def _named(model: Model, inputs: list[InputTensor]) -> dict[str, InputTensor]:
    tensors: dict[str, InputTensor] = {}
    for tensor in inputs:
        known = tensor.name in model.observations or tensor.name in TEXT_INPUTS or (model.mask and tensor.name == MASK)
        if not known or tensor.name in tensors:
            raise Problem(
                422,
                "input",
                f"{brief(tensor.name)} is {'given twice' if known else 'not an input'}",
                expected=[*model.observations, *([MASK] if model.mask else []), *TEXT_INPUTS],
            )
        tensors[tensor.name] = tensor
    if missing := [name for name in model.observations if name not in tensors]:
        raise Problem(422, "input", "inputs are missing", expected=missing)
    return tensors


def _add_optional(ask: Ask, model: Model, tensors: dict[str, InputTensor], data: Chunks) -> None:
    mask = tensors.get(MASK)
    if mask is not None and model.mask is not None:
        if rows_of(mask, model.mask) != ask.size:
            raise Problem(422, "shape", f"{MASK} must have as many rows", expected=ask.size, came=mask.shape[0])
        ask.action_masks = numbers(mask, model.mask, data.get(MASK))
    given = {name: texts(tensors[name], ask.size, data.get(name)) for name in TEXT_INPUTS if name in tensors}
    ask.episode_ids, ask.user_ids, ask.states = given.get(EPISODE), given.get(USER), given.get(STATE)


def _add_parameters(ask: Ask, given: RequestParameters) -> None:
    if given.episode_id is None and given.user_id is None and given.state is None:
        return
    if ask.size != 1:
        raise Problem(
            422,
            "parameters",
            "the parameters episode_id, user_id and state are for one row; give inputs of these names",
            expected=1,
            came=ask.size,
        )
    if given.episode_id is not None:
        ask.episode_ids = [given.episode_id]
    if given.user_id is not None:
        ask.user_ids = [given.user_id]
    if given.state is not None:
        ask.states = [given.state]
