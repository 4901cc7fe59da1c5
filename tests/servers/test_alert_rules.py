"""The rules as Prometheus evaluates them fire and clear just when those of `tasks/alerts/rules.py` do."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tasks.alerts import prometheus, rules
from tasks.alerts.readings import Reading, readings
from tasks.cli.app import app
from tasks.errors import Misconfigured
from tasks.monitoring.sources import difference
from tasks.spec.files import load_file
from tasks.spec.sections import PolicySpec
from tests.servers.exposition import BASELINE_RETURN, FAULTS, Told, selector

REPOSITORY = Path(__file__).resolve().parents[2]
MINUTES, WINDOW, BROKEN = 60, 5, range(21, 41)
LOOKS = (4, 15, 22, 35, 47, 58)


def spec_of(policy: str) -> PolicySpec:
    """Cartpole's spec under another name."""
    spec = load_file(REPOSITORY / "dags" / "policies" / "cartpole.yaml")
    return spec.model_copy(update={"name": policy})


def by_python(
    spec: PolicySpec, past: list[dict[str, Any]], told: list[Told], up: list[float], minute: int
) -> list[str]:
    """The metrics whose rules are broken at a minute, over the window before it."""
    now, before = past[minute], past[max(0, minute - WINDOW)]
    found = readings(difference(now, before), BASELINE_RETURN, told[minute].figures)
    found |= {"gateway_up": Reading(up[minute], 1), "canary_hours": Reading(told[minute].canary_hours, 1)}
    return [alert.metric for alert in rules.evaluate(rules.rules(spec), found, spec.name, "7", float(minute))]


METRICS = [rule.metric for rule in rules.rules(spec_of("x"))]
"""What rules are about; each gets a policy of its own, named after it, and the fault of that name."""


@pytest.mark.servers
def test_every_rule_fires_and_clears_in_prometheus_as_in_python(tmp_path: Path) -> None:
    assert set(METRICS) == {*FAULTS, "gateway_up"}
    fired = {}
    for metric in METRICS:
        spec = spec_of(metric)
        told, past, up = [], [], []
        running = Told(metric)
        for minute in range(MINUTES):
            running.serve(metric if minute in BROKEN else None)
            told.append(copy.deepcopy(running))
            past.append(running.arm.to_json())
            up.append(0.0 if metric == "gateway_up" and minute in BROKEN else 1.0)
        rows: dict[str, list[float]] = {'up{job="airlock",instance="a"}': up}
        for moment in told:
            for name, labels, value in moment.series():
                rows.setdefault(f"{name}{selector(labels)}", []).append(value)
        expected = {minute: by_python(spec, past, told, up, minute) for minute in LOOKS}
        fired[metric] = {minute: found for minute, found in expected.items() if found}
        test = {
            "interval": "1m",
            "input_series": [{"series": name, "values": " ".join(map(repr, row))} for name, row in rows.items()],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": exp(spec, name, expected[minute])}
                for minute in LOOKS
                for name in rules.NAMES
            ],
        }
        asked = {"rule_files": [f"{metric}.rules.yml"], "evaluation_interval": "1m", "tests": [test]}
        (tmp_path / f"{metric}.test.yml").write_text(json.dumps(asked))
        document = prometheus.document([spec], f"{WINDOW}m", "0s")
        for rule in document["groups"][0]["rules"]:
            rule.pop("annotations")
        (tmp_path / f"{metric}.rules.yml").write_text(yaml.safe_dump(document))
    # every rule fires on its own fault, alone, once that fills the window; clear of the window nothing does
    assert {metric: found.get(35) for metric, found in fired.items()} == {metric: [metric] for metric in METRICS}
    assert {minute for found in fired.values() for minute in found} <= {22, 35}
    command = ["promtool", "test", "rules", *(f"{metric}.test.yml" for metric in METRICS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def exp(spec: PolicySpec, name: str, broken: list[str]) -> list[dict[str, Any]]:
    """What promtool shall find of an alert."""
    found = []
    for rule in rules.rules(spec):
        if rule.alert != name or rule.metric not in broken:
            continue
        labels = {"severity": rule.severity, "metric": rule.metric}
        version = {} if rule.metric in ("gateway_up", "canary_hours") else {"version": "7"}
        found.append({"exp_labels": {**labels, **version, "policy": spec.name}})
    return found


@pytest.mark.servers
def test_what_is_deployed_is_valid_for_the_real_programs() -> None:
    deploy = REPOSITORY / "deploy"
    for command in (
        ["promtool", "check", "config", str(deploy / "prometheus" / "prometheus.yml")],
        ["promtool", "check", "rules", str(deploy / "prometheus" / "airlock-rules.yml")],
        ["amtool", "check-config", str(deploy / "alertmanager" / "alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_deployed_rules_are_those_of_the_shipped_specs() -> None:
    policies = sorted((REPOSITORY / "dags" / "policies").glob("*.yaml"))
    deployed = (REPOSITORY / "deploy" / "prometheus" / "airlock-rules.yml").read_text()
    assert deployed == prometheus.render([load_file(path) for path in policies])


def test_the_command_writes_rules_with_the_window_and_patience_that_were_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    asked = CliRunner().invoke(app, ["alerts", "rules", "--out", str(file), "--window", "30s", "--for", "2m", "--json"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout) == {"written": str(file), "rules": 24}
    found = [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    assert {rule["for"] for rule in found} == {"2m"}
    assert {window for rule in found for window in re.findall(r"\[(\w+)\]", rule["expr"])} == {"30s"}


def test_a_duration_that_prometheus_would_not_read_is_refused() -> None:
    refused = CliRunner().invoke(app, ["alerts", "rules", "--window", "5 minutes"])
    assert isinstance(refused.exception, Misconfigured)
    assert "expected a duration such as 30s, 5m or 1h, came '5 minutes'" in str(refused.exception)
