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
    return _json_response(problem, {"error": openai_error(problem)})


def openai_and_problem(problem: Problem) -> Response:
    """Format a problem for OpenAI's SDK and other clients: as a problem with an extension member.

    The SDK reads the member `error` of any JSON.
    """
    document = json.loads(problem.body()) | {"error": openai_error(problem)}
    return Response(json.dumps(document), problem.status, problem.headers())


def openai_error(problem: Problem) -> dict[str, Any]:
    """Return the error object of OpenAI's API."""
    if problem.status == 429:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "message": problem.detail,
        "type": kind,
        "param": problem.errors[0]["field"] if problem.errors else None,
        "code": problem.kind.replace("-", "_"),
    }


def open_inference(problem: Problem) -> Response:
    """Format a problem as the Open Inference Protocol does: one line of text."""
    message = problem.detail
    if problem.kind == "route-not-found":
        message = (
            "no such route; supported are the Open Inference Protocol and Triton's extensions for "
            "binary tensor data, model configuration and the repository index"
        )
    return _json_response(problem, {"error": message})


# OpenAI's clients also list models and retrieve one, at paths that others use, too.
_FORMATS = {"/v1/images": openai, "/v1/models": openai_and_problem, "/v2": open_inference}


def _json_response(problem: Problem, document: Mapping[str, Any]) -> Response:
    headers = problem.headers() | {"content-type": "application/json"}
    return Response(json.dumps(document), _STATUSES.get(problem.status, problem.status), headers)
