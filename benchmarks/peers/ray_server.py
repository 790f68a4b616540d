"""Ray Serve: replicas behind a proxy, requests gathered by `@serve.batch`."""

from __future__ import annotations

import os
import signal

import ray
from generator import Generator, packed
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=int(os.environ["PEER_WORKERS"]),
    ray_actor_options={"num_cpus": 0.5},
    max_ongoing_requests=100,
)
class ImageGenerator:
    """A request is a seed, a number and a form; a batch is a list of such."""

    def __init__(self) -> None:
        self.generator = Generator()

    @serve.batch(max_batch_size=int(os.environ["PEER_BATCH"]), batch_wait_timeout_s=0.001)
    async def made(self, wishes: list[dict]) -> list[tuple[bytes, str]]:
        """Make the pictures of all requests in one run."""
        seeds = [s for w in wishes for s in range(w["seed"], w["seed"] + w["n"])]
        pixels, at, answers = self.generator.pixels(seeds), 0, []
        for wish in wishes:
            answers.append(packed(pixels[at : at + wish["n"]], wish["format"]))
            at += wish["n"]
        return answers

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        content, media_type = await self.made(await request.json())
        return Response(content, media_type=media_type)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    serve.run(ImageGenerator.bind(), route_prefix="/generate")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
