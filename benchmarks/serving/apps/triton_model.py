"""Triton by pytriton: its C++ server gathers requests for a Python function in this process.

python -m benchmarks.serving.apps.triton_model GRAPH HTTP_PORT GRPC_PORT METRICS_PORT
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]

from benchmarks.serving.apps.runtime import open_session

WIDTH = 8


def main() -> None:
    """Serve."""
    session = open_session(sys.argv[1])
    http, grpc, metrics = map(int, sys.argv[2:5])

    @batch  # type: ignore[untyped-decorator]
    def infer(observation: Any) -> dict[str, Any]:
        return {"action": session.run(["action"], {"observation": observation})[0][:, np.newaxis]}

    config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="policy",
            infer_func=infer,
            inputs=[Tensor(name="observation", dtype=np.float32, shape=(WIDTH,))],
            outputs=[Tensor(name="action", dtype=np.int64, shape=(1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
