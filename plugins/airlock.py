"""The Airflow plugin, found by its entry point."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from plugins.operators.links import LINKS


class AirlockPlugin(AirflowPlugin):
    """Registers the links that Airlock's operators show on their tasks."""

    name = "airlock"
    operator_extra_links = LINKS
