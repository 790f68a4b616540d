"""Lets web pages of other origins read responses (CORS), if the operator has named their origins.

A browser asks with a preflight request before it sends a request that a plain HTML form could not,
and gives a page a response of another origin only if a header permits it. Neither is access
control: other programs ignore both, and what a request may do depends on its API key alone.
Credentials that a browser adds by itself (cookies, Basic authentication) are never permitted, so a
page needs a key of its own.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from service.api.problems import Problem

# The methods of all routes.
_METHODS = ("DELETE", "GET", "HEAD", "POST")
# Browsers keep the answer to a preflight no longer than this (Chromium: 2 h, Firefox: 24 h).
_MAX_AGE_S = 7200


def cross_origin(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Return `app`, whose responses pages of `origins` may read; `app` itself without origins.

    Must be the outermost application, so that every response has the headers, whichever layer
    sends it: refused requests, errors, and those of the host.
    """
    return _CrossOrigin(app, origins) if origins else app


class _CrossOrigin(CORSMiddleware):
    """Answers preflights before they reach authentication and rate limits.

    Responses vary by origin, with or without one in the request, because caches would otherwise
    give a page the response without the header.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            # The requested ones are repeated: a * in the response would exclude Authorization.
            allow_headers=["*"],
            # For pages of a public address that use a service on a private one.
            allow_private_network=True,
            # All: without credentials, the * includes every header.
            expose_headers=["*"],
            max_age=_MAX_AGE_S,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Respond 204 with what is allowed, or 403 if the origin or the method is not."""
        response = super().preflight_response(request_headers)
        headers = {
            name: value
            for name, value in response.headers.items()
            if name == "vary" or name.startswith("access-control-")
        }
        if response.status_code == 200:
            return Response(status_code=204, headers=headers)
        if not self.is_allowed_origin(request_headers["origin"]):
            origin = request_headers["origin"][:100]
            detail = f"pages of {origin} may not use this service; --cors-origin allows origins"
        else:
            method = request_headers["access-control-request-method"][:20]
            detail = f"{method} is not a method of this service; its methods: {', '.join(_METHODS)}"
        problem = Problem(403, "origin-not-allowed", "The preflight request is refused", detail)
        return Response(problem.body(), problem.status, headers | problem.headers())
