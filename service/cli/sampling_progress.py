"""Progress of `ganymede sample`: for people, or as JSON lines for programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from service.runtime.formatting import duration, format_size
from service.runtime.progress import stage_progress

if TYPE_CHECKING:
    from service.offline.execution import Estimate

_EVENT_INTERVAL_S = 1.0
_SHOW_INTERVAL_S = 0.2


class SamplingProgress:
    """Reports the progress of one job of `count` images, sounds or texts, as `plural` says."""

    def __init__(self, count: int, plural: str, *, as_json: bool) -> None:
        self.plural = plural
        self._count = count
        self._as_json = as_json
        self._lock = threading.Lock()
        self._images = self._bytes = self._failed = 0

    def add(self, images: int, size: int, failed: int) -> None:
        """Count images that were written, their bytes, and images that failed. Thread-safe."""
        with self._lock:
            self._images += images
            self._bytes += size
            self._failed += failed

    def report(self, event: str, text: str, **fields: object) -> None:
        """Print `text`; in JSON mode, print an event with `fields` instead."""
        if self._as_json:
            typer.echo(json.dumps({"event": event, "message": text, **fields}))
        else:
            typer.echo(text)

    def report_done(self, summary: dict[str, Any], out: str) -> None:
        """Report the end of the job."""
        failed = f"; {len(summary['failed'])} failed" if summary["failed"] else ""
        rate = self._images / max(summary["seconds"], 1e-6)
        size = format_size(summary["bytes"])
        self.report(
            "done",
            f"wrote {summary['images']:,} {self.plural} ({size}) to {out}{failed}; "
            f"{rate:,.0f} per second",
            **summary,
        )

    @contextmanager
    def running(self, expected: Estimate, existing: int) -> Iterator[None]:
        """Report progress until the block ends. `existing` images were written by earlier runs."""
        resumed = f" ({existing:,} already exist)" if existing else ""
        self.report(
            "start",
            f"generating {expected.images:,} {self.plural}{resumed}: about "
            f"{duration(expected.seconds)}, {format_size(expected.bytes)}",
            images=expected.images,
            there_already=existing,
            seconds=round(expected.seconds, 1),
            bytes=expected.bytes,
        )
        ended = threading.Event()
        show = self._print_events if self._as_json else self._show
        thread = threading.Thread(target=show, args=(ended, existing), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _print_events(self, ended: threading.Event, existing: int) -> None:
        started = time.perf_counter()
        last = False
        while not last:
            last = ended.wait(_EVENT_INTERVAL_S)
            rate = self._images / (time.perf_counter() - started)
            remaining = self._count - existing - self._images - self._failed
            event = {
                "event": "progress",
                "images": existing + self._images,
                "of": self._count,
                "per_second": round(rate, 1),
                "eta_s": round(remaining / rate, 1) if rate else None,
                "bytes": self._bytes,
                "failed": self._failed,
            }
            typer.echo(json.dumps(event))

    def _show(self, ended: threading.Event, existing: int) -> None:
        with stage_progress() as show:
            last = False
            while not last:
                last = ended.wait(_SHOW_INTERVAL_S)
                failed = f", {self._failed} failed" if self._failed else ""
                note = f"{format_size(self._bytes)}{failed}"
                show("generating", existing + self._images, self._count, note)
