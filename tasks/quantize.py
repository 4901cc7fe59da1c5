"""Quantize a candidate: fp16 and int8 variants, each accepted only if it acts, returns and batches like fp32."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bentos.package import Space, Tensor
from tasks import runs
from tasks.errors import Misconfigured
from tasks.graph import cast, decider, dtypes, open_session
from tasks.inputs import Array, Decide, Inputs, in_batches, repeat, spread, take
from tasks.parity import Difference, compare
from tasks.rollout import QUANTIZATION_SEED, bootstrap_interval, play
from tasks.spec import Environment

QUANTIZATION = "quantize/quantization.json"
CALIBRATION_ROWS = 512
COMPARED_ROWS = 4_096
EPISODES = 32
MINIMUM_AGREEMENT = 0.995
MAXIMUM_P99_ERROR = 0.01
BATCH_TOLERANCE = 1e-4

log = logging.getLogger(__name__)


def write_fp16(source: Path, target: Path, given: Inputs) -> None:
    """Weights and arithmetic in float16; inputs and outputs keep their dtypes."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(_without_value_info(source), keep_io_types=True), target)


def write_int8_dynamic(source: Path, target: Path, given: Inputs) -> None:
    """Weights in int8; activations quantized with a scale found anew for every batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(_without_value_info(source), target, weight_type=QuantType.QInt8, per_channel=True)


def write_int8_static(source: Path, target: Path, given: Inputs) -> None:
    """Weights and activations in int8, with scales calibrated on `given` (raw, on-policy)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class OnPolicy(CalibrationDataReader):
        def __init__(self, batches: Iterator[dict[str, Array]]) -> None:
            self._batches = batches

        def get_next(self) -> dict[str, Array] | None:
            return next(self._batches, None)

    rows = cast(repeat(spread(given, CALIBRATION_ROWS), CALIBRATION_ROWS), dtypes(open_session(source)))
    quantize_static(
        _without_value_info(source),
        target,
        OnPolicy(take(rows, slice(at, at + 64)) for at in range(0, CALIBRATION_ROWS, 64)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _without_value_info(path: Path) -> Any:
    """The model without its stored intermediate shapes, on which ONNX's shape inference stumbles."""
    import onnx

    model = onnx.load(path)
    del model.graph.value_info[:]
    return model


@dataclass(frozen=True)
class Variant:
    """One reduced-precision form of a policy: its file and how it is written."""

    file: str
    write: Callable[[Path, Path, Inputs], None]


VARIANTS = {
    "fp16": Variant("policy.fp16.onnx", write_fp16),
    "int8-dynamic": Variant("policy.int8-dynamic.onnx", write_int8_dynamic),
    "int8-static": Variant("policy.int8-static.onnx", write_int8_static),
}


@dataclass(frozen=True)
class ReturnDifference:
    """Return of the variant minus that of fp32 on the same seeds: mean and its 95 % bootstrap interval."""

    episodes: int
    mean: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Evidence:
    """What was measured of one variant against fp32."""

    actions: Difference
    return_difference: ReturnDifference
    batch_invariant: bool


def judge(evidence: Evidence, discrete: bool, tolerated_loss: float) -> tuple[bool, str]:
    """Whether a variant may ship, and why (not). `tolerated_loss` is in return units."""
    actions, returns = evidence.actions, evidence.return_difference
    reasons = []
    if discrete and actions.agreement < MINIMUM_AGREEMENT:
        reasons.append(f"agrees with fp32 on {actions.agreement:.2%} of actions, {MINIMUM_AGREEMENT:.1%} is asked")
    if not discrete and not actions.p99_error <= MAXIMUM_P99_ERROR:
        reasons.append(
            f"99th percentile of its action error is {actions.p99_error:.2%} of the span, "
            f"{MAXIMUM_P99_ERROR:.0%} is allowed"
        )
    if not evidence.batch_invariant:
        reasons.append("its action depends on which other observations share the batch")
    if returns.lower < -tolerated_loss:
        reasons.append(
            f"its return differs by {returns.mean:+.2f} [{returns.lower:.2f}, {returns.upper:.2f}], "
            f"which does not exclude a loss of more than {tolerated_loss:g}"
        )
    if reasons:
        return False, "; ".join(reasons)
    return True, (
        f"acts like fp32 ({actions.agreement:.2%} equal, p99 error {actions.p99_error:.2e} of the span), return "
        f"{returns.mean:+.2f} [{returns.lower:.2f}, {returns.upper:.2f}], the same at every batch size"
    )


def is_batch_invariant(space: Space, decide: Decide, given: Inputs) -> bool:
    """Whether actions for the first 256 rows are the same alone, in sevens and in sixty-fours."""
    rows = take(given, slice(256))
    alone = in_batches(decide, rows, 1)["action"]
    return all(
        compare(space, alone, in_batches(decide, rows, batch)["action"], BATCH_TOLERANCE).agreement == 1.0
        for batch in (7, 64)
    )


def measure(
    space: Space,
    interface: Sequence[Tensor],
    reference: Path,
    variant: Path,
    given: Inputs,
    environment: Environment,
    baseline: Array,
) -> Evidence:
    """Compare a variant with the fp32 graph on `given` rows, and its returns with `baseline` [episodes]."""
    decide = decider(variant)
    rows = take(given, slice(COMPARED_ROWS))
    tolerance = 0.0 if space.type != "Box" else MAXIMUM_P99_ERROR
    returns = play(environment, decide, range(QUANTIZATION_SEED, QUANTIZATION_SEED + len(baseline)), interface).returns
    paired = returns - baseline
    lower, upper = bootstrap_interval(paired)
    return Evidence(
        compare(
            space,
            in_batches(decider(reference), rows, 64)["action"],
            in_batches(decide, rows, 64)["action"],
            tolerance,
        ),
        ReturnDifference(len(paired), float(paired.mean()), lower, upper),
        is_batch_invariant(space, decide, given),
    )


def quantize_policy(
    reference: Path,
    given: Inputs,
    space: Space,
    interface: Sequence[Tensor],
    environment: Environment,
    tolerated_loss: float,
    directory: Path,
    episodes: int = EPISODES,
) -> dict[str, dict[str, Any]]:
    """Write every variant of the fp32 graph `reference` into `directory` and judge each.

    Returns `{variant: {"accepted_actions", "reason", "file", "size_bytes", "agreement", "max_error", "p99_error",
    "return_difference", "batch_invariant"}}`; a variant that cannot be made has no file and says why.
    """
    seeds = range(QUANTIZATION_SEED, QUANTIZATION_SEED + episodes)
    baseline = play(environment, decider(reference), seeds, interface).returns
    found: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS.items():
        target = directory / variant.file
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
                warnings.simplefilter("ignore")
                variant.write(reference, target, given)
            evidence = measure(space, interface, reference, target, given, environment, baseline)
        except Misconfigured:
            raise
        except Exception as error:  # noqa: BLE001 - a converter that fails on this graph rejects its own variant only
            target.unlink(missing_ok=True)
            found[name] = {
                "accepted_actions": False,
                "reason": f"cannot be made for this graph: {type(error).__name__}: {error}",
                "file": None,
            }
            continue
        accepted, reason = judge(evidence, space.type != "Box", tolerated_loss)
        found[name] = {
            "accepted_actions": accepted,
            "reason": reason,
            "file": variant.file,
            "size_bytes": target.stat().st_size,
            "agreement": evidence.actions.agreement,
            "max_error": evidence.actions.max_error,
            "p99_error": evidence.actions.p99_error,
            "return_difference": asdict(evidence.return_difference),
            "batch_invariant": evidence.batch_invariant,
        }
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's warnings through the root logger, which say nothing about this graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantize(release: runs.Release) -> dict[str, Any]:
    """The stage: write and judge the variants. No verdict here ends a release; fp32 can always ship."""
    import msgspec

    from tasks.evaluate import ROLLOUT, load_rollout
    from tasks.export import EXPORT, ONNX, Exported

    exported = msgspec.convert(release.get_json(EXPORT), Exported)
    with release.scratch() as scratch:
        given, _ = load_rollout(release.fetch(ROLLOUT, scratch))
        reference = release.fetch(f"export/{ONNX}", scratch)
        directory = scratch / "quantize"
        directory.mkdir()
        found = quantize_policy(
            reference,
            given,
            exported.action_space,
            exported.inputs,
            release.spec.environment,
            release.spec.canary.margin,
            directory,
        )
        release.put_directory(directory, "quantize")
    release.put_json(QUANTIZATION, found)
    release.tag(stage="quantized")
    for name, entry in found.items():
        log.info("%s: %s: %s", name, "accepted" if entry["accepted_actions"] else "rejected", entry["reason"])
    return {name: entry["accepted_actions"] for name, entry in found.items()}
