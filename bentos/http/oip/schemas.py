"""Requests and responses of the Open Inference Protocol's HTTP form, with its binary tensor data extension."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class TensorParameters(Struct):
    """How a tensor travels. `binary_data_size`: bytes after the JSON; `binary_data`: whether to answer that way.

    Shared memory and classification are named only to be refused.
    """

    binary_data_size: Size | None = None
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class InputTensor(Struct):
    """One input: row-major, flat or nested `data`, or as many bytes after the JSON as its parameters say."""

    name: str
    shape: Annotated[list[Size], Meta(min_length=1, max_length=64)]
    datatype: str
    parameters: TensorParameters | None = None
    data: list[Any] | None = None


class RequestedOutput(Struct):
    """One output that is asked for."""

    name: str
    parameters: TensorParameters | None = None


class RequestParameters(Struct):
    """Parameters of a request. An episode, a user and a state are those of a request's only observation."""

    binary_data_output: bool = False
    episode_id: str | None = None
    user_id: str | None = None
    state: str | None = None


class InferRequest(Struct):
    """Decisions that are asked for."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: RequestParameters | None = None
    outputs: list[RequestedOutput] | None = None


class OutputTensor(Struct, omit_defaults=True):
    """One output, its data flat, or after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferResponse(Struct):
    """Decisions. `model_version` is there where one version answered all rows."""

    model_name: str
    outputs: list[OutputTensor]
    model_version: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


class TensorMetadata(Struct):
    """An input or output of a model. -1 stands for any size: the batch."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """What a client must know to ask a policy."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Struct):
    """What this server is and can do."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(Struct):
    """Whether a policy can be asked."""

    name: str
    ready: bool


decode_request = msgspec.json.Decoder(InferRequest).decode
encode = msgspec.json.Encoder().encode
