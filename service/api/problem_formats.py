"""Error bodies in the formats of other APIs.

`problems.to_problem` chooses the error; this module formats it for the path of the request.
Middleware that responds before routing also uses `respond`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response

from service.api.problems import Problem

# Clients of both protocols expect 400 for an invalid request.
_STATUSES = {422: 400}


def respond(path: str, problem: Problem) -> Response:
    """Return the response for `problem`, in the format that clients of `path` expect."""
    for prefix, to_response in _FORMATS.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return to_response(problem)
    return problem.response()


def openai(problem: Problem) -> Response:
    """Format a problem as OpenAI's API does. Its SDK picks the exception by the status."""
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
    return _json_response(problem, {"error": error})


def open_inference(problem: Problem) -> Response:
    """Format a problem as the Open Inference Protocol does: one line of text."""
    message = problem.detail
    if problem.kind == "route-not-found":
        message = (
            "no such route; supported are the Open Inference Protocol and Triton's extensions for "
            "binary tensor data, model configuration and the repository index"
        )
    return _json_response(problem, {"error": message})


_FORMATS = {"/v1/images": openai, "/v2": open_inference}


def _json_response(problem: Problem, document: Mapping[str, Any]) -> Response:
    headers = problem.headers() | {"content-type": "application/json"}
    return Response(json.dumps(document), _STATUSES.get(problem.status, problem.status), headers)
