"""The priority of a request: which waits less when the service is busy.

A caller may ask for at most the priority that its key has, or the service. A request that asks for
more is refused instead of being served more slowly than its client believes.
"""

from __future__ import annotations

from fastapi import Request

from service.api.middleware.authentication import get_caller
from service.api.middleware.request_headers import request_headers
from service.api.problems import Problem
from service.runtime.scheduling.batches import Priority

PRIORITY_HEADER = "X-Priority"
_HEADER = PRIORITY_HEADER.lower()
_BY_NAME = {priority.name.lower(): priority for priority in Priority}
_NAMES = ", ".join(_BY_NAME)

# The header in an OpenAPI document.
PARAMETER = {
    "name": PRIORITY_HEADER,
    "in": "header",
    "required": False,
    "description": "Priority of the request when the service is busy. Default: `normal`, or the "
    "highest that the caller may ask for.",
    "schema": {"type": "string", "enum": list(_BY_NAME)},
}


def request_priority(request: Request, parameter: Priority | None = None) -> Priority:
    """Return the priority of a request: `parameter` if its body has one, else its X-Priority.

    Raises Problem: 400 for an invalid header, 403 for a priority that the caller may not ask for.
    """
    highest = get_caller(request).max_priority
    text = request_headers(request.scope).get(_HEADER)
    wanted = parameter
    if text is not None:
        named = _BY_NAME.get(text.strip().lower())
        if named is None:
            raise Problem(
                400,
                "invalid-header",
                "A header is invalid",
                f"{PRIORITY_HEADER}: expected one of {_NAMES}, got {text[:50]!r}",
                errors=[{"field": PRIORITY_HEADER, "message": f"expected one of {_NAMES}"}],
            )
        wanted = parameter or named
    if wanted is None:
        return max(Priority.NORMAL, highest)
    if wanted < highest:
        raise Problem(
            403,
            "priority-not-allowed",
            "The priority is not allowed",
            f"the request asks for {wanted.name.lower()} priority; the highest that this caller "
            f"may ask for is {highest.name.lower()}",
        )
    return wanted
