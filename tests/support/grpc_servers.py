"""Real servers with a gRPC port."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc

from tests.support.servers import START_SECONDS, Server, free_port, serving


@contextlib.contextmanager
def serving_grpc(models: Path, *flags: str, **options) -> Iterator[tuple[Server, str]]:
    """Serve `models` over HTTP and gRPC; yields the server and the address of gRPC."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    with serving(models, "--grpc-port", port, *flags, **options) as server:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)
        yield server, address
