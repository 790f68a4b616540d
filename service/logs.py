"""Log lines: JSON for machines, text for people; each with the id of the request that it is about.

All lines go to standard output, those of BentoML and uvicorn too, each once.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["json", "text"]

# What every line says that is written on behalf of the request being answered.
context: ContextVar[Mapping[str, str] | None] = ContextVar("ganymede_log_context", default=None)

# Those that come with handlers of their own, which would write in another form, or a second time.
_OTHERS = ("bentoml", "uvicorn", "uvicorn.error", "circus", "py.warnings")
_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160), 0x2028, 0x2029]}


def configure(wish: LogFormat | None, stream: TextIO | None = None) -> None:
    """Send every logger's lines to `stream`, standard output when None.

    Without a wish a terminal gets text, and whatever else reads along gets JSON.
    """
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    kind = wish or ("text" if stream.isatty() else "json")
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    # BentoML silences every logger that was there before its own: asyncio's too, which alone tells
    # of an error that nobody waited for.
    for known in logging.root.manager.loggerDict.values():
        if isinstance(known, logging.Logger):
            known.disabled = False
    for name in _OTHERS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("ganymede").setLevel(logging.INFO)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then what the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
        }
        if exception := _exception(record):
            line["exception"] = exception
        return json.dumps(line, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A line of words, then what it is about as `name=value`; a stack trace below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in which nobody who writes to a log can begin another."""
        about = "".join(f" {name}={value}" for name, value in _about(record).items())
        said = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{about}"
        if not said.isprintable():
            said = said.translate(_CONTROLS)
        exception = _exception(record)
        return f"{said}\n{exception}" if exception else said


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def _about(record: logging.LogRecord) -> Mapping[str, Any]:
    return {**(context.get() or {}), **getattr(record, "fields", {})}


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()
