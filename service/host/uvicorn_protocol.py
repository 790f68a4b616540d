"""Makes uvicorn use a protocol with this package's workarounds.

Fault: BentoML configures uvicorn and has no option for a protocol class, so the class replaces
uvicorn's default.

Seen in: bentoml 1.4.39, uvicorn 0.54.0.
Shown by: the tests of these workarounds, all of which fail without `install`.
Can go when: BentoML accepts a protocol class, or no workaround is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import uvicorn.config
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.host.bentoml_mount import MountBypass
from service.host.uvicorn_header_limits import HeaderLimits
from service.host.uvicorn_slow_readers import SlowReaderTimeout
from service.host.uvicorn_upgrades import IgnoreUpgrades
from service.host.uvicorn_writes import JoinedWrites
from service.settings import Settings


def install(settings: Settings, get_app: Callable[[], ASGIApp]) -> None:
    """Make a uvicorn server that is started later in this process use the workarounds.

    `settings` have the limits of the workarounds, and the origins that may read the responses of
    all applications, BentoML's included. `get_app` is called for each connection and returns the
    application inside BentoML's.
    """

    class GanymedeProtocol(IgnoreUpgrades, HeaderLimits, SlowReaderTimeout, JoinedWrites):
        max_header_bytes = settings.max_header_bytes
        header_timeout_s = settings.body_timeout_s
        write_timeout_s = settings.write_timeout_s

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            app = get_app()
            if self.config.proxy_headers:
                # uvicorn applies this middleware to BentoML's application only.
                trusted = self.config.forwarded_allow_ips
                app = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), trusted))
            # Here, because it imports what only a worker needs, and the supervisor runs `install`.
            from service.api.middleware.cross_origin import cross_origin  # noqa: PLC0415

            self.app = cross_origin(MountBypass(app, self.app), settings.cors_origins)

    # uvicorn takes an import path or the class itself.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = cast("Any", GanymedeProtocol)
