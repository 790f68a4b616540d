"""Access to c2pa-python: the extra `c2pa`. Imported when it is first needed."""

from __future__ import annotations

import importlib.util
from typing import Any

from service.runtime.errors import UserError


class CredentialsUnavailable(UserError):
    """c2pa-python is not installed."""


def is_installed() -> bool:
    """Whether credentials can be read and written. Does not import the library."""
    return importlib.util.find_spec("c2pa") is not None


def load() -> Any:
    """Import c2pa-python. Raises CredentialsUnavailable."""
    try:
        import c2pa  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CredentialsUnavailable(
            "Content Credentials need the extra c2pa: pip install 'ganymede[c2pa]'"
        ) from error
    return c2pa


def context(settings: dict[str, Any]) -> Any:
    """Return a context of the library with `settings`, which never uses the network.

    By default, the library would fetch manifests from addresses in files.
    """
    c2pa = load()
    verify = {"remote_manifest_fetch": False, "ocsp_fetch": False, **settings.get("verify", {})}
    return c2pa.Context(c2pa.Settings.from_dict({**settings, "verify": verify}))
