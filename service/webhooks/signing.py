"""Signatures of webhooks by the Standard Webhooks specification (version 1, symmetric).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import logging
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks import Webhook

from service.runtime.errors import UserError

log = logging.getLogger("ganymede.webhooks")

_PREFIX = "whsec_"
# The specification asks for 24 to 64 bytes of key.
_MIN_BYTES, _MAX_BYTES = 24, 64


class SecretsError(UserError):
    """The file of signing secrets cannot be used. The message begins with its path."""


class SigningSecrets:
    """The secrets of a file, one ``whsec_…`` a line, which is read again when it changes.

    Every webhook is signed with all of them, so that a receiver can move from one to the next. If
    the file becomes unusable, the secrets that were read before stay in use; an error is logged.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises SecretsError."""
        self._path = path
        self._signature = _signature(path)
        self._secrets = read_secrets(path)

    def headers(self, message_id: str, moment: float, body: str) -> dict[str, str]:
        """Return the headers of one attempt to send `body` at `moment`, in seconds since the epoch.

        `message_id` is the same for all attempts.
        """
        self._reload()
        time = datetime.fromtimestamp(int(moment), UTC)
        signatures = [Webhook(secret).sign(message_id, time, body) for secret in self._secrets]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(moment)),
            "webhook-signature": " ".join(signatures),
        }

    def _reload(self) -> None:
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._secrets = read_secrets(self._path)
        except SecretsError as error:
            log.error("the previously read webhook secrets stay in use: %s", error)
        else:
            log.info("%d webhook secrets loaded from %s", len(self._secrets), self._path)


def read_secrets(path: Path) -> list[str]:
    """Return the secrets of a file. Empty lines and lines that begin with # are ignored.

    Raises SecretsError.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise SecretsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SecretsError(f"{path} is not text: {error}") from error
    secrets = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not _is_secret(text):
            # The line itself may be a secret, so it is not shown.
            raise SecretsError(
                f"{path}, line {number}: expected {_PREFIX} and {_MIN_BYTES} to {_MAX_BYTES} bytes "
                f'in base64, as printed by: echo "{_PREFIX}$(openssl rand -base64 32)"'
            )
        secrets.append(text)
    if not secrets:
        raise SecretsError(
            f"{path} has no secrets; append one: "
            f'echo "{_PREFIX}$(openssl rand -base64 32)" >> {path}'
        )
    return secrets


def _is_secret(text: str) -> bool:
    if not text.startswith(_PREFIX):
        return False
    try:
        key = base64.b64decode(text[len(_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        return False
    return _MIN_BYTES <= len(key) <= _MAX_BYTES


def _signature(path: Path) -> object:
    """Return a value that changes when the file does."""
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
