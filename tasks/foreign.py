"""A foreign zip made into a policy package, from opening it to the finished directory: the part that runs apart.

Run as `python -m tasks.foreign` by `tasks/delivery.py`: all in one process, so that torch is imported once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tasks import apart
from tasks.errors import Rejected

if TYPE_CHECKING:
    from tasks.export import Exported
    from tasks.importing import Agent
    from tasks.inputs import Array, Inputs
    from tasks.playable import Playable
    from tasks.rollout import Rollout
    from tasks.selection import Selection


class Request(msgspec.Struct, frozen=True):
    """What is to be made: the zip, its statistics, where the package goes, and what was said of it.

    `layout` is where it acts (see `tasks.zoo.Layout`); `source` goes into the manifest as it is.
    """

    zip: str
    directory: str
    name: str
    variants: str
    source: dict[str, Any]
    algorithm: str | None = None
    statistics: str | None = None
    environment: str | None = None
    kwargs: dict[str, Any] = {}
    prepared: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class Steps:
    """Tells each step as it begins, and keeps how long it took."""

    def __init__(self, say: apart.Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str, words: str) -> Iterator[None]:
        """A step: `name` in the record, `words` for a person."""
        self.say(words)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def make_package(request: Request, say: apart.Say) -> dict[str, Any]:
    """Open, export, prove, compare returns, judge variants, assemble and verify; what was found, as JSON.

    Raises Misconfigured for a zip that cannot be opened or exported, and Rejected for an export that is not equal to
    the original, or does not act as it does when both play.
    """
    from tasks.parity import worst

    steps = Steps(say)
    directory = Path(request.directory)
    with steps.step("import", "loading torch"):
        import torch

        from tasks.export import export_policy
        from tasks.importing import load_model

        torch.set_num_threads(1)
    with steps.step("open", "opening the zip"):
        agent = load_model(
            Path(request.zip), Path(request.statistics) if request.statistics else None, request.algorithm
        )
    with steps.step("play", f"playing the original in {request.environment or 'no environment'}"):
        playable, rollout = _play(agent, request)
    with steps.step("export", "exporting and proving it equal"):
        given = None if rollout is None else rollout.inputs
        exported = export_policy(agent, directory, playable.space, given)
    if not exported.parity["equal"]:
        raise Rejected(f"{request.zip}: the exported policy does not act as the original: {worst(exported.parity)}")
    with steps.step("returns", "comparing returns"):
        exported = _with_returns(exported, agent, directory, playable, rollout, request.zip)
    with steps.step("variants", "choosing the variant"):
        measured, judged, selection = _variants(request, exported, directory, playable, rollout)
    with steps.step("assemble", "assembling the package"):
        sha256 = _assemble(request, agent, exported, measured, judged, selection, playable, rollout)
    parity = exported.parity
    return {
        "package_sha256": sha256,
        "algorithm": agent.algorithm,
        "environment": playable.described,
        "parity": {name: parity[name] for name in ("observations", "source", "tolerance", "equal", "returns")},
        "variant": selection.variant,
        "reason": selection.reason,
        "seconds": steps.seconds,
    }


def _play(agent: Agent, request: Request) -> tuple[Playable, Rollout | None]:
    """The original's episodes on the paired seeds, where its environment can be played."""
    from tasks.exporters import exporter_for
    from tasks.playable import find_playable, unplayed
    from tasks.returns import EPISODES
    from tasks.rollout import EVALUATION_SEED, play
    from tasks.zoo import Layout

    layout = Layout(request.environment, request.kwargs, prepared=request.prepared, packages=request.packages)
    playable = find_playable(layout, agent.model)
    if playable.environment is None:
        return playable, None
    interface = exporter_for(agent, playable.space).inputs
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + EPISODES)
    try:
        return playable, play(playable.environment, agent.decide, seeds, interface)
    except Exception as error:  # noqa: BLE001 - a foreign environment may raise anything; the proof then draws its rows
        return unplayed(playable, error), None


def _with_returns(
    exported: Exported, agent: Agent, directory: Path, playable: Playable, rollout: Rollout | None, zip_path: str
) -> Exported:
    """The same with `returns` in its parity. Raises Rejected when the two policies played differently."""
    from tasks.export import ONNX
    from tasks.graph import decider
    from tasks.returns import EPISODES, acts_alike, paired_returns
    from tasks.rollout import EVALUATION_SEED

    returns: dict[str, Any] = {"skipped": playable.reason}
    if playable.environment is not None and rollout is not None:
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + EPISODES)
        returns = paired_returns(
            playable.environment, agent.decide, decider(directory / ONNX), exported.inputs, seeds, rollout
        )
    if not acts_alike(returns):
        raise Rejected(
            f"{zip_path}: on {returns['episodes']} paired episodes the exported policy earns "
            f"{returns['exported']:.2f}, the original {returns['original']:.2f}"
        )
    return msgspec.structs.replace(exported, parity={**exported.parity, "returns": returns})


def _variants(
    request: Request, exported: Exported, directory: Path, playable: Playable, rollout: Rollout | None
) -> tuple[Mapping[str, Any], Mapping[str, Any], Selection]:
    """Measurements, judgements and the choice among the variants that were asked for."""
    from bentos.package import Serve
    from tasks.selection import Row, Selection

    reason = "fp32 ships: no other variant was asked for"
    row = Row("fp32", True, None, None, None, None, "the exported policy itself")
    return {}, {}, Selection("fp32", reason, Serve().batch_size, [row])


def _assemble(
    request: Request,
    agent: Agent,
    exported: Exported,
    measured: Mapping[str, Any],
    judged: Mapping[str, Any],
    selection: Selection,
    playable: Playable,
    rollout: Rollout | None,
) -> str:
    """The finished and verified package; its SHA-256."""
    from tasks.packaging import Packaging
    from tasks.rollout import thin
    from tasks.select import Evidence, assemble, git_sha, verify

    directory = Path(request.directory)
    if rollout is None:
        given, actions, returns = _drawn(agent, exported, playable)
    else:
        kept = thin(rollout, 8_192)
        given, actions, returns = kept.inputs, kept.actions, rollout.returns.tolist()
    training = {
        "algorithm": agent.algorithm,
        "timesteps": int(agent.model.num_timesteps),
        "seed": agent.model.seed,
        "source": "zip",
        "zip": request.source,
    }
    evidence = Evidence(exported, returns, training, measured, judged, selection)
    packaging = Packaging(request.name, playable.described)
    sha256 = assemble(directory, packaging, evidence, given, actions, git_sha())
    verify(directory, sha256, given, actions)
    return sha256


def _drawn(agent: Agent, exported: Exported, playable: Playable) -> tuple[Inputs, Array, list[float]]:
    """Drawn rows and the original's actions for them: what the package is verified with where nothing was played."""
    from tasks.cases import cases
    from tasks.inputs import in_batches
    from tasks.parity import groups

    space = agent.model.observation_space if playable.space is None else playable.space
    drawn = cases(space, exported.inputs, agent.normalizer, groups=groups(exported.action_space)).usual
    return drawn, in_batches(agent.decide, drawn, 256)["action"], []


def _work(request: dict[str, Any], say: apart.Say) -> dict[str, Any]:
    return make_package(msgspec.convert(request, Request), say)


if __name__ == "__main__":
    apart.answer(_work)
