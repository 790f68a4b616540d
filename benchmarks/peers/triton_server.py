"""NVIDIA Triton through PyTriton: dynamic batching and a configurable number of instances.

PyTriton's wheel contains tritonserver. It needs Debian's own Python and libpython.
"""

from __future__ import annotations

import os

import numpy as np
from generator import Generator, png
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance(form: str):
    """Return a callable with its own session, for one Triton instance."""
    generator = Generator()

    @batch
    def generate(seed: np.ndarray) -> dict[str, np.ndarray]:
        pixels = generator.pixels(seed[:, 0].tolist())
        if form == "npy":
            return {"pixels": pixels}
        return {"file": np.array([[png(each)] for each in pixels], dtype=object)}

    return generate


if __name__ == "__main__":
    port = int(os.environ["PEER_PORT"])
    size = Generator().pixels([0]).shape[1:]
    config = TritonConfig(
        http_port=port,
        grpc_port=port + 1000,
        metrics_port=port + 2000,
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        for form in ("npy", "png"):
            output = (
                Tensor(name="pixels", dtype=np.uint8, shape=size)
                if form == "npy"
                else Tensor(name="file", dtype=bytes, shape=(1,))
            )
            triton.bind(
                model_name=form,
                infer_func=[instance(form) for _ in range(int(os.environ["PEER_WORKERS"]))],
                inputs=[Tensor(name="seed", dtype=np.int64, shape=(1,))],
                outputs=[output],
                config=ModelConfig(
                    max_batch_size=int(os.environ["PEER_BATCH"]),
                    batcher=DynamicBatcher(max_queue_delay_microseconds=0),
                ),
            )
        triton.serve()
