"""Every test runs in a home of its own: nothing of a developer's `.airlock` is read or written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_HOME = tempfile.mkdtemp(prefix="airlock-tests-")
os.environ["AIRLOCK_HOME"] = _HOME
os.environ["AIRFLOW_HOME"] = str(Path(_HOME) / "airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).resolve().parents[1] / "dags")
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for _name in ("AIRLOCK_DATABASE_URL", "MLFLOW_TRACKING_URI", "AIRLOCK_GATEWAY_URL", "AIRLOCK_POLICIES"):
    os.environ.pop(_name, None)
