"""Error responses become typed errors."""

import pickle

import httpx
import pytest

from ganymede_client import (
    AuthenticationFailed,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    JobNotFound,
    ModelNotFound,
    NotAllowed,
    NotFound,
    ProblemError,
    ProxyFailed,
    RequestTooLarge,
    ServerError,
    UnexpectedResponse,
)
from ganymede_client.errors import PROBLEM_CLASSES, problem_class, problem_from, retry_after
from ganymede_client.routes import generate, models
from ganymede_client.wire.calls import Call, Reply, Request
from tests.support.problem_table import documented_problems
from tests.support.servers import free_port, wait_until


def reply(status: int, content: bytes = b"", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply("http://service", status, httpx.Headers(named), content)


def test_every_documented_problem_has_a_class_that_suits_its_status():
    problems = documented_problems()
    assert {kind for kind, _ in problems} == set(PROBLEM_CLASSES)
    for kind, status in problems:
        assert issubclass(problem_class(kind, status), ServerError) == (status >= 500), kind


def test_unknown_problems_get_a_class_by_status():
    assert problem_class("new-kind", 404) is NotFound
    assert problem_class("new-kind", 422) is InvalidRequest
    assert problem_class("new-kind", 500) is ServerError


def test_invalid_fields_are_named(client, service):
    with pytest.raises(InvalidRequest) as raised:
        client.generate("dcgan-fashion", n=0)
    error = raised.value
    assert (error.status, error.kind, error.field) == (422, "invalid-request", "n")
    assert error.type == "urn:ganymede:problem:invalid-request"
    assert error.errors[0]["message"] in error.detail
    wait_until(lambda: error.request_id in service.logged())
    assert str(error) == f"{error.detail} (422 invalid-request, request {error.request_id})"


def test_missing_things_are_typed(client):
    with pytest.raises(ModelNotFound) as raised:
        client.model("no-such-model")
    assert raised.value.status == 404
    with pytest.raises(ModelNotFound):
        client.generate_from_prompt("no-such-model", "7")
    with pytest.raises(NotFound, match="no-such-model"):
        client.infer("no-such-model", {"z": [[0.0]]})
    with pytest.raises(JobNotFound):
        client.job("0" * 32)


def test_other_error_formats_name_the_field(client):
    with pytest.raises(InvalidRequest) as raised:
        client.generate_from_prompt("cgan-fashion", "submarine")
    assert (raised.value.field, raised.value.status) == ("prompt", 400)
    assert raised.value.errors[0]["message"].startswith("expected the name or index of a class")
    with pytest.raises(InvalidRequest, match=r"expected z, each once \(400, request \w+\)"):
        client.infer("dcgan-fashion", {"y": [[0.0]]})


def test_missed_deadlines_are_typed(client):
    with pytest.raises(DeadlineExceeded):
        client.with_options(deadline=0.001).generate("stylegan2-flowers", n=256)


def test_keys_are_sent_and_refused(keyed_service, monkeypatch):
    monkeypatch.delenv("GANYMEDE_API_KEY", raising=False)
    with Client(keyed_service.url) as client, pytest.raises(AuthenticationFailed) as raised:
        client.models()
    assert raised.value.kind == "key-needed"
    with Client(keyed_service.url, "gnm_wrong") as client, pytest.raises(AuthenticationFailed):
        client.models()
    with Client(keyed_service.url, keyed_service.plain) as client, pytest.raises(NotAllowed):
        client.reload()


def test_address_and_key_come_from_the_environment(keyed_service, monkeypatch):
    monkeypatch.setenv("GANYMEDE_API_KEY", f"{keyed_service.plain}\n")
    monkeypatch.setenv("GANYMEDE_URL", f"{keyed_service.url}/")
    with Client() as client:
        assert client.url == keyed_service.url
        assert [model.id for model in client.models()] == ["gan-mnist"]
        assert keyed_service.plain not in repr(client)
        assert keyed_service.plain not in repr(vars(client))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:3000", "expected http://host:port"),
        ("ftp://host", "expected http://host:port"),
        ("http://", "expected http://host:port"),
        ("http://host:99999", "expected a port from 1 to 65535"),
        ("http://host?x=1", "no query"),
        ("http://user:secret@host", "give the key as"),
        ("http://host:port", "url: "),
    ],
)
def test_invalid_urls_are_refused(url, message):
    with pytest.raises(ValueError, match=message) as raised:
        Client(url)
    assert "secret" not in str(raised.value)


def test_url_below_that_of_the_service_is_named(service):
    url = f"{service.url}/docs"
    with Client(url) as client, pytest.raises(NotFound, match=f"{url} has no such route"):
        client.models()


def test_invalid_options_are_refused():
    with pytest.raises(ValueError, match="key: expected printable"):
        Client("http://host", "two\nlines")
    for option in ({"timeout": 0}, {"deadline": -1}, {"retry_for": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}: expected"):
            Client("http://host", **option)


def test_service_that_is_not_there_is_a_failed_connection():
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, retry_for=0) as client, pytest.raises(ConnectionFailed, match=url) as raised:
        client.models()
    assert raised.value.sent is False


def test_pages_of_proxies_are_no_problem_documents():
    error = problem_from(reply(502, b"<html>Bad gateway</html>", content_type="text/html"))
    assert isinstance(error, ProxyFailed)
    assert (error.kind, error.status) == ("", 502)
    assert "Bad gateway" in str(error)
    redirect = problem_from(reply(301, location="https://elsewhere"))
    assert isinstance(redirect, UnexpectedResponse)
    assert "https://elsewhere" in str(redirect)
    assert isinstance(problem_from(reply(413, b"too large")), RequestTooLarge)


def test_responses_of_another_server_are_unexpected(service, client):
    for call, content in [
        (models.models(), b"<html>"),
        (models.models(), b'{"models": []}'),
        (generate.generate("m"), b"PK\x03\x04 no archive"),
        (generate.image("m", 1), b"\x89PNG no image"),
        (generate.image("m", 1), b"GIF89a"),
    ]:
        with pytest.raises(UnexpectedResponse, match="http://service"):
            call.parse(reply(200, content, content_type="application/zip"))
    # A PNG without metadata is not an image of the service.
    preview = Call(Request("GET", "/openapi.json"), generate.image("m", 1).parse)
    with pytest.raises(UnexpectedResponse):
        client.send(preview)


def test_retry_after_is_seconds_or_a_date():
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    later = retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"})
    assert later > 1e9
    for text in ("", "soon", "-1", "nan", "inf"):
        assert retry_after({"retry-after": text}) is None


def test_errors_can_be_pickled():
    error = problem_from(
        reply(
            429,
            b'{"type": "urn:ganymede:problem:queue-full", "title": "t", "detail": "d", '
            b'"errors": [{"field": "n", "message": "m"}], "request_id": "r"}',
            retry_after="3",
        )
    )
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ProblemError)
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert copy.retry_after == 3
