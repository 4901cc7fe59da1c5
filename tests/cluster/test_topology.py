"""docker-compose.yml as it stands: whole, closed, explained, and covered by what `make test-cluster` starts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dags.schedules import TRAIN_QUEUE
from tests.cluster.compose import FILE, REPOSITORY, Service, load
from tests.cluster.harness import covered
from tests.cluster.native import NOT_RUN, STAND_INS, Places

COMPOSITION = load({})
SERVICES = COMPOSITION.services
PUBLISHED = {"api-server": 8080, "loadbalancer": 3000, "grafana": 3000}
KNOWN = {
    *("image", "build", "command", "entrypoint", "environment", "secrets", "volumes", "ports", "expose", "depends_on"),
    *("healthcheck", "restart", "deploy", "user", "security_opt", "cap_drop", "shm_size", "stop_signal"),
    "stop_grace_period",
}


@pytest.fixture(params=sorted(SERVICES))
def service(request: pytest.FixtureRequest) -> Service:
    return SERVICES[request.param]


def test_every_service_is_started_natively_or_listed_with_the_reason() -> None:
    assert covered().keys() == SERVICES.keys()
    assert set(NOT_RUN) == {"grafana"}
    assert set(STAND_INS) == {"s3"}
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    for name in (*NOT_RUN, *STAND_INS):
        assert f"`{name}`" in page, f"docs/cluster.md says nothing of {name}"


def test_a_service_has_only_what_compose_knows(service: Service) -> None:
    assert set(service.document) <= KNOWN
    limits = service.document["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory"}
    assert float(limits["cpus"]) > 0
    assert re.fullmatch(r"\d+[mg]", limits["memory"])
    assert service.restart in ("unless-stopped", "on-failure")
    assert ":" in service.image or service.image in {f"airlock-{target}" for target in _targets()}


def _targets() -> set[str]:
    return {fields["build"]["target"] for fields in _raw().values() if "target" in fields.get("build", {})} | {"s3"}


def _raw() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text())["services"])


def test_nothing_runs_as_root_or_gains_rights(service: Service) -> None:
    assert service.user
    assert service.user.split(":")[0] not in ("root", "0")
    assert service.document["security_opt"] == ["no-new-privileges:true"]


def test_only_the_ui_the_gateways_and_grafana_are_published_and_only_on_this_machine() -> None:
    found = {name: service.published for name, service in SERVICES.items() if service.published}
    assert found.keys() == PUBLISHED.keys()
    for name, (entry,) in found.items():
        address, _, port = entry.split(":")
        assert (address, int(port)) == ("127.0.0.1", PUBLISHED[name])


def test_what_is_needed_is_there_and_can_say_that_it_is_well(service: Service) -> None:
    for other, condition in service.needs.items():
        expected = "service_completed_successfully" if SERVICES[other].ends else "service_healthy"
        assert condition == expected, f"{service.name} waits for {other}"
    assert bool(service.health) != service.ends


def test_every_secret_is_declared_used_and_written_by_the_generator(tmp_path: Path) -> None:
    used = {name for service in SERVICES.values() for name in service.secrets}
    subprocess.run(["sh", str(REPOSITORY / "deploy/secrets/generate"), str(tmp_path / "secrets")], check=True)
    written = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert used == COMPOSITION.secrets.keys() == written.keys()
    assert all(len(text) >= 20 for text in written.values())
    subprocess.run(["sh", str(REPOSITORY / "deploy/secrets/generate"), str(tmp_path / "secrets")], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == written, "kept as they are"
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_a_service_is_given_the_secrets_it_names_and_no_others(service: Service) -> None:
    told = f"{service.command} {service.environment} {service.health}"
    scripts = [REPOSITORY / mount.source for mount in service.mounts if mount.source.endswith(".sh")]
    named = set(re.findall(r"/run/secrets/(\w+)", told))
    if scripts:
        named |= {name for name in service.secrets if name.endswith("_database_url")}
    assert named - {"airflow_passwords"} <= set(service.secrets)
    assert set(service.secrets) <= named


def test_a_gateway_cannot_write_the_registry_or_airflow() -> None:
    held = set(SERVICES["gateway"].secrets)
    assert held == {"airlock_database_url", "admin_token", "episode_key"}


def test_every_variable_is_explained_with_the_default_that_holds() -> None:
    explained = dict(re.findall(r"^([A-Z_]+)=(.*)$", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))
    assert explained.keys() == COMPOSITION.variables
    assert load(explained) == COMPOSITION


def test_the_queues_of_the_workers_are_those_of_the_tasks() -> None:
    commands = {name: service.command for name, service in SERVICES.items() if name.startswith("worker-")}
    queues = {command[command.index("--queues") + 1] for command in commands.values()}
    assert queues == {TRAIN_QUEUE, "default"}


def test_natively_no_name_and_no_path_of_a_container_is_left(tmp_path: Path, service: Service) -> None:
    places = Places(COMPOSITION, tmp_path)
    for handle in service.handles:
        told = [*places.command(service, handle), *places.environment(service, handle).values()]
        told += places.health(service, handle)
        text = "\n".join(told)
        assert not re.findall(r"(?<![\w./-])/(?:run/secrets|var/l\w+|data|prometheus|alertmanager)\b", text)
        assert not re.findall(rf"(?<![\w.-])(?:{'|'.join(SERVICES)}|localhost|0\.0\.0\.0):\d+", text)


def test_natively_a_password_that_begins_with_a_digit_is_no_port(tmp_path: Path) -> None:
    places = Places(COMPOSITION, tmp_path)
    told = places.names("postgresql+psycopg://mlflow:5a-_6@postgres:5432/mlflow http://mlflow:5000", "init")
    database, server = places.address("postgres"), places.address("mlflow")
    assert told == f"postgresql+psycopg://mlflow:5a-_6@{database}:5432/mlflow http://{server}:5000"


def test_natively_the_balancer_and_prometheus_know_every_gateway(tmp_path: Path) -> None:
    places = Places(COMPOSITION, tmp_path)
    secrets = tmp_path / "secrets"
    subprocess.run(["sh", str(REPOSITORY / "deploy/secrets/generate"), str(secrets)], check=True)
    for name in ("loadbalancer", "prometheus"):
        places.prepare(SERVICES[name], name, secrets)
    gateways = [f"{places.address(handle)}:3000" for handle in SERVICES["gateway"].handles]
    assert len(gateways) == 2
    balancer = (places.root("loadbalancer") / "usr/local/etc/haproxy/haproxy.cfg").read_text()
    prometheus = yaml.safe_load((places.root("prometheus") / "etc/prometheus/prometheus.yml").read_text())
    assert re.findall(r"server gateway-\d (\S+)", balancer) == gateways
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": gateways}]
