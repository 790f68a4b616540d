import asyncio

import pytest

from service.host.bentoml_mount import MountBypass


@pytest.mark.parametrize(
    ("scope_type", "path", "destination"),
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
def test_dispatches_probes_and_other_protocols_to_host(scope_type, path, destination):
    calls = []

    def recording_app(name):
        async def app(scope, receive, send):
            calls.append((name, scope["path"]))

        return app

    bypass = MountBypass(recording_app("application"), recording_app("host"))
    asyncio.run(bypass({"type": scope_type, "path": path}, None, None))
    assert calls == [(destination, path)]
