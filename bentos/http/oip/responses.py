"""An answer of the gateway as the tensors of an inference response."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import UNSET

from bentos.errors import Problem, brief
from bentos.gateway.validate import Answer
from bentos.http.oip.datatypes import BYTES, pack
from bentos.http.oip.metadata import ACTION, LOG_PROB, STATE, Model
from bentos.http.oip.schemas import InferRequest, InferResponse, OutputTensor, encode

Ids = Callable[[int], list[str]]
"""Makes ids for that many decisions."""

Wanted = list[tuple[str, bool]]
"""Output names, and whether each is wanted as bytes."""


def wanted(model: Model, request: InferRequest) -> Wanted:
    """The outputs that a request asks for, by default those that a client needs. Raises Problem (422)."""
    binary = request.parameters is not None and request.parameters.binary_data_output
    if not request.outputs:
        return [(name, binary) for name in model.given]
    found: Wanted = []
    for output in request.outputs:
        given = output.parameters
        if output.name not in model.outputs:
            raise Problem(422, "output", f"{brief(output.name)} is not an output", expected=list(model.outputs))
        if given is not None and (given.classification or given.shared_memory_region is not None):
            raise Problem(422, "output", f"{output.name}: classification and shared memory are not served")
        chosen = given.binary_data if given is not None else None
        found.append((output.name, binary if chosen is None else chosen))
    if len({name for name, _ in found}) != len(found):
        raise Problem(422, "output", "an output is asked for twice", came=brief([name for name, _ in found]))
    return found


def response(model: Model, asked: InferRequest, outputs: Wanted, answer: Answer, ids: Ids) -> tuple[bytes, int | None]:
    """The response's body, and (None: it is JSON throughout) how many bytes of it are JSON."""
    tensors = []
    pieces = []
    for name, binary in outputs:
        if name == ACTION:
            tensor, data = _action(model, answer, binary)
        elif name == LOG_PROB:
            tensor, data = _log_prob(answer, binary)
        else:
            tensor, data = _texts(name, answer, ids, binary)
        tensors.append(tensor)
        if binary:
            tensor.parameters = {"binary_data_size": len(data)}
            pieces.append(data)
    versions = answer.decision.versions
    first = versions[0]
    alike = first is not None and versions.count(first) == len(versions)
    document = InferResponse(
        model.name,
        tensors,
        first if alike and first is not None else UNSET,
        UNSET if asked.id is None else asked.id,
        _facts(answer, ids) if answer.rows.size == 1 else UNSET,
    )
    head = encode(document)
    if not pieces:
        return head, None
    return b"".join((head, *pieces)), len(head)


def _action(model: Model, answer: Answer, binary: bool) -> tuple[OutputTensor, bytes]:
    action = answer.decision.action
    tensor = OutputTensor(ACTION, model.action_datatype, list(action.shape))
    if binary:
        return tensor, action.astype(model.action_layout, copy=False).tobytes()
    tensor.data = action.reshape(-1).tolist()
    return tensor, b""


def _log_prob(answer: Answer, binary: bool) -> tuple[OutputTensor, bytes]:
    drawn = answer.decision.log_prob
    values = np.full(answer.rows.size, np.nan) if drawn is None else drawn
    tensor = OutputTensor(LOG_PROB, "FP64", [len(values)])
    if binary:
        return tensor, values.astype("<f8", copy=False).tobytes()
    tensor.data = values.tolist()
    return tensor, b""


def _texts(name: str, answer: Answer, ids: Ids, binary: bool) -> tuple[OutputTensor, bytes]:
    values = _column(name, answer, ids)
    tensor = OutputTensor(name, BYTES, [len(values)])
    if binary:
        return tensor, pack(values)
    tensor.data = values
    return tensor, b""


def _column(name: str, answer: Answer, ids: Ids) -> list[str]:
    decision = answer.decision
    if name == "version":
        return [version or "" for version in decision.versions]
    if name == "arm":
        return [seat.arm for seat in answer.seats]
    if name == "source":
        return list(decision.sources)
    if name == "adjusted":
        return [",".join(reasons) for reasons in decision.adjusted or [[]] * answer.rows.size]
    if name == STATE:
        return list(answer.states or [""] * answer.rows.size)
    return ids(answer.rows.size)


def _facts(answer: Answer, ids: Ids) -> dict[str, str]:
    """What a client of one decision may want to log, though it asked for the action only."""
    decision = answer.decision
    facts = {"arm": answer.seats[0].arm, "source": decision.sources[0], "decision_id": ids(1)[0]}
    if decision.adjusted and decision.adjusted[0]:
        facts["adjusted"] = ",".join(decision.adjusted[0])
    return facts
