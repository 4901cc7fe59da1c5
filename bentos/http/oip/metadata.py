"""A policy as a model of the Open Inference Protocol: its tensors, and its statistics by Triton's extension."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bentos.gateway.status import Cell
from bentos.http.oip.datatypes import BYTES, config_name_of, layout_of, name_of
from bentos.http.oip.schemas import ModelMetadata, TensorMetadata
from bentos.package.action_masks import Masks
from bentos.package.interface import MASK
from bentos.package.manifest import Manifest, Tensor
from bentos.rows import MAX_ROWS
from bentos.telemetry import counters

PLATFORM = "onnxruntime_onnx"

EPISODE, USER, STATE = "episode_id", "user_id", "state"
TEXT_INPUTS = (EPISODE, USER, STATE)
"""Optional BYTES inputs, one text a row; empty for none."""

ACTION = "action"
TEXT_OUTPUTS = ("version", "arm", "source", "adjusted", "decision_id", STATE)
"""BYTES outputs, one text a row, beside `action`; `adjusted` holds reason codes with commas between them."""

LOG_PROB = "log_prob"
"""FP64 output [batch] of a policy that explores: NaN for an action that was not drawn."""

_BATCH = -1


class Model:
    """The tensors of one policy, read off its manifest once. `stateful`: its answers bear `state` tokens."""

    def __init__(self, manifest: Manifest, stateful: bool) -> None:
        self.name = manifest.name
        self.stateful = stateful
        self.observations = {
            tensor.name: tensor for tensor in manifest.inputs if tensor.name.partition(".")[0] == "observation"
        }
        space = manifest.action_space
        width = Masks(space).width
        self.mask = Tensor(MASK, "bool", (width,)) if width else None
        self.action = Tensor(ACTION, space.dtype, space.shape)
        self.action_datatype = name_of(space.dtype)
        self.action_layout = layout_of(space.dtype)
        drawn = (LOG_PROB,) if manifest.serve.explore else ()
        self.outputs = (ACTION, *drawn, *(name for name in TEXT_OUTPUTS if stateful or name != STATE))
        self.given = (ACTION, STATE) if stateful else (ACTION,)
        self._inputs = [*self.observations.values(), *(one for one in manifest.inputs if one.name == MASK)]

    def metadata(self, versions: list[str]) -> ModelMetadata:
        """The model's metadata. Optional inputs, which no client has to know, stand in its configuration only."""
        return ModelMetadata(
            self.name,
            versions,
            PLATFORM,
            [_published(tensor) for tensor in self._inputs],
            [self._output(name) for name in self.outputs],
        )

    def configuration(self) -> dict[str, Any]:
        """The model's configuration as Triton shows it: what of it clients read. Shapes leave the batch out."""
        needed = [_published(tensor) for tensor in self.observations.values()]
        optional = [_published(self.mask)] if self.mask else []
        optional += [TensorMetadata(name, BYTES, [_BATCH]) for name in TEXT_INPUTS]
        return {
            "name": self.name,
            "platform": PLATFORM,
            "backend": "onnxruntime",
            "max_batch_size": MAX_ROWS,
            "input": [
                *({**_configured(tensor), "optional": False} for tensor in needed),
                *({**_configured(tensor), "optional": True} for tensor in optional),
            ],
            "output": [_configured(self._output(name)) for name in self.outputs],
        }

    def _output(self, name: str) -> TensorMetadata:
        if name == ACTION:
            return _published(self.action)
        if name == LOG_PROB:
            return TensorMetadata(name, "FP64", [_BATCH])
        return TensorMetadata(name, BYTES, [_BATCH])


def _published(tensor: Tensor) -> TensorMetadata:
    return TensorMetadata(tensor.name, name_of(tensor.dtype), [_BATCH, *tensor.shape])


def _configured(tensor: TensorMetadata) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": config_name_of(tensor.datatype),
        "dims": tensor.shape[1:],
    }


_MILLISECONDS, _NANOSECONDS = 1e3, 1e9
_ARMS = ("champion", "control", "challenger")
_UNTIMED = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def of_version(policy: str, version: str, cells: Iterable[Cell]) -> dict[str, Any]:
    """One entry of `model_stats`: decisions, requests, and their time from end to end, of what `version` was given.

    Refused requests never reach a version and are counted without a time; the parts of a decision are not timed.
    """
    total = counters.total(cell[4] for cell in cells if cell[1] == version and cell[2] in _ARMS)
    nothing = {"count": 0, "ns": 0}
    return {
        "name": policy,
        "version": version,
        "last_inference": round(total["last_decided"] * _MILLISECONDS),
        "inference_count": total["decisions"],
        "execution_count": total["requests"],
        "inference_stats": {
            "success": {"count": total["requests"], "ns": round(total["latency"]["sum"] * _NANOSECONDS)},
            "fail": {"count": sum(total["rejected"].values()), "ns": 0},
            **dict.fromkeys(_UNTIMED, nothing),
        },
        "batch_stats": [],
    }
