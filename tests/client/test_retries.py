"""Requests are repeated when it helps and is safe, against the real service and by the policy."""

import httpx
import pytest

from ganymede_client import Client, ConnectionFailed, NotReady, ProxyFailed, RateLimited
from ganymede_client.errors import InvalidRequest, ModelFailed
from ganymede_client.flows import Exchange, Pause, send
from ganymede_client.retries import RetryPolicy
from ganymede_client.routes import jobs, models
from ganymede_client.wire.calls import Reply, Request
from tests.support.cutting_proxy import cutting_proxy

SAFE, UNSAFE = Request("GET", "/"), Request("POST", "/", repeatable=False)


def test_rate_limited_request_is_repeated_after_retry_after(keyed_service):
    statuses = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    with (
        httpx.Client(event_hooks=hooks) as http,
        Client(keyed_service.url, keyed_service.slow, http=http) as client,
    ):
        client.generate("gan-mnist", n=60)
        with pytest.raises(RateLimited) as raised:
            client.with_options(retry_for=0).generate("gan-mnist", n=40)
        assert raised.value.retry_after > 5
        # It would be repeated too late, so it is not repeated at all.
        with pytest.raises(RateLimited):
            client.with_options(retry_for=5).generate("gan-mnist", n=40)
        assert statuses == [200, 429, 429]
        while statuses[-2:] != [429, 200]:
            client.generate("gan-mnist", n=2)


def test_cut_connection_is_repeated(service):
    with cutting_proxy(service.url, cuts=[0, 100, 1000]) as proxy, Client(proxy.url) as client:
        images = client.generate("biggan-flowers", seeds=range(20))
        assert images.seeds == list(range(20))
        # The connection of each attempt was cut, during the head and the body of the response.
        assert sum(b"POST /v1/generate" in request for request in proxy.requests) == 4


def test_job_is_not_submitted_twice(service, client):
    known = {job.id for job in client.jobs()}
    with cutting_proxy(service.url, cuts=[0]) as proxy, Client(proxy.url) as cut:
        with pytest.raises(ConnectionFailed) as raised:
            cut.submit_job("gan-mnist", count=1)
        assert raised.value.sent
        assert sum(b"POST /v1/jobs" in request for request in proxy.requests) == 1
    assert len({job.id for job in client.jobs()} - known) <= 1


def reply(status: int, kind: str = "", **headers: str) -> Reply:
    content = f'{{"type": "urn:ganymede:problem:{kind}", "detail": "d"}}' if kind else "<html>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply("http://service", status, httpx.Headers(named), content.encode())


class Clock:
    """Time that only pauses advance."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(call, outcomes, total_s=60.0):
    """Carry out the flow of a call with the given replies and errors; return the pauses."""
    clock, pauses = Clock(), []
    flow = send(call, RetryPolicy(total_s), clock, lambda: 1.0)
    step = next(flow)
    outcomes = iter(outcomes)
    while True:
        if isinstance(step, Pause):
            pauses.append(step.seconds)
            clock.now += step.seconds
            step = flow.send(None)
            continue
        assert isinstance(step, Exchange)
        outcome = next(outcomes, None)
        if outcome is None:
            return pauses
        step = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)


def test_pauses_follow_retry_after_with_jitter():
    busy = reply(429, "queue-full", retry_after="2")
    assert run(models.models(), [busy, busy]) == [2.5, 2.5]
    assert run(jobs.submit_job("m", count=1), [busy]) == [2.5]
    assert run(models.models(), [reply(503, "not-ready", retry_after="20")]) == [21]


def test_pauses_without_retry_after_double_up_to_a_limit():
    lost = ConnectionFailed("cut", sent=True)
    assert run(models.models(), [lost] * 8) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0, 8.0]


def test_repeating_ends_after_the_total_time():
    busy = reply(503, "not-ready", retry_after="5")
    with pytest.raises(NotReady) as raised:
        run(models.models(), [busy] * 20, total_s=20)
    assert raised.value.retry_after == 5
    with pytest.raises(NotReady):
        run(models.models(), [reply(503, "not-ready", retry_after="61")] * 2)
    with pytest.raises(NotReady):
        run(models.models(), [busy] * 2, total_s=0)


def test_long_waits_are_logged_as_warnings(caplog):
    caplog.set_level("INFO", "ganymede_client")
    run(models.models(), [ConnectionFailed("cannot connect", sent=False)] * 6)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO"] * 4 + ["WARNING"] * 2
    assert caplog.messages[0] == (
        "cannot connect; repeated in 0.2 s, until 60 s after the first attempt"
    )


def test_what_lasts_is_not_repeated():
    with pytest.raises(ModelFailed):
        run(models.models(), [reply(503, "model-failed")])
    with pytest.raises(InvalidRequest):
        run(models.models(), [reply(422, "invalid-request")])
    with pytest.raises(ProxyFailed):
        run(models.models(), [reply(504)])


def test_only_safe_requests_are_repeated_without_a_response():
    policy = RetryPolicy()
    lost, unreachable = ConnectionFailed("", sent=True), ConnectionFailed("", sent=False)
    proxy = ProxyFailed(502, "", "", "")
    for error in (lost, unreachable, proxy):
        assert policy.delay(error, SAFE, 0, 1.0) == 0.2
    assert policy.delay(unreachable, UNSAFE, 0, 1.0) == 0.2
    assert policy.delay(lost, UNSAFE, 0, 1.0) is None
    assert policy.delay(proxy, UNSAFE, 0, 1.0) is None
