"""The work of a release as typed functions: plain arguments in, small JSON-able results out.

Each package imports only those that follow it here: `stages` (one module a DAG task) and `cli`, `reporting` and
`monitoring`, `checklist`, `canary` and `learning`, `build` and `stack`, `control` (the control plane), `tracking`
(MLflow) and `alerts`, `spec`, `analysis` (pure statistics). Modules that lie here flat are for all of them. Airflow is
never imported; torch, Stable-Baselines3 and MLflow inside the functions that need them.
"""

import os

# ONNX Runtime reads this when it is imported. Without it, it would record every session on disk and try to send that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
