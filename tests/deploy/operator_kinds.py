"""What the Prometheus operator and kustomize read, as far as Airlock uses it: other fields are refused.

Written after the operator's API reference (monitoring.coreos.com/v1) and kustomize's; neither has a schema to install.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A struct that knows all its fields."""


class Metadata(Strict):
    name: str
    labels: dict[str, str]


class Selector(Strict):
    match_labels: dict[str, str]


class Endpoint(Strict):
    port: str
    path: str
    interval: str
    scrape_timeout: str


class MonitorSpec(Strict):
    job_label: str
    selector: Selector
    endpoints: list[Endpoint]


class ServiceMonitor(Strict):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: MonitorSpec


class AlertRule(Strict, rename={"lasting": "for"}):
    alert: str
    expr: str
    lasting: str
    labels: dict[str, str]
    annotations: dict[str, str]


class RuleGroup(Strict):
    name: str
    rules: list[AlertRule]


class RuleSpec(Strict):
    groups: list[RuleGroup]


class PrometheusRule(Strict):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: RuleSpec


class Image(Strict):
    name: str
    new_tag: str


class Kustomization(Strict):
    api_version: Literal["kustomize.config.k8s.io/v1beta1"]
    kind: Literal["Kustomization"]
    namespace: str
    resources: list[str]
    images: list[Image]


KINDS: dict[str, Any] = {each.__name__: each for each in (ServiceMonitor, PrometheusRule, Kustomization)}
