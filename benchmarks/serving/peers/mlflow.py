"""`mlflow models serve`: the ONNX model in MLflow's own scoring server."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.serving.peers.peer import Observations, Peer, Site
from benchmarks.serving.policy import Policy
from benchmarks.serving.server import Launch


class MlflowServe(Peer):
    """One worker, in the project's environment."""

    name = "mlflow"
    title = "mlflow models serve"
    path = many_path = "/invocations"

    def launch(self, site: Site) -> Launch:
        """Save the model as MLflow's, and serve it."""
        model = site.directory / "model"
        _save(site.policy, str(model))
        command = [site.python, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--workers", "1"]
        arguments = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(site.port)]
        return Launch([*command, *arguments], {"MLFLOW_DISABLE_TELEMETRY": "true"})

    def bodies(self, observations: Observations, url: str) -> list[bytes]:
        """Named inputs, in batches of one."""
        return [self.many([observation], url) for observation in observations]

    def many(self, observations: Observations, url: str) -> bytes:
        """Named inputs."""
        return msgspec.json.encode({"inputs": {"observation": observations}})

    def actions(self, answer: Any) -> list[int]:
        """`{"predictions": {"action": [...]}}`."""
        return list(answer["predictions"]["action"])


def _save(policy: Policy, path: str) -> None:
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, policy.observations.shape[1]), "observation")]),
        Schema([TensorSpec(np.dtype(np.int64), (-1,), "action")]),
    )
    options = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    mlflow.onnx.save_model(
        onnx.load(policy.graph),
        path,
        signature=signature,
        pip_requirements=["onnxruntime"],
        onnx_session_options=options,
        save_as_external_data=False,
    )
