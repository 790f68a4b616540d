"""Makes uvicorn use a protocol with this package's workarounds.

Fault: BentoML configures uvicorn itself and has no option for another protocol class, so the class
is put where uvicorn looks for its default one.

Seen in: bentoml 1.4.39, uvicorn 0.54.0.
Shown by: the tests of the workarounds, which all fail without `install`.
Can go when: BentoML takes a protocol class, or none of the workarounds is left.
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
from service.settings import Settings


def install(settings: Settings, get_app: Callable[[], ASGIApp]) -> None:
    """Make the uvicorn that this process will start use the workarounds, with these settings.

    `get_app` is called once there are connections, and returns the application behind BentoML's.
    """

    class GanymedeProtocol(IgnoreUpgrades, HeaderLimits, SlowReaderTimeout):
        max_header_bytes = settings.max_header_bytes
        header_timeout_s = settings.body_timeout_s
        write_timeout_s = settings.write_timeout_s

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            app = get_app()
            if self.config.proxy_headers:
                # uvicorn has wrapped BentoML's application only.
                trusted = self.config.forwarded_allow_ips
                app = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), trusted))
            self.app = MountBypass(app, self.app)

    # uvicorn takes an import path or the class itself.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = cast("Any", GanymedeProtocol)
