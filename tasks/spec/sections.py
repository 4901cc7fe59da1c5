"""The policy spec: one YAML file a policy, validated in one go, every field documented; and a release's parameters."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.spec.safety import Range, Safety, Section, ordered

FAMILIES = ("fp32", "fp16", "int8")
"""The families of variants, each benchmarked by a task of its own."""

PRE_DEPLOYMENT = (
    "exported",
    "latency_benchmarked",
    "memory_profiled",
    "input_validation",
    "action_bounds",
    "fallback_configured",
    "metrics_defined",
    "alert_thresholds",
    "logging_configured",
    "ab_plan",
)
POST_DEPLOYMENT = (
    "latency_sla",
    "finite_outputs",
    "action_distribution",
    "reward_trend",
    "error_rate",
    "resource_usage",
    "alerts_working",
    "rollback_tested",
)
ALGORITHMS = (
    "ppo",
    "a2c",
    "dqn",
    "sac",
    "td3",
    "ddpg",
    "trpo",
    "tqc",
    "qrdqn",
    "crossq",
    "ars",
    "ppo_mask",
    "ppo_lstm",
)

CONTINUOUS_ONLY = ("sac", "td3", "ddpg", "tqc", "crossq")
NEVER_CONTINUOUS = ("dqn", "qrdqn", "ppo_mask")
LEARNING = ("ppo", "a2c", "trpo", "sac", "td3", "ddpg", "dqn", "tqc", "qrdqn", "crossq")
"""Algorithms that can be fine-tuned on what the gateway logged."""

ON_POLICY = ("ppo", "a2c", "trpo")
STOCHASTIC = ("ppo", "a2c", "sac", "trpo", "tqc", "crossq", "ppo_mask", "ppo_lstm")
"""Algorithms whose policies are distributions."""

Mode = Literal["enforce", "dry_run", "off"]
Objective = Literal["non_inferiority", "superiority"]


class Environment(Section):
    """The Gymnasium environment the policy acts in."""

    id: str = Field(description="Gymnasium id, such as CartPole-v1, or module:id, where the module registers it")
    kwargs: dict[str, Any] = Field(default={}, description="Keyword arguments of gymnasium.make")


class Train(Section):
    """How a candidate is trained with Stable-Baselines3."""

    algorithm: Literal[ALGORITHMS] = Field(description="Algorithm, by its rl-zoo name")  # type: ignore[valid-type]
    total_timesteps: int = Field(default=50_000, ge=1, le=100_000_000, description="Environment steps to train for")
    n_envs: int = Field(default=1, ge=1, le=256, description="Vectorised environments stepped together")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of everything random in training")
    warm_start: bool = Field(default=False, description="Start from the champion's weights, where there is one")
    normalize: bool = Field(default=False, description="Train under VecNormalize (observations and rewards)")
    policy: str = Field(default="MlpPolicy", description="Stable-Baselines3 policy class, by alias")
    hyperparameters: dict[str, Any] = Field(default={}, description="Constructor arguments, by their rl-zoo names")


class Evaluate(Section):
    """The offline gate: seeded episodes of the exported candidate's source policy."""

    episodes: int = Field(default=50, ge=2, le=10_000, description="Episodes, each with its own fixed seed")
    minimum_mean_return: float = Field(description="A candidate whose mean return is below is rejected")


class Serve(Section):
    """How the gateway serves the policy."""

    batch_size: int | None = Field(
        default=None, ge=1, le=65_536, description="Most rows per model call; null: chosen from the package's benchmark"
    )
    max_wait_ms: float = Field(default=0, ge=0, le=1_000, description="How long a batch may wait for company, ms")
    deadline_ms: float = Field(default=50, gt=0, le=60_000, description="Then the fallback answers, ms")
    latency_slo_ms: float = Field(default=10, gt=0, le=60_000, description="p99 objective at the gateway, ms")
    fallback: dict[Literal["constant", "package"], Any] = Field(
        description="What answers when no policy can: {constant: ACTION} or {package: DIRECTORY}"
    )
    max_errors: int = Field(default=5, ge=1, le=10_000, description="Consecutive faults that open the breaker")
    explore: bool = Field(default=False, description="Serve stochastic actions and store their log-probability")
    provider: Literal["cpu", "cuda"] = Field(default="cpu", description="What ONNX Runtime runs the policy on")
    override_hook: str | None = Field(
        default=None,
        pattern=r"^[a-z_][a-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*$",
        description="module:function in hooks/<module>.py beside the spec: code that may override the policy",
    )

    @field_validator("fallback")
    @classmethod
    def _one_fallback(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) != 1:
            raise ValueError("expected exactly one of {constant: ACTION} and {package: DIRECTORY}")
        return value


class Canary(Section):
    """The A/B test that every candidate passes through."""

    steps: list[Annotated[float, Field(gt=0, le=0.5)]] = Field(
        default=[0.05, 0.25, 0.5], min_length=1, max_length=10, description="Weight of each arm, step by step"
    )
    shadow_requests: int = Field(
        default=200, ge=0, description="Decisions beside the champion that nobody acts on, before step one; 0: none"
    )
    units_per_step: int = Field(default=10, ge=1, description="Finished units in each arm before the next step")
    objective: Objective = Field(default="non_inferiority", description="What a promotion must show")
    margin: float = Field(gt=0, description="Largest loss of mean return that still counts as not worse")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Error probability of the primary test, per side")
    return_range: Range | None = Field(default=None, description="Bounds that every return keeps to: exact test")
    return_clip: Range | None = Field(
        default=None, description="Returns are clipped to these bounds: exact test of the clipped mean"
    )
    abandoned_return: float | None = Field(
        default=None, description="Score of an episode that never reports; null: the low end"
    )
    episode_ttl_seconds: float = Field(
        default=900, gt=0, le=604_800, description="Then a silent episode is abandoned, s"
    )
    max_units_per_arm: int = Field(default=2000, ge=2, le=1_000_000, description="Budget; then the end is inconclusive")
    max_hours: float = Field(default=24, gt=0, le=24 * 90, description="Budget in hours; then the end is inconclusive")

    _check_range = field_validator("return_range", "return_clip")(ordered)

    @field_validator("steps")
    @classmethod
    def _growing(cls, value: list[float]) -> list[float]:
        if any(later <= earlier for earlier, later in itertools.pairwise(value)):
            raise ValueError(f"weights must grow from step to step, came {value}")
        return value

    @model_validator(mode="after")
    def _one_range(self) -> Canary:
        if self.return_range and self.return_clip:
            raise ValueError("give return_range or return_clip, not both")
        bounds = self.bounds
        if bounds and self.abandoned_return is not None and not bounds[0] <= self.abandoned_return <= bounds[1]:
            raise ValueError(f"abandoned_return {self.abandoned_return} lies outside {list(bounds)}")
        return self

    @property
    def bounds(self) -> Range | None:
        """Bounds of the analysed return (range or clip), or None when there are none."""
        return self.return_range or self.return_clip


class Monitor(Section):
    """What is watched once the policy is champion."""

    schedule: str = Field(default="*/10 * * * *", description="Cron of monitor_<policy>")
    window: int = Field(default=1000, ge=1, description="Recent decisions compared with the baseline")
    baseline_window: int = Field(default=100, ge=1, description="Recent returns compared with the baseline")
    max_return_drop: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the baseline's return lost that breaches"
    )
    min_entropy: float = Field(
        default=0.1, ge=0, description="Entropy of the action distribution, nats, below which it breaches"
    )
    on_breach: Literal["alert", "roll_back"] = Field(default="alert", description="What a breach does")
    breach_runs: int = Field(default=2, ge=1, le=100, description="Breaching runs in a row before anything is done")
    clear_runs: int = Field(default=2, ge=1, le=100, description="Clean runs in a row before an alert is cleared")
    cooldown_minutes: float = Field(
        default=60,
        gt=0,
        le=60 * 24 * 90,
        description="After it has acted the monitor does nothing for so long, minutes",
    )


class Alerts(Section):
    """Thresholds and receivers of alerts."""

    max_latency_ms: float = Field(default=100, gt=0, description="p99 latency that raises HIGH_LATENCY, ms")
    notify: list[str] = Field(
        default=[],
        description="Who is told: http(s) webhooks, or Apprise URLs (mailto://, slack://, …); $NAME is read from the "
        "environment",
    )


class Retrain(Section):
    """When a release starts by itself."""

    schedule: str | None = Field(default=None, description="Cron of release_<policy>; null: by hand only")
    on_drift: bool = Field(default=False, description="Release when drift was found")


class Learn(Section):
    """Online learning from logged transitions (`learn_<policy>`)."""

    schedule: str | None = Field(default=None, description="Cron of learn_<policy>; null: by hand only")
    buffer_size: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Most transitions of a dataset, the newest"
    )
    update_every: int = Field(default=1_000, ge=1, description="New transitions without which nothing is learned")
    minimum_episodes: int = Field(default=20, ge=4, description="Usable episodes without which nothing is learned")
    holdout: float = Field(
        default=0.3, ge=0.1, le=0.9, description="Share of episodes kept from training, for the evaluation"
    )
    max_suspect: float = Field(
        default=0.05, ge=0, lt=1, description="Share of episodes with impossible rewards that condemns the whole log"
    )
    reward_range: Range | None = Field(default=None, description="Bounds that every single reward keeps to")
    updates_per_transition: float = Field(
        default=0.2, gt=0, le=20, description="Gradient steps per transition (off-policy algorithms)"
    )
    epochs: int = Field(default=10, ge=1, le=100, description="Passes over the transitions (on-policy algorithms)")
    conservatism: float = Field(
        default=1.0, ge=0, le=100, description="Pull of Q-networks (DQN, QR-DQN) to logged actions; 0: none"
    )
    require: Literal["not_worse", "better"] = Field(
        default="not_worse", description="What the log must say of a candidate before its release is tried"
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Error probability of the off-policy evaluation")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of everything random in learning")

    _check_range = field_validator("reward_range")(ordered)


class Approval(Section):
    """A person's approval before the canary."""

    timeout_hours: float = Field(default=24, gt=0, le=24 * 30, description="Then the release is rejected")


class PolicySpec(Section):
    """One policy: its environment, how it is trained, served, kept safe, tried out, watched and retrained."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="Lower-case name; the file is <name>.yaml")
    environment: Environment
    train: Train
    evaluate: Evaluate
    serve: Serve
    safety: Safety = Safety()
    canary: Canary
    monitor: Monitor = Monitor()
    alerts: Alerts = Alerts()
    retrain: Retrain = Retrain()
    learn: Learn | None = None
    approval: Literal["none", "required"] | Approval = "none"
    checks: dict[str, Mode] = Field(default={}, description="Gate policy by check id: enforce, dry_run or off")

    @field_validator("checks")
    @classmethod
    def _known_checks(cls, value: dict[str, Mode]) -> dict[str, Mode]:
        unknown = sorted(set(value) - set(PRE_DEPLOYMENT) - set(POST_DEPLOYMENT))
        if unknown:
            raise ValueError(f"unknown checks {unknown}; known: {[*PRE_DEPLOYMENT, *POST_DEPLOYMENT]}")
        return value

    @model_validator(mode="after")
    def _limits_fit_the_algorithm(self) -> PolicySpec:
        """What is asked of the actions must be possible for the actions that the algorithm can have."""
        algorithm = self.train.algorithm
        if algorithm in NEVER_CONTINUOUS and self.safety.continuous:
            raise ValueError(
                f"safety.{self.safety.continuous[0]} is for continuous actions, which {algorithm} never has; "
                "use safety.action_mask"
            )
        if algorithm in CONTINUOUS_ONLY and self.safety.action_mask:
            raise ValueError(
                f"safety.action_mask forbids actions of a discrete space; those of {algorithm} are always continuous: "
                "use safety.action_bounds or safety.constraints"
            )
        return self

    @model_validator(mode="after")
    def _can_explore(self) -> PolicySpec:
        if self.serve.explore and self.train.algorithm not in STOCHASTIC:
            raise ValueError(
                f"serve.explore needs a policy that has a distribution to draw from, as {', '.join(STOCHASTIC)} have; "
                f"{self.train.algorithm} has one action for an observation: set serve.explore to false"
            )
        return self

    @model_validator(mode="after")
    def _can_learn(self) -> PolicySpec:
        algorithm = self.train.algorithm
        if self.learn and algorithm not in LEARNING:
            raise ValueError(
                f"learn: {algorithm} cannot be fine-tuned on logged transitions; set learn to null, or train one of "
                f"{', '.join(LEARNING)}"
            )
        if self.learn and algorithm in ON_POLICY and not self.serve.explore:
            raise ValueError(
                f"learn: {algorithm} learns from the probabilities of logged actions, which only a policy that "
                "explores has; set serve.explore to true"
            )
        return self

    @property
    def approval_hours(self) -> float | None:
        """Hours that a person has to approve a candidate; null where nobody is asked."""
        if self.approval == "none":
            return None
        return self.approval.timeout_hours if isinstance(self.approval, Approval) else Approval().timeout_hours

    def mode(self, check: str) -> Mode:
        """How a check gates: `enforce` unless the spec says otherwise."""
        return self.checks.get(check, "enforce")
