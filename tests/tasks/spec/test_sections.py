"""The policy spec: what validates, what does not and how it is said, and what a release's params change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from bentos import package
from bentos.package.safety import AccelerationLimit, Condition, Constraint, MaskRule, StateIndex
from tasks.errors import Misconfigured
from tasks.spec import safety as spec_safety
from tasks.spec.files import SpecError, load, load_all, load_file
from tasks.spec.packaging import Packaging
from tasks.spec.params import Params, effective
from tasks.spec.sections import ALGORITHMS, POST_DEPLOYMENT, PRE_DEPLOYMENT, PolicySpec

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "environment": {"id": "CartPole-v1"},
    "train": {"algorithm": "ppo"},
    "evaluate": {"minimum_mean_return": 100},
    "serve": {"fallback": {"constant": 0}},
    "canary": {"margin": 5, "return_range": [0, 500]},
}


def changed(**sections: Any) -> dict[str, Any]:
    """The minimal spec with fields of its sections replaced (or whole top-level values)."""
    document = {name: dict(value) if isinstance(value, dict) else value for name, value in MINIMAL.items()}
    for name, value in sections.items():
        document[name] = {**document.get(name, {}), **value} if isinstance(value, dict) else value
    return document


def write(directory: Path, document: Any, name: str = "tiny") -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("policy", ["cartpole", "pendulum"])
def test_shipped_specs_load(policy: str) -> None:
    assert load(policy).name == policy


def test_a_minimal_spec_takes_the_defaults_of_the_contract() -> None:
    spec = PolicySpec.model_validate(MINIMAL)
    assert spec.canary.steps == [0.05, 0.25, 0.5]
    assert spec.canary.objective == "non_inferiority"
    assert spec.canary.bounds == (0, 500)
    assert (spec.serve.batch_size, spec.serve.deadline_ms, spec.serve.max_errors) == (None, 50, 5)
    assert spec.approval == "none"
    assert {spec.mode(check) for check in (*PRE_DEPLOYMENT, *POST_DEPLOYMENT)} == {"enforce"}


@pytest.mark.parametrize(
    ("sections", "field", "said"),
    [
        ({"name": "Tiny"}, "name", "pattern"),
        ({"train": {"algorithm": "alphazero"}}, "train.algorithm", "alphazero"),
        ({"train": {"total_timesteps": 0}}, "train.total_timesteps", "greater than or equal to 1"),
        ({"train": {"timesteps": 5}}, "train.timesteps", "Extra inputs"),
        ({"evaluate": {"episodes": 1}}, "evaluate.episodes", "greater than or equal to 2"),
        ({"serve": {"deadline_ms": "soon"}}, "serve.deadline_ms", "soon"),
        ({"serve": {"fallback": {}}}, "serve.fallback", "exactly one"),
        ({"train": {"algorithm": "td3"}, "serve": {"explore": True}}, "(the whole file)", "set serve.explore to false"),
        ({"serve": {"fallback": {"constant": 0, "package": "x"}}}, "serve.fallback", "exactly one"),
        ({"canary": {"steps": [0.5, 0.5]}}, "canary.steps", "grow"),
        ({"canary": {"steps": [0.6]}}, "canary.steps.0", "less than or equal to 0.5"),
        ({"canary": {"steps": []}}, "canary.steps", "at least 1"),
        ({"canary": {"margin": 0}}, "canary.margin", "greater than 0"),
        ({"canary": {"alpha": 0.5}}, "canary.alpha", "less than 0.5"),
        ({"canary": {"return_range": [1, 1]}}, "canary.return_range", "low end"),
        ({"canary": {"return_clip": [0, 1]}}, "canary", "not both"),
        ({"canary": {"abandoned_return": 501}}, "canary", "outside"),
        ({"safety": {"safety_margin": 0.5}}, "safety.safety_margin", "less than 0.5"),
        ({"safety": {"observation_range": [1, -1]}}, "safety.observation_range", "low end"),
        ({"safety": {"rate_limit": -1}}, "safety.rate_limit.number", "greater than or equal to 0"),
        ({"safety": {"acceleration_limit": {"maximum": 1}}}, "safety.acceleration_limit", "dt and state_index"),
        (
            {"safety": {"acceleration_limit": {"maximum": 1, "dt": 0, "state_index": 1}}},
            "safety.acceleration_limit.dt",
            "greater than 0",
        ),
        ({"safety": {"constraints": [{"action": [0, 0], "bound": 1}]}}, "safety.constraints.0.action", "not 0"),
        ({"safety": {"constraints": [{"action": [1]}]}}, "safety.constraints.0.bound", "required"),
        (
            {"safety": {"constraints": [{"action": [1], "bound": 1}, {"action": [1, 2], "bound": 1}]}},
            "safety.constraints",
            "as many action coefficients",
        ),
        (
            {"safety": {"action_mask": [{"when": {"index": 0}, "forbid": [1]}]}},
            "safety.action_mask.0.when.mapping",
            "above, below and equals",
        ),
        (
            {"safety": {"rate_limit": 1, "action_mask": [{"when": {"index": 0, "above": 1}, "forbid": [1]}]}},
            "safety",
            "action_mask is for actions that are not continuous, rate_limit for",
        ),
        (
            {"train": {"algorithm": "dqn"}, "safety": {"constraints": [{"action": [1], "bound": 1}]}},
            "(the whole file)",
            "continuous actions, which dqn never has",
        ),
        (
            {
                "train": {"algorithm": "sac"},
                "safety": {"action_mask": [{"when": {"index": 0, "above": 1}, "forbid": [1]}]},
            },
            "(the whole file)",
            "those of sac are always continuous",
        ),
        ({"checks": {"exportd": "off"}}, "checks", "exportd"),
        ({"checks": {"exported": "maybe"}}, "checks.exported", "maybe"),
    ],
)
def test_what_does_not_hold_names_the_field_and_what_was_expected(
    tmp_path: Path, sections: dict[str, Any], field: str, said: str
) -> None:
    path = write(tmp_path, changed(**sections))
    with pytest.raises(SpecError) as failed:
        load_file(path)
    (problem,) = [found for found in failed.value.problems if found.field == field]
    assert problem.file == str(path)
    assert said in problem.message


def test_all_problems_of_a_file_are_found_together(tmp_path: Path) -> None:
    path = write(tmp_path, changed(train={"n_envs": 0}, canary={"margin": -1}, unknown=3))
    with pytest.raises(SpecError) as failed:
        load_file(path)
    assert {problem.field for problem in failed.value.problems} == {"train.n_envs", "canary.margin", "unknown"}


@pytest.mark.parametrize(
    ("text", "said"), [("name: [", "not YAML"), ("- 1\n", "expected a mapping"), ("", "expected a mapping")]
)
def test_a_file_that_is_no_mapping_is_said_to_be_none(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_file(write(tmp_path, text))


def test_the_name_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'other'"):
        load_file(write(tmp_path, MINIMAL, name="other"))


def test_an_unknown_policy_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Misconfigured, match=r"cartpole.*pendulum"):
        load("unheard_of")


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    write(tmp_path, "name: [", name="torn")
    specs, problems = load_all(tmp_path)
    assert [spec.name for spec in specs] == ["tiny"]
    assert [Path(problem.file).name for problem in problems] == ["torn.yaml"]


def test_every_algorithm_of_the_contract_is_known() -> None:
    assert {"ppo", "sac", "td3", "dqn", "ars", "ppo_mask", "ppo_lstm"} <= set(ALGORITHMS)


class TestParams:
    SPEC = PolicySpec.model_validate(MINIMAL)

    def test_none_keeps_the_spec(self) -> None:
        assert effective(self.SPEC, Params()) == self.SPEC

    def test_each_changes_its_field_and_nothing_else(self) -> None:
        spec = effective(
            self.SPEC,
            Params(
                seed=3,
                timesteps=10,
                minimum_mean_return=1.5,
                objective="superiority",
                canary_steps=[0.5],
                max_units_per_arm=7,
                max_hours=0.5,
            ),
        )
        assert (spec.train.seed, spec.train.total_timesteps) == (3, 10)
        assert spec.evaluate.minimum_mean_return == 1.5
        assert (spec.canary.objective, spec.canary.steps) == ("superiority", [0.5])
        assert (spec.canary.max_units_per_arm, spec.canary.max_hours) == (7, 0.5)
        assert spec.serve == self.SPEC.serve

    def test_a_param_out_of_bounds_is_an_error_that_names_the_field(self) -> None:
        with pytest.raises(SpecError, match=r"train\.seed"):
            effective(self.SPEC, Params(seed=-1))

    def test_a_seed_of_zero_is_a_seed(self) -> None:
        assert effective(effective(self.SPEC, Params(seed=5)), Params(seed=0)).train.seed == 0

    @pytest.mark.parametrize(
        ("own", "asked", "expected"),
        [
            ("none", None, "none"),
            ("none", True, "required"),
            ("required", False, "none"),
            ("required", True, "required"),
            ({"timeout_hours": 2}, True, {"timeout_hours": 2.0}),
            ({"timeout_hours": 2}, None, {"timeout_hours": 2.0}),
        ],
    )
    def test_approval_may_be_asked_for_or_waived(self, own: Any, asked: bool | None, expected: Any) -> None:
        spec = effective(PolicySpec.model_validate(changed() | {"approval": own}), Params(approval=asked))
        assert spec.model_dump()["approval"] == expected

    def test_checks_put_in_dry_run_leave_the_others_as_they_are(self) -> None:
        spec = PolicySpec.model_validate(changed() | {"checks": {"exported": "off"}})
        spec = effective(spec, Params(dry_run_checks=["latency_sla"]))
        modes = [spec.mode(check) for check in ("exported", "latency_sla", "error_rate")]
        assert modes == ["off", "dry_run", "enforce"]

    def test_an_unknown_check_in_dry_run_is_an_error(self) -> None:
        with pytest.raises(SpecError, match="speed"):
            effective(self.SPEC, Params(dry_run_checks=["speed"]))


class TestSafety:
    """What the safety section asks for reaches the manifest as it was meant, whichever way it was written."""

    @staticmethod
    def packaged(safety: dict[str, Any]) -> package.Safety:
        spec = PolicySpec.model_validate(changed(safety=safety))
        assert PolicySpec.model_validate_json(spec.model_dump_json()) == spec
        assert effective(spec, Params()) == spec
        written = msgspec.json.encode(Packaging.of(spec).safety)
        return msgspec.json.decode(written, type=package.Safety)

    def test_limits_of_continuous_actions(self) -> None:
        text = """
        acceleration_limit: {state_index: [null, 2], dt: 0.1, maximum: 3}
        constraints:
        - {action: [1, 1], observation: {2: 0.5}, bound: 3}
        - {action: [1, -1], observation: [0, 0, 1], bound: 2}
        - {action: [1, 0], observation: {arm: {1: 2}, base: [1, 2], load: 4}, bound: 1}
        """
        safety = self.packaged(yaml.safe_load(text))
        assert safety.acceleration_limit == AccelerationLimit(maximum=3.0, dt=0.1, state_index=[None, 2])
        assert [one.observation for one in safety.constraints] == [
            {"2": 0.5},
            [0.0, 0.0, 1.0],
            {"arm": {"1": 2.0}, "base": [1.0, 2.0], "load": 4.0},
        ]
        dictionary = {"state_index": {"key": "base", "index": 0}, "maximum": [1, 2], "dt": 1}
        assert self.packaged({"acceleration_limit": dictionary}).acceleration_limit == AccelerationLimit(
            maximum=[1.0, 2.0], dt=1.0, state_index=StateIndex("base", 0)
        )

    def test_rules_that_forbid(self) -> None:
        text = """
        action_mask:
        - {when: {index: 0, above: 2.0}, forbid: [1]}
        - {when: [{index: 0, below: 0}, {key: gear, index: 1, equals: 3}], forbid: {1: [0, 2]}}
        """
        rules = self.packaged(yaml.safe_load(text)).action_mask
        assert rules == [
            MaskRule(Condition(0, above=2.0), [1]),
            MaskRule([Condition(0, below=0.0), Condition(1, key="gear", equals=3.0)], {"1": [0, 2]}),
        ]

    def test_what_the_documentation_shows_validates(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "safety.md").read_text(encoding="utf-8")
        shown = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        assert len(shown) == 2
        for text in shown:
            self.packaged(yaml.safe_load(text)["safety"])

    def test_every_field_of_the_spec_is_one_of_the_manifest(self) -> None:
        for section, struct in (
            (spec_safety.Safety, package.Safety),
            (spec_safety.AccelerationLimit, AccelerationLimit),
            (spec_safety.Constraint, Constraint),
            (spec_safety.Condition, Condition),
            (spec_safety.MaskRule, MaskRule),
            (spec_safety.StateIndex, StateIndex),
        ):
            assert set(section.model_fields) == set(struct.__struct_fields__)
