import asyncio

import pytest

from service.host.uvicorn_connections import Front


@pytest.mark.parametrize(
    ("kind", "path", "reached"),
    [
        ("http", "/v1/generate", "application"),
        ("http", "/", "application"),
        ("http", "/readyz/", "application"),
        ("http", "/livez", "host"),
        ("http", "/readyz", "host"),
        ("http", "/healthz", "host"),
        ("websocket", "/v1/generate", "host"),
    ],
)
def test_only_the_probes_and_what_is_not_http_go_by_way_of_the_host(kind, path, reached):
    seen = []

    def named(name):
        async def app(scope, receive, send):
            seen.append((name, scope["path"]))

        return app

    front = Front(named("application"), named("host"))
    asyncio.run(front({"type": kind, "path": path}, None, None))
    assert seen == [(reached, path)]
