"""Exporters: one class per policy family, each stating its inputs, its outputs and its graph.

May import `training`; torch is imported here.
"""

from __future__ import annotations

from tasks.build.export.families.actor_critic import ActorCriticExporter, MaskableExporter
from tasks.build.export.families.base import Exporter
from tasks.build.export.families.deterministic import DeterministicExporter, LinearExporter
from tasks.build.export.families.preprocess import Space
from tasks.build.export.families.q_values import QuantileExporter, QValueExporter
from tasks.build.export.families.recurrent import RecurrentExporter
from tasks.build.export.families.squashed import SquashedGaussianExporter
from tasks.build.training.agent import Agent
from tasks.errors import Misconfigured

FAMILIES: tuple[type[Exporter], ...] = (
    ActorCriticExporter,
    MaskableExporter,
    RecurrentExporter,
    SquashedGaussianExporter,
    QValueExporter,
    QuantileExporter,
    DeterministicExporter,
    LinearExporter,
)
BY_ALGORITHM = {algorithm: family for family in FAMILIES for algorithm in family.algorithms}


def exporter_for(agent: Agent, raw_space: Space | None = None) -> Exporter:
    """The exporter of an agent's family. `raw_space` is the environment's observation space, where it is known.

    Raises Misconfigured for an algorithm that has none.
    """
    family = BY_ALGORITHM.get(agent.algorithm)
    if family is None:
        raise Misconfigured(f"{agent.algorithm} cannot be exported; supported: {sorted(BY_ALGORITHM)}")
    return family(agent, raw_space)


__all__ = ["BY_ALGORITHM", "Exporter", "exporter_for"]
