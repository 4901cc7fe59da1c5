"""A graph's interface: the inputs and outputs a policy may have, and whether manifest and graph agree on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bentos.package.action_masks import Masks
from bentos.package.manifest import Manifest, PackageError, Space, Tensor

OBSERVATION = "observation"
MASK = "action_mask"
START = "episode_start"
STATES = ("state_h", "state_c")
NEXT = "next_"
OUTPUTS = ("action", "finite", "value", "log_prob", "logits", "mean", "log_std", "q_values")

_TYPES = {"float": "float32", "double": "float64"}


class Port(Protocol):
    """One input or output as ONNX Runtime describes it."""

    name: str
    type: str
    shape: list[int | str]


def unserved(explore: bool) -> set[str]:
    """Outputs that serving never asks for. Masks rank scores; `log_std`, a tenth of a small SAC, is to explore with."""
    return {"value", "log_prob"} if explore else {"value", "log_prob", "log_std"}


def observation_parts(space: Space) -> dict[str, Space]:
    """The parts of an observation by the names of their inputs: one, or one a key of a Dict."""
    if space.type == "Dict":
        return {f"{OBSERVATION}.{key}": part for key, part in (space.spaces or {}).items()}
    return {OBSERVATION: space}


def check(
    manifest: Manifest, inputs: Sequence[Port], outputs: Sequence[Port], origin: str, *, served: bool = False
) -> None:
    """Raise PackageError, naming what does not fit, unless the manifest declares an interface that can be served and
    the graph has exactly that: names, dtypes and shapes of inputs; names of outputs; the action that `env.step` takes.

    A graph cut to what is `served` must have all outputs but those that serving never asks for.
    """
    declared = {tensor.name: tensor for tensor in manifest.inputs}
    wanted = _wanted(manifest)
    _same_names(origin, "inputs", "declares", declared, wanted)
    for name, tensor in wanted.items():
        came = declared[name]
        if came.dtype != tensor.dtype or (came.shape != tensor.shape and name not in STATES):
            raise PackageError(f"{origin}: the manifest declares {came}, but its spaces ask for {tensor}")
    _same_names(origin, "inputs", "has", {port.name: port for port in inputs}, declared)
    for port in inputs:
        tensor = declared[port.name]
        fits = len(port.shape) == len(tensor.shape) + 1 and all(
            isinstance(came, str) or came is None or came == size
            for came, size in zip(port.shape[1:], tensor.shape, strict=True)
        )
        if _dtype(port) != tensor.dtype or not fits:
            raise PackageError(f"{origin}: the graph takes {port.name} as {port.type} {port.shape}, not as {tensor}")
    known = {*OUTPUTS, *(f"{NEXT}{name}" for name in STATES if name in declared)}
    promised = {tensor.name: tensor for tensor in manifest.outputs}
    if unknown := sorted({port.name for port in outputs} - known):
        raise PackageError(f"{origin}: unknown outputs {unknown}; known are {sorted(known)}")
    left_out = unserved(manifest.serve.explore) if served else set()
    expected = {name: tensor for name, tensor in promised.items() if name not in left_out}
    _same_names(origin, "outputs", "has", {port.name: port for port in outputs}, expected)
    action = Tensor("action", manifest.action_space.dtype, manifest.action_space.shape)
    needed = [action, Tensor("finite", "bool", ())]
    needed += [
        Tensor(f"{NEXT}{name}", declared[name].dtype, declared[name].shape) for name in STATES if name in declared
    ]
    kinds = {port.name: _dtype(port) for port in outputs}
    for tensor in needed:
        if promised.get(tensor.name) != tensor or kinds[tensor.name] != tensor.dtype:
            raise PackageError(
                f"{origin}: expected the output {tensor}, came {promised.get(tensor.name)}, in the graph "
                f"{kinds.get(tensor.name)}"
            )


def _wanted(manifest: Manifest) -> dict[str, Tensor]:
    """The inputs that the manifest's spaces ask for, and those further ones that it may declare and does."""
    found = {
        name: Tensor(name, "float32" if part.dtype == "float64" else part.dtype, part.shape)
        for name, part in observation_parts(manifest.observation_space).items()
    }
    declared = {tensor.name: tensor for tensor in manifest.inputs}
    if MASK in declared:
        found[MASK] = Tensor(MASK, "bool", (Masks(manifest.action_space).width,))
    if any(name in declared for name in (*STATES, START)):
        found |= {name: Tensor(name, "float32", declared[name].shape if name in declared else ()) for name in STATES}
        found[START] = Tensor(START, "float32", ())
    return found


def _same_names(origin: str, what: str, verb: str, came: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    unknown, missing = sorted(set(came) - set(wanted)), sorted(set(wanted) - set(came))
    if unknown or missing:
        who = "the manifest" if verb == "declares" else "the graph"
        parts = [f"{label} {what} {names}" for label, names in (("unknown", unknown), ("missing", missing)) if names]
        raise PackageError(f"{origin}: {who} {verb} {' and '.join(parts)}; expected {list(wanted)}")


def _dtype(port: Port) -> str:
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    return _TYPES.get(kind, kind)
