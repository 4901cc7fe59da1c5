"""The Airflow plugin, found by its entry point."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from plugins.console import PREFIX
from plugins.console.mount import Console
from plugins.operators.links import LINKS


class AirlockPlugin(AirflowPlugin):
    """Registers the console, its entry in Airflow's navigation, and the links that operators show on their tasks."""

    name = "airlock"
    operator_extra_links = LINKS
    fastapi_apps: ClassVar[list[dict[str, Any]]] = [{"app": Console(), "url_prefix": PREFIX, "name": "Airlock console"}]
    # With a url_route Airflow shows the console in a frame of its own page. Without one its navigation (3.3) shows a
    # button that leads nowhere.
    external_views: ClassVar[list[dict[str, Any]]] = [
        {"name": "Airlock", "href": f"{PREFIX.lstrip('/')}/", "url_route": PREFIX.lstrip("/"), "destination": "nav"}
    ]
