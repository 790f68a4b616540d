"""FastAPI: a route without `async` runs in a thread pool; uvicorn starts the processes."""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from generator import Generator, packed
from pydantic import BaseModel

app = FastAPI()
generator = Generator() if __name__ != "__main__" else None


class GenerateRequest(BaseModel):
    """A request for `n` images in `format`, with consecutive seeds that start at `seed`."""

    seed: int
    n: int = 1
    format: str = "png"


@app.post("/generate")
def generate(body: GenerateRequest) -> Response:
    """Generate images."""
    pixels = generator.pixels(range(body.seed, body.seed + body.n))
    content, media_type = packed(pixels, body.format)
    return Response(content, media_type=media_type)


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_server:app",
        port=int(os.environ["PEER_PORT"]),
        workers=int(os.environ["PEER_WORKERS"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
