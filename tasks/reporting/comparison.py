"""What sets a candidate apart from the champion: how it was made, what was measured, what it asks and may do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.markdown import brief, table
from tasks.tracking.registry import Registry

WIDTH, SHORT = 60, 30
_NOT_COMPARED = ("name",)


@dataclass(frozen=True)
class Side:
    """One version's documents: its spec, training, evaluation and the manifest of its package; {} where one is gone."""

    version: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    package: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """One line: what is compared, and what both have. What was measured stands there even where it is the same."""

    what: str
    champion: str
    candidate: str

    @property
    def same(self) -> bool:
        """Whether both have the same."""
        return self.champion == self.candidate


def side(registry: Registry, run_id: str, version: str) -> Side:
    """The documents that a release left in its MLflow run. Raises RegistryUnavailable."""

    def read(path: str) -> dict[str, Any]:
        return dict(registry.artifact(run_id, path) or {})

    return Side(
        version,
        read("spec.json"),
        read("model/training.json"),
        read("evaluation/evaluation.json"),
        read("package/policy.json"),
    )


def compare(champion: Side, candidate: Side) -> list[Difference]:
    """Every measured figure and space of both, and each field of spec, training and safety in which they differ."""
    measured = [
        Difference(name, one, other)
        for (name, one), (_, other) in zip(_measured(champion), _measured(candidate), strict=True)
    ]
    fields = [
        *_fields("spec", champion.spec, candidate.spec),
        *_fields(
            "training",
            _only(champion.training, ("source", "timesteps", "seed")),
            _only(candidate.training, ("source", "timesteps", "seed")),
        ),
        *_fields("safety envelope", champion.package.get("safety", {}), candidate.package.get("safety", {})),
    ]
    return [*measured, *fields]


def markdown(champion: str, differences: list[Difference]) -> str:
    """The differences as a table; what differs stands bold on the candidate's side."""
    rows = [[found.what, _cell(found.champion), _changed(found)] for found in differences]
    return table(["", f"champion (version {champion})", "candidate"], rows)


def _measured(one: Side) -> Iterator[tuple[str, str]]:
    package = one.package
    shipped = package.get("shipped_variant", "")
    row = package.get("benchmark", {}).get(shipped, {})
    size, memory = row.get("size_bytes"), row.get("peak_rss_mb")
    yield "offline return", _return(one.evaluation)
    yield "variant", shipped
    yield "latency p50 / p99 of one row, µs", _latency(row.get("batch", {}).get("1"))
    yield "model size, kB", f"{size / 1000:.1f}" if size else ""
    yield "peak memory, MB", f"{memory:.0f}" if memory else ""
    yield "observation space", _space(package.get("observation_space"))
    yield "action space", _space(package.get("action_space"))


def _return(score: Mapping[str, Any]) -> str:
    if not score:
        return ""
    level = f"{100 * score['confidence']:.0f} %"
    return f"{score['mean']:.1f} ({level}: {score['lower']:.1f} to {score['upper']:.1f}, {score['episodes']} episodes)"


def _latency(row: Mapping[str, float] | None) -> str:
    return f"{row['p50_us']:.1f} / {row['p99_us']:.1f}" if row else ""


def _space(space: Mapping[str, Any] | None) -> str:
    if not space:
        return ""
    if space.get("spaces"):
        return ", ".join(f"{key}: {_space(inner)}" for key, inner in sorted(space["spaces"].items()))
    shown = {name: space[name] for name in ("shape", "n", "nvec", "start", "low", "high") if space.get(name)}
    return f"{space['type']} {', '.join(f'{name} {value}' for name, value in shown.items())}".strip()


def _fields(name: str, champion: Mapping[str, Any], candidate: Mapping[str, Any]) -> Iterator[Difference]:
    """Each leaf that differs, by its dotted path."""
    if not champion or not candidate:
        return
    one, other = dict(_leaves(champion)), dict(_leaves(candidate))
    for path in sorted({*one, *other}):
        if one.get(path) != other.get(path) and path not in _NOT_COMPARED:
            yield Difference(f"{name}: {path}", _text(one.get(path)), _text(other.get(path)))


def _leaves(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _only(document: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: document[name] for name in names if name in document}


def _text(value: Any) -> str:
    return "none" if value is None or value == {} else str(value)


def _changed(found: Difference) -> str:
    """The candidate's cell: bold where it differs, short where a long one is the same."""
    if not found.same:
        return f"**{_cell(found.candidate)}**"
    return _cell(found.candidate) if len(found.candidate) <= SHORT else "the same"


def _cell(text: str) -> str:
    return brief(text.replace("|", "\\|"), WIDTH) or "not known"
