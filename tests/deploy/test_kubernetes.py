"""The manifests of deploy/kubernetes: valid, of one piece, and in step with the images, the code and the alerts."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from tasks.alerts.prometheus import JOB, render
from tasks.spec.files import load_all
from tests.deploy import dockerfile
from tests.deploy.dockerfile import REPOSITORY
from tests.deploy.operator_kinds import KINDS

DIRECTORY = REPOSITORY / "deploy" / "kubernetes"
VERSIONS = ("1.32", "1.37")
"""The oldest and the newest Kubernetes that the manifests are for."""
OF_BOTO3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}


def documents(file: Path) -> list[dict[str, Any]]:
    return [dict(each) for each in yaml.safe_load_all(file.read_text())]


KUSTOMIZATION = documents(DIRECTORY / "kustomization.yaml")[0]
MANIFESTS = {
    f"{each['kind']} {each['metadata']['name']}": each
    for name in KUSTOMIZATION["resources"]
    for each in documents(DIRECTORY / name)
}
VALUES = documents(DIRECTORY / "airflow-values.yaml")[0]
DEPLOYMENTS = [each for each in MANIFESTS.values() if each["kind"] == "Deployment"]
GATEWAY, MLFLOW = MANIFESTS["Deployment gateway"], MANIFESTS["Deployment mlflow"]


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return dict(deployment["spec"]["template"]["spec"])


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(deployment)["containers"]
    return dict(only)


def name_of(deployment: dict[str, Any]) -> str:
    return str(deployment["metadata"]["name"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_is_what_kubernetes_takes(manifest: str, version: str) -> None:
    document = MANIFESTS[manifest]
    if document["kind"] in KINDS:
        msgspec.convert(document, KINDS[document["kind"]])
    else:
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_validator_refuses_a_field_that_does_not_exist() -> None:
    broken = MANIFESTS["PodDisruptionBudget gateway"] | {"spec": {"maxUnavailabel": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_all_manifests_are_applied_together() -> None:
    msgspec.convert(KUSTOMIZATION, KINDS["Kustomization"])
    apart = {"kustomization.yaml", "airflow-values.yaml"}
    assert {file.name for file in DIRECTORY.glob("*.yaml")} - apart == set(KUSTOMIZATION["resources"])


def test_images_are_targets_of_the_dockerfile_of_one_version() -> None:
    chart = [VALUES["images"]["airflow"], VALUES["images"]["pod_template"]]
    tags = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
    assert {container(each)["image"] for each in DEPLOYMENTS} == set(tags)
    tags |= {image["repository"]: image["tag"] for image in chart}
    assert set(tags) == {f"airlock-{target}" for target in dockerfile.TARGETS}
    assert len(set(tags.values())) == 1


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name_of)
class TestEachDeployment:
    def test_all_that_speak_of_its_pods_mean_them(self, deployment: dict[str, Any]) -> None:
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        name = deployment["metadata"]["name"]
        selectors = [
            deployment["spec"]["selector"]["matchLabels"],
            MANIFESTS[f"Service {name}"]["spec"]["selector"],
            MANIFESTS[f"NetworkPolicy {name}"]["spec"]["podSelector"]["matchLabels"],
            *(each["labelSelector"]["matchLabels"] for each in pod(deployment).get("topologySpreadConstraints", [])),
        ]
        assert all(selector.items() <= labels.items() for selector in selectors)
        others = [each["spec"]["template"]["metadata"]["labels"] for each in DEPLOYMENTS if each is not deployment]
        assert not [other for other in others for selector in selectors if selector.items() <= other.items()]

    def test_its_ports_are_those_of_its_image(self, deployment: dict[str, Any]) -> None:
        exposed = dockerfile.last(deployment["metadata"]["name"], "EXPOSE").text
        (port,) = container(deployment)["ports"]
        (served,) = MANIFESTS[f"Service {deployment['metadata']['name']}"]["spec"]["ports"]
        probes = [container(deployment)[probe] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        assert exposed == str(port["containerPort"]) == str(served["port"])
        assert {served["targetPort"], *(probe["httpGet"]["port"] for probe in probes)} == {port["name"]}

    def test_it_runs_as_the_user_of_its_image_and_may_do_nothing_else(self, deployment: dict[str, Any]) -> None:
        user = int(dockerfile.last(deployment["metadata"]["name"], "USER").text.partition(":")[0])
        whole, own = pod(deployment)["securityContext"], container(deployment)["securityContext"]
        assert (whole["runAsUser"], whole["runAsNonRoot"], whole["fsGroup"]) == (user, True, user)
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert pod(deployment)["automountServiceAccountToken"] is False

    def test_it_can_write_where_its_image_keeps_state(self, deployment: dict[str, Any]) -> None:
        mounts = {each["mountPath"]: each["name"] for each in container(deployment)["volumeMounts"]}
        environment = dockerfile.environment(deployment["metadata"]["name"])
        state = {name: environment[name] for name in ("HOME", "AIRLOCK_HOME", "BENTOML_HOME")}
        assert [name for name, path in state.items() if not any(Path(path).is_relative_to(m) for m in mounts)] == []
        assert set(mounts.values()) == {volume["name"] for volume in pod(deployment)["volumes"]}
        assert "/tmp" in mounts

    def test_no_secret_stands_in_it(self, deployment: dict[str, Any]) -> None:
        given = [each for each in container(deployment)["env"] if "value" in each]
        assert not [each["name"] for each in given if re.search("TOKEN|SECRET|PASSWORD|KEY|URI|URL", each["name"])]


def test_what_the_gateway_is_scaled_and_disrupted_by_means_the_gateway() -> None:
    reference = MANIFESTS["HorizontalPodAutoscaler gateway"]["spec"]["scaleTargetRef"]
    assert (reference["kind"], reference["name"]) == (GATEWAY["kind"], GATEWAY["metadata"]["name"])
    assert "replicas" not in GATEWAY["spec"]
    assert MANIFESTS["HorizontalPodAutoscaler gateway"]["spec"]["minReplicas"] > 1
    assert MANIFESTS["PodDisruptionBudget gateway"]["spec"]["selector"] == GATEWAY["spec"]["selector"]
    assert (
        container(GATEWAY)["resources"]["requests"]["cpu"]
        == MANIFESTS["ConfigMap airlock-settings"]["data"]["AIRLOCK_WORKERS"]
    )


def test_addresses_in_the_settings_are_services() -> None:
    settings = MANIFESTS["ConfigMap airlock-settings"]["data"]
    services = {
        f"http://{each['metadata']['name']}:{each['spec']['ports'][0]['port']}"
        for each in MANIFESTS.values()
        if each["kind"] == "Service"
    }
    assert {settings["MLFLOW_TRACKING_URI"], settings["AIRLOCK_GATEWAY_URL"]} == services
    (hosts,) = [word for word in container(MLFLOW)["args"] if word.startswith("--allowed-hosts=")]
    assert settings["MLFLOW_TRACKING_URI"].removeprefix("http://") in hosts.partition("=")[2].split(",")


def test_the_gateway_may_reach_what_it_needs() -> None:
    policy = MANIFESTS["NetworkPolicy gateway"]["spec"]
    reached = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert reached == {53, 5432, MANIFESTS["Service mlflow"]["spec"]["ports"][0]["port"]}
    assert policy["ingress"][0]["ports"] == [{"port": container(GATEWAY)["ports"][0]["name"]}]


def test_prometheus_finds_the_gateways_under_the_job_that_the_rules_name() -> None:
    monitor, service = MANIFESTS["ServiceMonitor gateway"]["spec"], MANIFESTS["Service gateway"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == JOB
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_the_alert_rules_are_those_of_the_specs() -> None:
    specs, problems = load_all(REPOSITORY / "dags" / "policies")
    assert not problems
    assert (DIRECTORY / "alert-rules.yaml").read_text() == render(specs, kubernetes=True)


def variables() -> Iterator[str]:
    for each in DEPLOYMENTS:
        yield from (variable["name"] for variable in container(each)["env"])
    yield from MANIFESTS["ConfigMap airlock-settings"]["data"]
    yield from (variable["name"] for variable in VALUES["env"])
    yield from (variable["envName"] for variable in VALUES["secret"])


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def test_every_variable_is_one_that_somebody_reads() -> None:
    settings = yaml.safe_load((package("airflow") / "config_templates" / "config.yml").read_text())
    airflow = {
        f"AIRFLOW__{section}__{option}".upper() for section, about in settings.items() for option in about["options"]
    }
    mlflow = [package("mlflow") / "environment_variables.py", *(package("mlflow") / "cli").rglob("*.py")]
    own = [file for room in ("bentos", "tasks") for file in (REPOSITORY / room).rglob("*.py")]
    text = "\n".join(file.read_text() for file in (*own, *mlflow))
    secrets = {f"AIRLOCK_{name.upper()}" for name in re.findall(r'secret\("(\w+)"\)', text)}
    known = airflow | secrets | OF_BOTO3 | set(re.findall(r"\b(?:AIRLOCK|MLFLOW)_[A-Z_0-9]+\b", text))
    assert set(variables()) - known == set()


def test_every_secret_is_made_in_the_docs() -> None:
    page = (REPOSITORY / "docs" / "kubernetes.md").read_text().replace("\\\n", " ")
    made = {
        name: set(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", rest))
        for name, rest in re.findall(r"kubectl [^\n]*create secret generic (\S+)([^\n]*)", page)
    }
    references = [
        each["valueFrom"]["secretKeyRef"] for d in DEPLOYMENTS for each in container(d)["env"] if "valueFrom" in each
    ]
    used = {(each["name"], each["key"]) for each in references}
    used |= {(each["secretName"], each["secretKey"]) for each in VALUES["secret"]}
    used |= {(VALUES["data"]["metadataSecretName"], "connection"), (VALUES["fernetKeySecretName"], "fernet-key")}
    used |= {(VALUES["apiSecretKeySecretName"], "api-secret-key"), (VALUES["jwtSecretName"], "jwt-secret")}
    used |= {(volume["secret"]["secretName"], "passwords.json") for volume in VALUES["apiServer"]["extraVolumes"]}
    assert used == {(name, key) for name, keys in made.items() for key in keys}


def test_airflow_runs_its_images_as_they_are() -> None:
    image = dockerfile.environment("worker")
    given = {each["name"]: each["value"] for each in VALUES["env"]}
    assert given["AIRFLOW__CORE__DAGS_FOLDER"] == image["AIRFLOW__CORE__DAGS_FOLDER"]
    assert VALUES["airflowHome"] == image["AIRFLOW_HOME"]
    assert f"{VALUES['uid']}:{VALUES['gid']}" == dockerfile.last("worker", "USER").text
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert f"apache-airflow=={VALUES['airflowVersion']}" in pins


def test_a_gateway_is_not_restarted_for_a_registry_that_is_away() -> None:
    asked = {probe: container(GATEWAY)[probe]["httpGet"]["path"] for probe in container(GATEWAY) if "Probe" in probe}
    assert asked == {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}


def test_a_gateway_has_time_to_end() -> None:
    whole = pod(GATEWAY)
    waits = container(GATEWAY)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert whole["terminationGracePeriodSeconds"] >= waits + 30
