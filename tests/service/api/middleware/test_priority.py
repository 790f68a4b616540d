"""Who may ask for which priority; the scheduler's tests show what it does."""

import asyncio

import httpx
import pytest
from fastapi import Request
from fastapi.responses import PlainTextResponse

from service.api.middleware.authentication import Authentication
from service.api.middleware.priority import request_priority
from service.api.problems import Problem
from service.api_keys import add_key
from service.runtime.scheduling.batches import Priority
from service.settings import Settings

HIGH, NORMAL, LOW = Priority


def ask(settings: Settings, parameter: Priority | None = None, **headers: str) -> str:
    """Return the priority of a request with these headers, or the problem and its detail."""

    async def app(scope, receive, send) -> None:
        try:
            text = request_priority(Request(scope), parameter).name
        except Problem as problem:
            text = f"{problem.status} {problem.kind}: {problem.detail}"
        await PlainTextResponse(text)(scope, receive, send)

    async def send() -> str:
        transport = httpx.ASGITransport(Authentication(app, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await client.get("/v1/models", headers=named)).text

    return asyncio.run(send())


@pytest.fixture(scope="module")
def open_to_all():
    return Settings(max_priority="high")


@pytest.mark.parametrize(
    ("header", "expected"), [("high", "HIGH"), ("normal", "NORMAL"), (" LOW", "LOW")]
)
def test_header_names_the_priority(open_to_all, header, expected):
    assert ask(open_to_all, x_priority=header) == expected


@pytest.mark.parametrize("header", ["", "urgent", "1", "high, low"])
def test_other_names_are_refused(open_to_all, header):
    assert ask(open_to_all, x_priority=header).startswith("400 invalid-header: X-Priority: expect")


def test_default_is_normal(open_to_all):
    assert ask(open_to_all) == "NORMAL"


def test_parameter_of_the_body_comes_before_the_header(open_to_all):
    assert ask(open_to_all, LOW, x_priority="high") == "LOW"


@pytest.mark.parametrize(
    ("maximum", "default", "allowed", "refused"),
    [
        ("normal", "NORMAL", ["normal", "low"], ["high"]),
        ("low", "LOW", ["low"], ["high", "normal"]),
    ],
)
def test_setting_limits_everyone_without_a_key(maximum, default, allowed, refused):
    settings = Settings(max_priority=maximum)
    assert ask(settings) == default
    assert [ask(settings, x_priority=name).lower() for name in allowed] == allowed
    for name in refused:
        answer = ask(settings, x_priority=name)
        assert answer.startswith("403 priority-not-allowed: ")
        assert f"{name} priority" in answer
        assert answer.endswith(f"is {maximum}")


def test_key_has_its_own_maximum(tmp_path):
    file = tmp_path / "keys.json"
    keys = {
        "urgent": add_key(file, "urgent", max_priority="high"),
        "patient": add_key(file, "patient", max_priority="low"),
        "plain": add_key(file, "plain"),
    }
    settings = Settings(keys=file, max_priority="normal")
    answers = {
        name: ask(settings, x_api_key=key, x_priority="high").partition(" ")[0]
        for name, key in keys.items()
    }
    assert answers == {"urgent": "HIGH", "patient": "403", "plain": "403"}
    defaults = {name: ask(settings, x_api_key=key) for name, key in keys.items()}
    assert defaults == {"urgent": "NORMAL", "patient": "LOW", "plain": "NORMAL"}
