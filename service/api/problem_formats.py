"""Errors as other people's clients read them.

`errors.to_problem` decides what an error is; here it is only said in another form, by the path that
was asked for. Whatever answers a request by itself, before any route, says its problems through
`respond` too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response

from service.api.problems import Problem

# Clients of both protocols know a request that cannot be used as 400.
_STATUSES = {422: 400}


def respond(path: str, problem: Problem) -> Response:
    """Return the answer that says `problem` to who asked for `path`."""
    for prefix, shape in _SHAPES.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return shape(problem)
    return problem.response()


def openai(problem: Problem) -> Response:
    """Say it as OpenAI's API does; its SDK picks the exception by the status."""
    if problem.status == 429:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    error = {
        "message": problem.detail,
        "type": kind,
        "param": problem.errors[0]["field"] if problem.errors else None,
        "code": problem.kind.replace("-", "_"),
    }
    return _answer(problem, {"error": error})


def open_inference(problem: Problem) -> Response:
    """Say it as the Open Inference Protocol does: one line."""
    message = problem.detail
    if problem.kind == "route-not-found":
        message = (
            "there is no such route; beside the Open Inference Protocol there are Triton's "
            "binary tensor data, model configuration and repository index"
        )
    return _answer(problem, {"error": message})


_SHAPES = {"/v1/images": openai, "/v2": open_inference}


def _answer(problem: Problem, document: Mapping[str, Any]) -> Response:
    headers = problem.headers() | {"content-type": "application/json"}
    return Response(json.dumps(document), _STATUSES.get(problem.status, problem.status), headers)
