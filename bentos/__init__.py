"""What runs in production: the gateway service, its runners, the policy package and the Python client.

Each package imports only those that follow it here: `server` (the worker process), `http`, `gateway` (the same without
transport), `routing` (which version answers), `runners` (one decision), `envelope`, `telemetry` and `store` (action
limits, counters, database), `package`. Modules that lie here flat are for all of them; `client` stands on itself alone.
Nothing of training, Airflow or MLflow is imported.
"""

import os

# ONNX Runtime reads this when it is imported. Without it, it would record every session on disk and try to send that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
