"""The work of a release as typed functions: plain arguments in, small JSON-able results out."""

import os

# ONNX Runtime reads this when it is imported. Without it, it would record every session on disk and try to send that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
