"""A bare Starlette application with one route that sends the bytes of a file.

    ECHO_FILE=image.png uvicorn benchmarks.echo_server:app

The least that a Python server spends on a request: no validation, no work, no log line. The file is
sent as `image/png`.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_CONTENT = Path(os.environ["ECHO_FILE"]).read_bytes()


async def echo(_: Request) -> Response:
    """Send the file."""
    return Response(_CONTENT, media_type="image/png")


app = Starlette(routes=[Route("/v1/generate", echo, methods=["POST"])])
