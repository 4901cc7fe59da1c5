"""What runs in production: the gateway service, its runners, the policy package and the Python client."""

import os

# ONNX Runtime reads this when it is imported. Without it, it would record every session on disk and try to send that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
