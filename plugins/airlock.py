"""The Airflow plugin, found by its entry point."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from plugins.console.mount import PREFIX, Console
from plugins.operators.links import LINKS


class AirlockPlugin(AirflowPlugin):
    """Registers the console, its entry in Airflow's navigation, and the links that operators show on their tasks."""

    name = "airlock"
    operator_extra_links = LINKS
    fastapi_apps: ClassVar[list[dict[str, Any]]] = [{"app": Console(), "url_prefix": PREFIX, "name": "Airlock console"}]
    # Without a url_route the entry opens the console itself. Inside Airflow's own frame, which is sandboxed, its links
    # to MLflow and to DAG runs could not open.
    external_views: ClassVar[list[dict[str, Any]]] = [
        {"name": "Airlock", "href": f"{PREFIX.lstrip('/')}/", "destination": "nav"}
    ]
