"""Calls in threads, with the deadline and the client of a request."""

import asyncio
import threading

import anyio
import pytest
from fastapi import Request

from service.api.execution import RequestExecution
from service.api.problems import Problem
from service.api.rate_limits import PixelAccount
from service.runtime.scheduling.batches import Priority
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.errors import DeadlineExceeded


@pytest.fixture
def anyio_backend():
    return "asyncio"


def execution_of(repository, seconds, *, disconnects=False) -> RequestExecution:
    async def receive():
        if not disconnects:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "headers": []}, receive)
    engine = Engine(repository, provider="cpu", queue_pixels=2**20)
    return RequestExecution(engine, request, seconds, PixelAccount(None), Priority.NORMAL)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("disconnects", "error"), [(False, DeadlineExceeded), (True, Problem)], ids=["late", "gone"]
)
async def test_waiting_for_a_thread_ends_with_the_request(drawn_repository, disconnects, error):
    limiter = anyio.CapacityLimiter(1)
    release, called = threading.Event(), []
    first = execution_of(drawn_repository, 60)
    busy = asyncio.ensure_future(first.in_thread(release.wait, limiter))
    while not limiter.borrowed_tokens:
        await asyncio.sleep(0.01)
    second = execution_of(drawn_repository, 60 if disconnects else 0.3, disconnects=disconnects)
    try:
        with pytest.raises(error):
            await second.in_thread(lambda: called.append(1), limiter)
        # The other call still runs, and still counts.
        assert (busy.done(), limiter.borrowed_tokens) == (False, 1)
    finally:
        release.set()
        second.close()
    assert await busy is True
    assert await first.in_thread(lambda: "next", limiter) == "next"
    assert called == []
    first.close()


@pytest.mark.anyio
async def test_call_keeps_its_thread_past_the_deadline(drawn_repository):
    limiter, release = anyio.CapacityLimiter(1), threading.Event()
    execution = execution_of(drawn_repository, 0.3)
    with pytest.raises(DeadlineExceeded):
        await execution.in_thread(release.wait, limiter)
    assert limiter.borrowed_tokens == 1
    release.set()
    while limiter.borrowed_tokens:
        await asyncio.sleep(0.01)
    execution.close()


@pytest.mark.anyio
async def test_raises_the_errors_of_the_call(drawn_repository):
    execution = execution_of(drawn_repository, 60)
    with pytest.raises(ZeroDivisionError):
        await execution.in_thread(lambda: 1 / 0, anyio.CapacityLimiter(1))
    execution.close()
