"""The words of a model card: Markdown from evidence, short enough for MLflow's description or in full.

MLflow's page strips styles, so cells are set apart by wide spaces and pictures are drawn in the size they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from bentos import settings
from tasks.build.variants.selection import COMPARED_BATCH
from tasks.checklist.render import as_markdown
from tasks.checklist.types import Checklist
from tasks.markdown import brief, table
from tasks.reporting import card_measurements
from tasks.reporting.comparison import Difference, markdown
from tasks.spec.sections import PolicySpec
from tasks.tracking.registry import Version

LIMIT = 5_000
"""Most characters MLflow takes as a description."""
OVERVIEW_VERSIONS = 20
PICTURES = ("canary", "return_distribution", "learning_curve", "latency", "action_distribution")
WIDE = "canary"
HEADLINES = {
    "candidate": "Candidate, not yet approved",
    "approved": "Approved for a canary",
    "rejected": "Rejected before it served anyone",
    "promoted": "Promoted to champion",
    "rolled_back": "Rolled back",
    "inconclusive": "Inconclusive, the champion stayed",
    "aborted": "Aborted",
}


@dataclass(frozen=True)
class Evidence:
    """All a card tells, as the release's stages left it; what has not happened yet is empty."""

    policy: str
    version: str
    dag_run_id: str
    run_id: str
    spec: PolicySpec
    experiment_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    actions: Mapping[str, Any] = field(default_factory=dict)
    canary: Mapping[str, Any] = field(default_factory=dict)
    checklists: tuple[Checklist, ...] = ()
    pictures: tuple[str, ...] = ()
    bundle: str | None = None
    champion: str | None = None
    differences: tuple[Difference, ...] = ()


def full(evidence: Evidence) -> str:
    """The whole card, for the artifact card/card.md."""
    return _compose(evidence, reason_limit=400, pictures=True, compared=True, benchmark=True)


def description(evidence: Evidence) -> str:
    """The card for the model version's page: at most LIMIT characters, what is least needed cut first."""
    for reason_limit, pictures, compared in (
        (64, True, True),
        (45, True, True),
        (0, True, True),
        (0, True, False),
        (0, False, False),
    ):
        text = _spread(_compose(evidence, reason_limit, pictures, compared))
        if len(text) <= LIMIT:
            return text
    return text[: LIMIT - 1] + "…"


def overview(spec: PolicySpec, versions: Sequence[Version]) -> str:
    """The registered model's description: what its aliases mean, and how each release ended, the newest first.

    Who has which alias is left to the page itself: a rollback moves aliases without a release.
    """
    rows = [
        [
            item.version,
            item.tags.get("validation_status", ""),
            brief(item.tags.get("reason", "").replace("|", "\\|"), 110),
        ]
        for item in sorted(versions, key=lambda item: int(item.version), reverse=True)[:OVERVIEW_VERSIONS]
    ]
    intro = (
        f"{spec.train.algorithm.upper()} policy for {spec.environment.id}, released by Airlock. `champion` is what "
        "serves, `previous` is where a rollback goes, `challenger` is in its canary. A version's card is its "
        "description, its evidence is in its source run. How the releases ended:"
    )
    return _spread(f"{intro}\n\n{table(['version', 'status', 'why'], rows)}")


def _spread(text: str) -> str:
    """Set table columns and sections apart: the widest cells of a column end in a wide space."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [line[2:-2].split(" | ") for line in block.splitlines()[2:]]
            header, rule = block.splitlines()[:2]
            cells = [header[2:-2].split(" | "), *rows]
            widest = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
            padded = [
                [
                    f"{cell}&emsp;" if column < len(row) - 1 and len(cell) >= 0.8 * widest[column] else cell
                    for column, cell in enumerate(row)
                ]
                for row in cells
            ]
            lines = [f"| {' | '.join(row)} |" for row in padded]
            block = "\n".join([lines[0], rule, *lines[1:]])
        blocks.append(f"&nbsp;\n\n{block}" if block.startswith("###") else block)
    return "\n\n".join(blocks)


def _compose(
    evidence: Evidence, reason_limit: int, pictures: bool, compared: bool = True, benchmark: bool = False
) -> str:
    batch = evidence.spec.serve.batch_size or COMPARED_BATCH
    sections = [
        _headline(evidence),
        links(evidence),
        _pictures(evidence) if pictures else "",
        _evaluation(evidence),
        _against(evidence) if compared else "",
        card_measurements.parity(evidence.parity),
        card_measurements.variants(evidence.benchmark, evidence.quantization, evidence.selection, batch, reason_limit),
        card_measurements.benchmark(evidence.benchmark, batch) if benchmark else "",
        *(_checklist(checklist, reason_limit) for checklist in evidence.checklists),
        _reproduce(evidence),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _headline(evidence: Evidence) -> str:
    status = evidence.tags.get("validation_status", "candidate")
    lines = [f"## {HEADLINES.get(status, status)}: {evidence.policy} version {evidence.version}", ""]
    reason = evidence.tags.get("reason", "")
    if reason and reason != evidence.canary.get("reason") and status not in ("candidate", "approved"):
        lines += [f"**{reason}**", ""]
    return "\n".join([*lines, plain_headline(evidence)])


def plain_headline(evidence: Evidence) -> str:
    """What was found, in a line each: returns, canary, variant, approval, checklists."""
    spec, evaluation, canary = evidence.spec, evidence.evaluation, evidence.canary
    lines = []
    if evaluation:
        lines.append(
            f"- **Return {evaluation['mean']:.1f}** on average over {evaluation['episodes']} seeded episodes of "
            f"{spec.environment.id} ({100 * evaluation['confidence']:.0f} % interval {evaluation['lower']:.1f} to "
            f"{evaluation['upper']:.1f}); required {evaluation['minimum']:g}."
        )
    if canary:
        lines.append(f"- **Canary: {canary['verdict']}.** {canary.get('reason', '')}".rstrip())
    if evidence.selection:
        first = str(evidence.selection.get("reason", "")).split(". ")[0].rstrip(".")
        lines.append(f"- **Variant:** {first}.")
    for key, said in (("approved_by", "Approved"), ("rejected_by", "Rejected")):
        if key in evidence.tags:
            lines.append(f"- **{said} by {evidence.tags[key]}**, reason: {evidence.tags.get('approval_reason', '')}.")
    for checklist in evidence.checklists:
        open_points = [check.id for check in checklist.checks if check.status != "pass"]
        passed = len(checklist.checks) - len(open_points)
        note = f"; not passed: {', '.join(open_points)}" if open_points else ""
        name = checklist.phase.replace("_", "-").capitalize()
        lines.append(f"- **{name} checklist: {checklist.verdict}**, {passed} of {len(checklist.checks)} passed{note}.")
    return "\n".join(lines)


def links(evidence: Evidence, mlflow: str = "") -> str:
    """Where a reviewer goes from here. Without the address `mlflow`, links into MLflow are relative, for its pages."""
    run = f"release_{evidence.policy}/runs/{quote(evidence.dag_run_id, safe='')}"
    base = f"{mlflow}/" if mlflow else ""
    version = f"{base}#/models/{evidence.policy}/versions/{evidence.version}"
    found = [
        *([f"[Model version]({version})"] if mlflow else []),
        f"[DAG run]({settings.airflow_url()}/dags/{run})",
        f"[Console]({settings.airflow_url()}/airlock/policies/{evidence.policy})",
        f"[MLflow run]({base}#/experiments/{evidence.experiment_id}/runs/{evidence.run_id})",
        f"[Whole card]({base}{_artifact(evidence, 'card/card.md')})",
        *([f"[Evidence bundle]({base}{_artifact(evidence, evidence.bundle)})"] if evidence.bundle else []),
        *([f"Bento `{evidence.tags['bento_tag']}`"] if "bento_tag" in evidence.tags else []),
    ]
    return " · ".join(found)


def _artifact(evidence: Evidence, path: str) -> str:
    return f"get-artifact?path={path}&run_uuid={evidence.run_id}"


def _pictures(evidence: Evidence) -> str:
    """The wide one above, the others in pairs."""
    drawn = [name for name in PICTURES if name in evidence.pictures]
    images = {name: f"![{name}]({_artifact(evidence, f'card/{name}.png')})" for name in drawn}
    wide = images.pop(WIDE, "")
    pairs = [*images.values(), ""]
    rows = [pairs[at : at + 2] for at in range(0, len(images), 2)]
    return "\n\n".join(filter(None, (wide, table(["", ""], rows) if rows else "")))


def _evaluation(evidence: Evidence) -> str:
    document = evidence.evaluation
    if not document:
        return ""
    row = [
        f"{document['mean']:.1f}",
        f"{document['lower']:.1f} to {document['upper']:.1f}",
        f"{document['std']:.1f}",
        f"{min(document['returns']):.1f}",
        f"{max(document['returns']):.1f}",
        f"{document['episodes']}",
        f"{document['minimum']:g}",
    ]
    level = f"{100 * document['confidence']:.0f} % interval"
    header = ["mean return", level, "deviation", "lowest", "highest", "episodes", "required"]
    return "### Evaluation\n\n" + table(header, [row])


def _against(evidence: Evidence) -> str:
    if evidence.champion is None:
        return ""
    return "### Against the champion\n\n" + markdown(evidence.champion, list(evidence.differences))


def _checklist(checklist: Checklist, reason_limit: int) -> str:
    name = checklist.phase.replace("_", "-").capitalize()
    return f"### {name} checklist: {checklist.verdict}\n\n{as_markdown(checklist, reason_limit)}"


def _reproduce(evidence: Evidence) -> str:
    training = evidence.training
    parts = [
        f"{training.get('algorithm', evidence.spec.train.algorithm).upper()}",
        f"{training.get('timesteps', 0):,} steps",
        f"seed {training.get('seed', evidence.spec.train.seed)}",
        f"source `{training.get('source', 'train')}`",
        f"trained in {training.get('seconds', 0):.0f} s",
        f"git `{evidence.tags.get('git_sha', '')[:12]}`",
        f"package `{evidence.tags.get('package_sha256', '')[:12]}`",
        f"DAG run `{evidence.dag_run_id}`",
    ]
    return "### To reproduce\n\n" + ", ".join(parts) + ". Spec and parameters: artifacts `spec.json`, `params.json`."
