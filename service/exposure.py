"""Whom a service is open to: this machine alone, those who have a key, or everyone."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from service.settings import Settings


def asks_for_keys(settings: Settings) -> bool:
    """Whether a client needs a key."""
    return settings.keys is not None and not settings.insecure


@lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    """Whether an address leads nowhere but to this machine; False for what is no address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
