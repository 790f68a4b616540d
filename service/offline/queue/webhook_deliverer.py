"""Delivers the webhooks of jobs that have ended, in the process that runs the jobs of its server.

A webhook is sent until its receiver accepts it, with growing pauses, over restarts and crashes. The
receiver may get it more than once, always with the same `webhook-id`: if the service ends after
the receiver has accepted it and before that is recorded. After that is recorded, never again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any

from service.offline.queue.runner import JobQueue
from service.offline.queue.table import JobNotFound, QueuedJob
from service.offline.queue.webhook_table import PAUSES_S, JobWebhook
from service.webhooks.sending import WebhookFailed, WebhookMessage, send
from service.webhooks.signing import SigningSecrets
from service.webhooks.targets import PermittedTargets, WebhookRefused

log = logging.getLogger("ganymede.webhooks")

# Seconds between two looks at the table.
_POLL_S = 0.5
# Webhooks that are being sent at a time, so that one slow receiver does not delay all others.
_PARALLEL = 16
# A part of each pause that is added at random, so that webhooks of many jobs spread out.
_JITTER = 0.1


class DeliveryOutcome(StrEnum):
    """How an attempt to deliver a webhook ended."""

    DELIVERED = "delivered"
    RETRIED = "retried"
    FAILED = "failed"


class WebhookDeliverer:
    """A thread that sends webhooks for as long as this process runs the jobs of `queue`."""

    def __init__(
        self,
        queue: JobQueue,
        permitted: PermittedTargets,
        secrets: SigningSecrets,
        *,
        count: Callable[[DeliveryOutcome], None] = lambda _: None,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """`count` is called after each attempt. `pauses_s` are the seconds between the attempts."""
        self._queue = queue
        self._permitted = permitted
        self._secrets = secrets
        self._count = count
        self._pauses_s = pauses_s
        self._stopping = threading.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        # A daemon: the process may end at any time, as in a crash.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="ganymede-webhooks", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the thread. Attempts that are under way are abandoned, and made again later."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)

    async def _run(self) -> None:
        logged: str | None = None
        while not self._stopping.is_set():
            try:
                if self._queue.is_open and self._queue.runs_jobs:
                    self._send_due()
                    logged = None
            except sqlite3.Error as error:
                if logged != str(error):
                    log.warning("webhooks cannot be sent: %s", error)
                logged = str(error)
            await asyncio.sleep(_POLL_S)

    def _send_due(self) -> None:
        table = self._queue.webhooks
        free = _PARALLEL - len(self._sending)
        if free <= 0:
            return
        # Those that are being sent may be due again, if they take longer than the pause.
        for webhook in table.due(free + len(self._sending)):
            if webhook.job in self._sending or len(self._sending) >= _PARALLEL:
                continue
            if webhook.attempts > len(self._pauses_s):
                # The process ended during the last attempt.
                self._give_up(webhook, webhook.error or "the service ended during the last attempt")
                continue
            if table.begin(webhook, self._pause_s(webhook)):
                task = asyncio.get_running_loop().create_task(self._deliver(webhook))
                self._sending[webhook.job] = task
                task.add_done_callback(partial(self._forget, webhook.job))

    def _forget(self, job_id: str, _: asyncio.Task[None]) -> None:
        del self._sending[job_id]

    async def _deliver(self, webhook: JobWebhook) -> None:
        """Make one attempt, and record its outcome."""
        try:
            queued = self._queue.get(webhook.job)
            target = self._permitted.find(webhook.url)
            body = json.dumps(event_of(queued), separators=(",", ":"))
            signature = self._secrets.headers(webhook.id, time.time(), body)
            await send(target, WebhookMessage(body, signature))
        except JobNotFound:
            return  # Deleted in the meantime.
        except (WebhookFailed, WebhookRefused) as error:
            await self._record(partial(self._note_failure, webhook, error))
        except sqlite3.Error as error:
            # The attempt is counted: it is made again after the pause.
            log.warning("the webhook of job %s cannot be sent: %s", webhook.job, error)
        except Exception as error:
            log.exception("the webhook of job %s failed", webhook.job)
            failure = WebhookFailed(type(error).__name__)
            await self._record(partial(self._note_failure, webhook, failure))
        else:
            await self._record(partial(self._queue.webhooks.deliver, webhook.job))
            self._count(DeliveryOutcome.DELIVERED)
            log.info("the webhook of job %s was delivered to %s", webhook.job, target.authority)

    async def _record(self, change: Callable[[], None]) -> None:
        """Change the table, as soon as that is possible: it may be locked, or the disk full."""
        while True:
            try:
                change()
            except sqlite3.Error as error:
                log.warning("the state of a webhook cannot be recorded yet: %s", error)
                await asyncio.sleep(_POLL_S)
            else:
                return

    def _note_failure(self, webhook: JobWebhook, error: WebhookFailed | WebhookRefused) -> None:
        is_last = webhook.attempts >= len(self._pauses_s)
        if is_last or (isinstance(error, WebhookFailed) and error.is_final):
            self._give_up(webhook, str(error))
            return
        pause_s = self._pause_s(webhook)
        if isinstance(error, WebhookFailed):
            pause_s = max(pause_s, min(error.retry_after, max(self._pauses_s)))
        self._queue.webhooks.postpone(webhook.job, str(error), pause_s)
        self._count(DeliveryOutcome.RETRIED)
        log.warning("the webhook of job %s is sent again later: %s", webhook.job, error)

    def _give_up(self, webhook: JobWebhook, reason: str) -> None:
        self._queue.webhooks.fail(webhook.job, reason)
        self._count(DeliveryOutcome.FAILED)
        log.error("the webhook of job %s was not delivered: %s", webhook.job, reason)

    def _pause_s(self, webhook: JobWebhook) -> float:
        """Return the pause after the attempt that follows those of `webhook`."""
        pause_s = self._pauses_s[min(webhook.attempts, len(self._pauses_s) - 1)]
        return pause_s * (1 + _JITTER * random.random())  # noqa: S311 - not a secret


def event_of(queued: QueuedJob) -> dict[str, Any]:
    """Return what the webhook of an ended job states. It is the same for all attempts."""
    ended = queued.ended or queued.created
    return {
        "type": f"job.{queued.state}",
        "timestamp": datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds"),
        "data": {
            "id": queued.id,
            "state": queued.state,
            "model": f"{queued.job.model}@{queued.job.version}",
            "count": queued.job.count,
            "images": queued.images,
            "failed": queued.failed,
            "bytes": queued.bytes,
            "created": queued.created,
            "started": queued.started,
            "ended": queued.ended,
            "error": queued.error,
            "url": f"/v1/jobs/{queued.id}",
        },
    }
