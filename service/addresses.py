"""Network addresses: resolving names, checking ports, and the URL of a listening socket."""

from __future__ import annotations

import errno
import socket
from typing import Any

from service.runtime.errors import UserError

# Addresses on which a socket listens for all of them.
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def resolve(host: str) -> str:
    """Return the IP address of `host`. Raises UserError."""
    try:
        addresses = socket.getaddrinfo(host or "?", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host: {host!r} is not an address of this machine: {reason}") from error
    # If a name has both, prefer IPv4, which all clients try.
    addresses.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(addresses[0][4][0])


def assert_port_free(address: str, port: int) -> None:
    """Raise UserError if the port is in use, which BentoML would report with a stack trace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else str(error)
            raise UserError(f"cannot listen on {address}, port {port}: {reason}") from error


def local_url(address: str, port: int, scheme: str = "http") -> str:
    """Return the URL by which a browser on this machine reaches a server on `address`."""
    if address in _ANY:
        address = "localhost"
    return f"{scheme}://[{address}]:{port}/" if ":" in address else f"{scheme}://{address}:{port}/"


def url_of(listener: socket.socket, scheme: str) -> str | None:
    """Return the URL of a listening socket; None unless it is an Internet socket."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    name: Any = listener.getsockname()
    return local_url(str(name[0]), int(name[1]), scheme)
