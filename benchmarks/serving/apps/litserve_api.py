"""LitServe, one worker: `python -m benchmarks.serving.apps.litserve_api GRAPH PORT BATCH WAIT_SECONDS`."""

# No postponed annotations: LitServe looks at the type of `request`.

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from fastapi import Request

from benchmarks.serving.apps.runtime import open_session

GRAPH, PORT, BATCH, WAIT = sys.argv[1:5]


class Policy(litserve.LitAPI):  # type: ignore[misc]
    """The policy. A request holds one observation or many; batches are of single observations."""

    def setup(self, device: str) -> None:
        """Open the graph."""
        self._session = open_session(GRAPH)

    def decode_request(self, request: Request) -> Any:
        """The observation, or the list of them."""
        return request["observation"] if "observation" in request else request["observations"]

    def batch(self, inputs: list[Any]) -> Any:
        """Observations of several requests."""
        return inputs

    def predict(self, x: Any) -> Any:
        """An action, or one for every observation."""
        rows = np.array(x, np.float32)
        actions = self._session.run(["action"], {"observation": np.atleast_2d(rows)})[0].tolist()
        return actions if rows.ndim == 2 else actions[0]

    def unbatch(self, output: Any) -> Any:
        """The action of each request."""
        return output

    def encode_response(self, output: Any) -> Any:
        """An answer."""
        return {"actions": output} if isinstance(output, list) else {"action": output}


if __name__ == "__main__":
    api = Policy(max_batch_size=int(BATCH), batch_timeout=float(WAIT), api_path="/act")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60, fast_queue=True)
    server.run(host="127.0.0.1", port=int(PORT), num_api_servers=1, generate_client_file=False, log_level="warning")
