#!/usr/bin/env python3
"""The client in an application: a web service that gives every user an image, without storing any.

    ganymede serve &
    python examples/avatar_service.py          # then open http://127.0.0.1:8080/avatars/ada.png

The seed is a hash of the user's name, and the version of the model is fixed, so a user always has
the same image. GANYMEDE_URL and GANYMEDE_API_KEY are the address of the service and its key.
"""

import argparse
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response

from ganymede_client import AsyncClient, GanymedeError, InvalidRequest, ModelNotFound


def create_app(model: str) -> FastAPI:
    """Return an application that shows images of `model` as ``/avatars/NAME.png``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # One client for all requests keeps its connections open. It repeats a request for up to
        # two seconds while the service is busy.
        async with AsyncClient(timeout=10, retry_for=2) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/avatars/{user}.png")
    async def avatar(user: str, request: Request) -> Response:
        seed = int.from_bytes(hashlib.sha256(user.casefold().encode()).digest()[:4], "big")
        try:
            (image,) = await request.app.state.client.generate(model, seeds=[seed])
        except (ModelNotFound, InvalidRequest) as error:
            raise HTTPException(500, f"the model of this service is set wrong: {error}") from error
        except GanymedeError as error:
            # Busy, starting, or not reachable: browsers show no image, and try again later.
            raise HTTPException(503, str(error), {"Retry-After": "5"}) from error
        headers = {"Cache-Control": "public, max-age=86400", "X-Seed": str(image.seed)}
        # The file as the service made it, with its provenance as metadata.
        return Response(image.file, media_type=image.media_type, headers=headers)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="stylegan2-flowers@1", help="NAME@VERSION")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    uvicorn.run(create_app(options.model), port=options.port)
