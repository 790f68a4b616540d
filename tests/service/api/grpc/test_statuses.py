import json

import pytest
from grpc import StatusCode

from service.api.grpc.statuses import CODES, PROBLEM, PROBLEM_TYPE, outcome
from service.api.problems import Problem
from tests.support.problem_table import documented_problems


def respond(problem: Problem):
    headers = [(k.encode(), v.encode()) for k, v in problem.headers().items()]
    return outcome(problem.status, headers, problem.body().encode())


def test_every_documented_status_has_a_code():
    for kind, status in documented_problems():
        assert status in CODES or status in (405, 406, 408), kind


@pytest.mark.parametrize(
    ("status", "code"),
    [(422, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (429, "RESOURCE_EXHAUSTED"), (418, "INTERNAL")],
)
def test_problem_becomes_a_status_with_its_type(status, code):
    result = respond(Problem(status, "some-kind", "Title", "what went wrong", retry_after=2.5))
    metadata = dict(result.metadata)
    assert result.code is StatusCode[code]
    assert result.detail == "what went wrong"
    assert result.message == b""
    assert metadata[PROBLEM_TYPE] == "urn:ganymede:problem:some-kind"
    assert json.loads(metadata[PROBLEM])["title"] == "Title"
    assert metadata["retry-after"] == "3"
    assert metadata["grpc-retry-pushback-ms"] == "3000"


def test_success_keeps_headers_but_those_of_the_body():
    headers = [(b"X-Request-Id", b"a"), (b"content-type", b"x"), (b"connection", b"close")]
    result = outcome(200, [*headers, (b"note", "ü".encode("latin-1"))], b"message")
    assert (result.code, result.message) == (StatusCode.OK, b"message")
    assert result.metadata == (("x-request-id", "a"),)
