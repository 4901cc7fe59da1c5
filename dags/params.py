"""The trigger form of a release."""

from __future__ import annotations

from airflow.sdk import Param

from tasks.spec.sections import POST_DEPLOYMENT, PRE_DEPLOYMENT, Approval, PolicySpec


def release_params(spec: PolicySpec) -> dict[str, Param]:
    """The trigger form: every field bounded and described, filled with the spec's own values."""
    canary = spec.canary
    return {
        "source": Param(
            "train",
            enum=["train", "zip", "learned"],
            title="Source",
            description_md="*train* a new policy, import a *zip*, or take over what was *learned* from the log",
        ),
        "zip_path": Param(
            None,
            type=["null", "string"],
            title="Zip to import",
            description_md="Path of a Stable-Baselines3 zip on the worker, for the source *zip*. "
            "A zip is a pickle: give only files you trust.",
        ),
        "learned_run": Param(
            None,
            type=["null", "string"],
            title="Learned candidate",
            description_md=f"MLflow run of *learn_{spec.name}* whose candidate is released, for the source *learned*.",
        ),
        "seed": Param(
            spec.train.seed,
            type="integer",
            minimum=0,
            maximum=2**31 - 1,
            title="Seed",
            description_md="Seed of everything random in training. The same seed trains the same policy.",
        ),
        "timesteps": Param(
            spec.train.total_timesteps,
            type="integer",
            minimum=1,
            maximum=100_000_000,
            title="Timesteps",
            description_md="Environment steps to train for.",
        ),
        "minimum_mean_return": Param(
            spec.evaluate.minimum_mean_return,
            type="number",
            title="Minimum mean return",
            description_md="The offline gate: a candidate that scores below on seeded episodes is rejected. "
            "A first release is judged against it in its canary, too.",
        ),
        "objective": Param(
            canary.objective,
            enum=["non_inferiority", "superiority"],
            title="Objective",
            description_md=f"What the canary must show: not worse by the margin ({canary.margin:g}), or better. "
            "Scheduled runs ask for *superiority*.",
        ),
        "canary_steps": Param(
            list(canary.steps),
            type="array",
            minItems=1,
            maxItems=10,
            items={"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
            title="Canary steps",
            description_md="Share of traffic each arm gets, step by step, growing, at most 0.5.",
        ),
        "max_units_per_arm": Param(
            canary.max_units_per_arm,
            type="integer",
            minimum=2,
            maximum=1_000_000,
            title="Canary budget, units an arm",
            description_md="Users (or episodes without a user) in each arm; then the canary ends inconclusive.",
        ),
        "max_hours": Param(
            canary.max_hours,
            type="number",
            exclusiveMinimum=0,
            maximum=2160,
            title="Canary budget, hours",
            description_md="Then the canary ends inconclusive and the champion stays.",
        ),
        "approval": Param(
            spec.approval != "none",
            type="boolean",
            title="Ask for approval",
            description_md="A person must approve the candidate in the Airflow UI before its canary.",
        ),
        "approval_hours": Param(
            spec.approval_hours or Approval().timeout_hours,
            type="number",
            exclusiveMinimum=0,
            maximum=720,
            title="Deadline of the approval, hours",
            description_md="Where approval is asked for: without an answer by then, the candidate is rejected.",
        ),
        "dry_run_checks": Param(
            [check for check, mode in spec.checks.items() if mode == "dry_run"],
            type="array",
            items={"type": "string", "enum": [*PRE_DEPLOYMENT, *POST_DEPLOYMENT]},
            examples=[*PRE_DEPLOYMENT, *POST_DEPLOYMENT],
            title="Checks in dry run",
            description_md="These checks are run and shown, and do not gate.",
        ),
        "simulate_users": Param(
            0,
            type="integer",
            minimum=0,
            maximum=1024,
            title="Simulated users",
            description_md="Play that many episodes at once through the gateway during the canary. "
            "0: your own traffic decides.",
        ),
    }
