"""A foreign zip made into a policy package, from opening it to the finished directory: the part that runs apart.

Run as `python -m tasks.build.packaging.from_zip` by `tasks/build/packaging/delivery.py`: all in one process, so that
torch is imported once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tasks import sandbox
from tasks.errors import Misconfigured, Rejected, first_line

if TYPE_CHECKING:
    from tasks.build.export.families.base import Exporter
    from tasks.build.export.formats import Exported
    from tasks.build.export.onnx import Converter
    from tasks.build.packaging.playable import Playable
    from tasks.build.training.agent import Agent
    from tasks.build.training.rollout import Rollout
    from tasks.build.variants.selection import Selection
    from tasks.inputs import Array, Inputs


FULL_DISK_BYTES = 2**20


class Request(msgspec.Struct, frozen=True):
    """What is to be made: the zip, its statistics, where the package goes, and what was said of it.

    `layout` is where it acts (see `tasks.build.training.zoo.Layout`); `source` goes into the manifest as it is.
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

    def __init__(self, say: sandbox.Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str, words: str) -> Iterator[None]:
        """A step: `name` in the record, `words` for a person."""
        self.say(words)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def make_package(request: Request, say: sandbox.Say) -> dict[str, Any]:
    """Open, export, prove, compare returns, judge variants, assemble and verify: `{"package_sha256", "seconds"}`.

    Raises Misconfigured for a zip that cannot be opened or exported, and Rejected for an export that is not equal to
    the original, or does not act as it does when both play.
    """
    from tasks.build.export.parity import worst

    steps = Steps(say)
    directory = Path(request.directory)
    with steps.step("import", "loading torch"):
        import torch

        from tasks.build.export.onnx import Converter
        from tasks.build.training.agent import load_model

        torch.set_num_threads(1)
    with steps.step("open", "opening the zip"):
        agent = load_model(
            Path(request.zip), Path(request.statistics) if request.statistics else None, request.algorithm
        )
    with Converter() as converter:
        with steps.step("trace", "tracing the policy"):
            playable = _playable(agent, request)
            exporter = _trace(agent, request, playable, converter)
        with steps.step("play", f"playing {request.environment}" if request.environment else "no environment to play"):
            playable, rollout = _play(agent, playable, exporter)
        with steps.step("export", "exporting and proving it equal"):
            exported = _prove(agent, request, exporter, rollout, converter)
    if not exported.parity["equal"]:
        raise Rejected(f"{request.zip}: the exported policy does not act as the original: {worst(exported.parity)}")
    with steps.step("returns", "comparing returns"):
        exported = _with_returns(exported, agent, directory, playable, rollout, request.zip)
    with steps.step("variants", "judging and measuring variants" if request.variants == "all" else "shipping fp32"):
        known = _known(agent, exported, playable, rollout)
        measured, judged, selection = _variants(request, agent, exported, playable, known.given)
    with steps.step("assemble", "assembling the package"):
        sha256 = _assemble(request, agent, (exported, measured, judged, selection), playable, known)
    return {"package_sha256": sha256, "seconds": steps.seconds}


def _playable(agent: Agent, request: Request) -> Playable:
    """Its environment, where it can be made."""
    from tasks.build.packaging.playable import find_playable
    from tasks.build.training.zoo import Layout

    layout = Layout(request.environment, request.kwargs, prepared=request.prepared, packages=request.packages)
    return find_playable(layout, agent.model)


def _trace(agent: Agent, request: Request, playable: Playable, converter: Converter) -> Exporter:
    """The policy's exporter, its torch formats written and the conversion to ONNX begun. Raises Misconfigured."""
    from tasks.build.export.families import exporter_for
    from tasks.build.export.formats import conversion, write_torch_formats

    directory = Path(request.directory)
    with _told(request):
        exporter = exporter_for(agent, playable.space)
        write_torch_formats(exporter, directory)
        converter.start(*conversion(exporter, directory))
    return exporter


def _play(agent: Agent, playable: Playable, exporter: Exporter) -> tuple[Playable, Rollout | None]:
    """The original's episodes on the paired seeds, where its environment can be played."""
    from tasks.build.export.paired_returns import EPISODES
    from tasks.build.packaging.playable import unplayed
    from tasks.build.training.rollout import EVALUATION_SEED, play

    if playable.environment is None:
        return playable, None
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + EPISODES)
    try:
        return playable, play(playable.environment, agent.decide, seeds, exporter.inputs)
    except Exception as error:  # noqa: BLE001 - a foreign environment may raise anything; the proof then draws its rows
        return dataclasses.replace(unplayed(playable, error), space=playable.space), None


def _prove(
    agent: Agent, request: Request, exporter: Exporter, rollout: Rollout | None, converter: Converter
) -> Exported:
    """The proof of all formats, on what the original met where it was played. Raises Misconfigured."""
    from tasks.build.export.formats import prove_formats
    from tasks.build.training.evaluation import KEPT_STEPS
    from tasks.build.training.rollout import thin

    given = None if rollout is None else thin(rollout, KEPT_STEPS).inputs
    with _told(request):
        return prove_formats(agent, exporter, Path(request.directory), given, converter.finish)


@contextlib.contextmanager
def _told(request: Request) -> Iterator[None]:
    """Whatever a foreign policy provokes in torch, told as Misconfigured, in a line that names the zip."""
    from tasks.build.export.onnx import Unconverted

    directory = Path(request.directory)
    try:
        yield
    except Misconfigured:
        raise
    except Exception as error:
        # Torch tells of a full disk in words of its own.
        if isinstance(error, OSError) or shutil.disk_usage(directory).free < FULL_DISK_BYTES:
            why = getattr(error, "strerror", None) or "no space left"
            raise Misconfigured(f"{directory.parents[1]}: cannot be written: {why}") from error
        said = str(error) if isinstance(error, Unconverted) else f"{type(error).__name__}: {first_line(error)}"
        raise Misconfigured(
            f"{request.zip}: cannot be exported: {said}; "
            "is there a custom class in it that decides by the values of a tensor?"
        ) from error


def _with_returns(
    exported: Exported, agent: Agent, directory: Path, playable: Playable, rollout: Rollout | None, zip_path: str
) -> Exported:
    """The same with `returns` in its parity. Raises Rejected when the two policies played differently."""
    from tasks.build.export.formats import ONNX
    from tasks.build.export.graph import decider
    from tasks.build.export.paired_returns import EPISODES, acts_alike, paired_returns
    from tasks.build.training.rollout import EVALUATION_SEED

    returns: dict[str, Any] = {"skipped": playable.reason}
    if playable.environment is not None and rollout is not None:
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + EPISODES)
        returns = paired_returns(
            playable.environment, agent.decide, decider(directory / ONNX), exported.inputs, seeds, rollout.returns
        )
    if not acts_alike(returns):
        raise Rejected(
            f"{zip_path}: on {returns['episodes']} paired episodes {returns['actions']['agreement']:.2%} of the "
            f"exported policy's actions are the original's; it earns {returns['exported']:.2f}, the original "
            f"{returns['original']:.2f}"
        )
    return msgspec.structs.replace(exported, parity={**exported.parity, "returns": returns})


def _variants(
    request: Request, agent: Agent, exported: Exported, playable: Playable, given: Inputs
) -> tuple[Mapping[str, Any], Mapping[str, Any], Selection]:
    """Measurements, judgements and the choice among the variants that were asked for; files of the others are gone."""
    from bentos.package.manifest import Serve
    from tasks.build.export.formats import ONNX, TORCHSCRIPT
    from tasks.build.variants.benchmark import compare_with_originals, measure_variants
    from tasks.build.variants.quantize import quantize_policy
    from tasks.build.variants.selection import COMPARED_BATCH, Row, Selection, choose

    serve, directory = Serve(), Path(request.directory)
    if request.variants == "fp32":
        row = Row("fp32", True, None, None, None, None, "the exported policy itself")
        return {}, {}, Selection("fp32", "fp32 ships: no other variant was asked for.", serve.batch_size, [row])
    reference = directory / ONNX
    judged = quantize_policy(
        reference, given, exported.action_space, exported.inputs, playable.environment, None, directory
    )
    graphs = {"fp32": reference} | {name: directory / one["file"] for name, one in judged.items() if one["file"]}
    measured = measure_variants(graphs, reference, given, COMPARED_BATCH, directory.parent)
    measured["fp32"]["compared_with"] = compare_with_originals(agent, directory / TORCHSCRIPT, exported.inputs, given)
    selection = choose(measured, judged, None, serve.latency_slo_ms, serve.deadline_ms)
    for name, path in graphs.items():
        if name not in selection.accepted:
            path.unlink()
    return measured, judged, selection


def _assemble(
    request: Request,
    agent: Agent,
    evidence: tuple[Exported, Mapping[str, Any], Mapping[str, Any], Selection],
    playable: Playable,
    known: Known,
) -> str:
    """The finished and verified package; its SHA-256."""
    from tasks.build.packaging.assemble import Evidence, assemble, git_sha, verify
    from tasks.spec.packaging import Packaging

    exported, measured, judged, selection = evidence
    directory = Path(request.directory)
    training = {
        "algorithm": agent.algorithm,
        "timesteps": int(agent.model.num_timesteps or 0),
        "seed": agent.model.seed,
        "source": "zip",
        "zip": request.source,
    }
    sha256 = assemble(
        directory,
        Packaging(request.name, playable.described),
        Evidence(exported, known.returns, training, measured, judged, selection),
        known.given,
        known.actions,
        git_sha(),
    )
    verify(directory, sha256, known.given, known.actions)
    return sha256


@dataclass(frozen=True)
class Known:
    """What the original was asked and answered, and its returns: none where the rows were drawn."""

    given: Inputs
    actions: Array
    returns: list[float]


def _known(agent: Agent, exported: Exported, playable: Playable, rollout: Rollout | None) -> Known:
    """Steps of the original's episodes, else drawn rows."""
    from tasks.build.export.cases import cases
    from tasks.build.export.parity import groups
    from tasks.build.training.evaluation import KEPT_STEPS
    from tasks.build.training.rollout import thin
    from tasks.inputs import in_batches

    if rollout is not None:
        kept = thin(rollout, KEPT_STEPS)
        return Known(kept.inputs, kept.actions, rollout.returns.tolist())
    space = agent.model.observation_space if playable.space is None else playable.space
    drawn = cases(space, exported.inputs, agent.normalizer, groups=groups(exported.action_space)).usual
    return Known(drawn, in_batches(agent.decide, drawn, 256)["action"], [])


def _work(request: dict[str, Any], say: sandbox.Say) -> dict[str, Any]:
    # Importing and tracing make a million objects that stay; looking through them again and again takes a second.
    gc.set_threshold(200_000, 50, 50)
    return make_package(msgspec.convert(request, Request), say)


if __name__ == "__main__":
    # A short life full of imports and traces: looking for garbage so often would be a seventh of it.
    gc.set_threshold(200_000, 50, 50)
    sandbox.answer(_work)
