"""MLServer's way to serve a model of one's own: a runtime, named in `model-settings.json`."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)

from benchmarks.serving.apps.runtime import open_session


class Policy(MLModel):  # type: ignore[misc]
    """The policy."""

    async def load(self) -> bool:
        """Open the graph that the settings name."""
        self._session = open_session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch."""
        tensor = payload.inputs[0]
        rows = np.array(tensor.data.root, np.float32).reshape(tensor.shape)
        actions = self._session.run(["action"], {"observation": rows})[0]
        output = ResponseOutput(name="action", shape=list(actions.shape), datatype="INT64", data=actions.tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
