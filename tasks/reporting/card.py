"""The model card: what a reviewer reads on the model version's page, written again after every gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tasks.canary import lifecycle
from tasks.canary.evidence import units
from tasks.checklist.types import PHASES, Checklist
from tasks.reporting import plots
from tasks.reporting.canary_plot import picture
from tasks.reporting.card_text import Evidence, description, full, overview
from tasks.reporting.comparison import Difference, compare, side
from tasks.spec.sections import FAMILIES
from tasks.tracking.registry import Registry
from tasks.tracking.release import Release

Draw: TypeAlias = Callable[[Path], Path]


def update(release: Release, version: str, bundle: str | None = None) -> str:
    """Draw what is new, write card/card.md, the version's description and the model's; returns the version's.

    `bundle` is the path of the evidence bundle among the run's artifacts, once the release has one.
    """
    evidence = replace(gather(release, version), bundle=bundle)
    course = partial(_picture_canary, release, evidence.canary) if evidence.canary else None
    with release.scratch() as scratch:
        folder = scratch / "card"
        folder.mkdir()
        drawn = draw(evidence, folder, course)
        evidence = replace(evidence, pictures=tuple(sorted({*evidence.pictures, *drawn})))
        (folder / "card.md").write_text(full(evidence), encoding="utf-8")
        release.put_directory(folder, "card")
    text = description(evidence)
    with Registry() as registry:
        registry.describe_version(release.policy, version, text)
        versions = registry.versions(release.policy)
        registry.describe_model(release.policy, overview(release.spec, versions))
    return text


def gather(release: Release, version: str) -> Evidence:
    """Read what the stages left in the release's run and the version's tags."""
    with Registry() as registry:

        def read(path: str) -> dict[str, Any]:
            return dict(registry.artifact(release.run_id, path) or {})

        manifest = read("package/policy.json")
        checklists = [read(f"checklist/{phase}.json") for phase in PHASES]
        found = registry.version(release.policy, version)
        champion, differences = _against(registry, release, version)
        evidence = Evidence(
            release.policy,
            version,
            release.dag_run_id,
            release.run_id,
            release.spec,
            release.experiment_id,
            tags=found.tags if found else {},
            training=read("model/training.json"),
            evaluation=read("evaluation/evaluation.json"),
            parity=read("export/export.json").get("parity", {}),
            benchmark={
                variant: row for family in FAMILIES for variant, row in read(f"benchmark/{family}.json").items()
            },
            quantization=read("quantize/quantization.json"),
            selection=read("selection.json"),
            actions=manifest.get("baselines", {}).get("actions", {}),
            canary=read("canary/verdict.json"),
            champion=champion,
            differences=differences,
            checklists=tuple(Checklist.from_json(document) for document in checklists if document),
        )
    pictures = sorted(Path(name).stem for name in release.files("card") if name.endswith(".png"))
    return replace(evidence, pictures=tuple(pictures))


def _against(registry: Registry, release: Release, version: str) -> tuple[str | None, tuple[Difference, ...]]:
    """The champion that the candidate was tried against (or would be now), and what sets them apart."""
    plan, model = registry.artifact(release.run_id, lifecycle.PLAN), registry.model(release.policy)
    champion = plan["champion"] if plan else model.aliases.get("champion") if model else None
    serving = registry.version(release.policy, champion) if champion not in (None, version) else None
    if serving is None:
        return None, ()
    differences = compare(side(registry, serving.run_id, serving.version), side(registry, release.run_id, version))
    return serving.version, tuple(differences)


def draw(evidence: Evidence, folder: Path, course: Draw | None = None) -> list[str]:
    """Draw every picture that has its evidence and was not drawn before; their names. `course` draws the canary's."""
    wanted: dict[str, Draw] = {}
    if evidence.training.get("curve"):
        minimum = evidence.spec.evaluate.minimum_mean_return
        wanted["learning_curve"] = partial(plots.learning_curve, curve=evidence.training["curve"], minimum=minimum)
    if evidence.evaluation:
        wanted["return_distribution"] = partial(plots.return_distribution, evaluation=evidence.evaluation)
    if evidence.benchmark:
        shipped = str(evidence.selection.get("variant", ""))
        wanted["latency"] = partial(plots.latency, benchmark=evidence.benchmark, shipped=shipped)
    if evidence.actions:
        wanted["action_distribution"] = partial(plots.action_distribution, actions=evidence.actions)
    if course is not None:
        wanted["canary"] = course
    new = [name for name in wanted if name not in evidence.pictures]
    for name in new:
        wanted[name](folder / f"{name}.png")
    return new


def _picture_canary(release: Release, verdict: Mapping[str, Any], path: Path) -> Path:
    """The canary's course, from the stored units, up to its verdict."""
    plan = lifecycle.plan(release)
    return picture(path, units(plan), plan, str(verdict["verdict"]), str(verdict.get("reason", "")))
