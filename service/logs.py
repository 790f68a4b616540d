"""Log lines on standard output: JSON for machines, text for people.

On a terminal, text is short, aligned and colored: the local time, the level or the status of a
request, and what matters to someone who watches. In a file, text has all fields.

Lines that are logged while a request is handled contain the id of the request.

The line of each request is written by `info_soon`, which takes a third of the time of a logger's
`info`: most of the rest is writing, which is done once for all requests that end together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal, TextIO

from service.runtime.formatting import format_size

LogFormat = Literal["auto", "json", "text"]

# Fields that are added to every line logged for the current request.
context: ContextVar[Mapping[str, str] | None] = ContextVar("ganymede_log_context", default=None)

# Created once: `json.dumps` creates an encoder for every call with options.
_to_json = json.JSONEncoder(default=str, separators=(",", ":")).encode

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160), 0x2028, 0x2029]}

# Select Graphic Rendition of terminals, by what it stands for.
_COLORS = {
    "dim": "2", "heading": "1", "good": "32", "INFO": "32", "WARNING": "33", "ERROR": "31",
    "CRITICAL": "1;31", "2": "32", "3": "36", "4": "33", "5": "31",
}  # fmt: skip


def configure(log_format: LogFormat = "auto", stream: TextIO | None = None) -> None:
    """Send all log lines and warnings to `stream` (default: standard output).

    The format "auto" is text on a terminal and JSON otherwise.
    """
    global _lines  # noqa: PLW0603 - one process, one log
    stream = stream or sys.stdout
    on_terminal = stream.isatty()
    formatter: JsonFormatter | TextFormatter
    if log_format == "json" or (log_format == "auto" and not on_terminal):
        formatter = JsonFormatter()
    elif on_terminal:
        formatter = TerminalFormatter(colored=not _is_plain())
    else:
        formatter = TextFormatter()
    _lines = _LineHandler(stream, formatter)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [_lines]
    root.setLevel(logging.WARNING)
    logging.getLogger("ganymede").setLevel(logging.INFO)


def configure_command() -> None:
    """Send the warnings and errors of a command to standard error, without a time."""
    stream = sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(CommandFormatter(colored=stream.isatty() and not _is_plain()))
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def on_terminal() -> bool:
    """Return whether the log lines of this process are read on a terminal as they appear."""
    return _lines is not None and isinstance(_lines.formatter, TerminalFormatter)


def event(logger: logging.Logger, message: str, fields: Mapping[str, Any], text: str) -> None:
    """Log an INFO line with `fields`; a terminal shows `text` instead, of one line or several."""
    logger.info(message, extra={"fields": fields, "terminal": text})


def info_soon(logger: logging.Logger, message: str, fields: Mapping[str, Any]) -> None:
    """Log an INFO line with `fields`, which is written at the end of the event loop's iteration.

    A process that is killed loses the lines of one iteration, a few milliseconds.
    """
    if _lines is None:
        logger.info(message, extra={"fields": fields})
    elif logger.isEnabledFor(logging.INFO):
        _lines.write_soon(logger.name, message, {**(context.get() or {}), **fields})


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes records at once, and other lines together."""

    def __init__(self, stream: TextIO, formatter: JsonFormatter | TextFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line = formatter.line
        self._lock = threading.RLock()
        # Lines that are not written yet.
        self._waiting: list[str] = []

    def write_soon(self, logger: str, message: str, fields: Mapping[str, Any]) -> None:
        """Write an INFO line at the end of this iteration of the event loop."""
        with self._lock:
            self._waiting.append(self._line(time.time(), "INFO", logger, message, fields))
            is_first = len(self._waiting) == 1
        if is_first:
            asyncio.get_running_loop().call_soon(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after the lines that wait."""
        if self._waiting:
            self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write the lines that wait. Errors are reported as those of records, and not raised."""
        lines: list[str] = []
        try:
            with self._lock:
                lines, self._waiting = self._waiting, []
                if lines:
                    self.stream.write("\n".join([*lines, ""]))
            super().flush()
        except (OSError, ValueError):
            # The disk is full, or the stream is closed.
            self.handleError(logging.makeLogRecord({"msg": "\n".join(lines[:1])}))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = _fields(record)
        if exception := _exception(record):
            fields = {**fields, "exception": exception}
        return self.line(record.created, record.levelname, record.name, record.getMessage(), fields)

    def line(
        self, seconds: float, level: str, logger: str, message: str, fields: Mapping[str, Any]
    ) -> str:
        """Return a line; `seconds` is its Unix time."""
        return _to_json(
            {
                "time": _time(seconds),
                "level": level,
                "logger": logger,
                "message": message,
                **fields,
            }
        )


class TextFormatter(logging.Formatter):
    """A readable line with its fields as `name=value`; a stack trace follows on separate lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = self.line(
            record.created, record.levelname, record.name, record.getMessage(), _fields(record)
        )
        return "\n".join([line, *map(_escaped, _exception(record).splitlines())])

    def line(
        self, seconds: float, level: str, logger: str, message: str, fields: Mapping[str, Any]
    ) -> str:
        """Return a line; `seconds` is its Unix time.

        Control characters are escaped, so that no value can forge a line.
        """
        text = "".join(f" {name}={value}" for name, value in fields.items())
        return _escaped(f"{_time(seconds)} {level} {logger}: {message}{text}")


class TerminalFormatter(TextFormatter):
    """A short line for a person who watches: the time, the level, and what matters.

    Times are local. The line of a request has its status in place of the level, then its time in
    milliseconds, its bytes, method and route; the id of a request appears if it failed.
    """

    def __init__(self, *, colored: bool) -> None:
        super().__init__()
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, or the text that it has for a terminal."""
        text = getattr(record, "terminal", None)
        if text is None:
            return super().format(record)
        lines = [_escaped(line) for line in str(text).split("\n")]
        first = next((i for i, line in enumerate(lines) if line), 0)
        lines[first] = self._color(lines[first], "heading")
        return "\n".join(lines)

    def line(
        self, seconds: float, level: str, logger: str, message: str, fields: Mapping[str, Any]
    ) -> str:
        """Return a line; `seconds` is its Unix time. Control characters are escaped."""
        if "route" in fields:
            label = str(fields["status"])
            color = label[:1]
            text, details = _request_text(fields)
        else:
            label = color = level
            # The lines of libraries name their origin.
            origin = "" if logger.partition(".")[0] == "ganymede" else f"{logger}: "
            text = origin + _one_line(message)
            details = " ".join(f"{name}={value}" for name, value in fields.items())
        head = self._color(_local_time(int(seconds)), "dim")
        line = f"{head}  {self._color(f'{label:<8}', color)} {_escaped(text)}"
        return f"{line}  {self._color(_escaped(details), 'dim')}" if details else line

    def _color(self, text: str, kind: str) -> str:
        code = _COLORS.get(kind)
        return f"\x1b[{code}m{text}\x1b[0m" if self._colored and code and text else text


class CommandFormatter(TerminalFormatter):
    """What a command has to say besides its result: ``warning: …``."""

    def line(
        self, seconds: float, level: str, logger: str, message: str, fields: Mapping[str, Any]
    ) -> str:
        """Return a line without a time. Control characters are escaped."""
        del seconds, logger
        text = "".join(f" {name}={value}" for name, value in fields.items())
        label = self._color(f"{level.lower()}:", level)
        return f"{label} {_escaped(_one_line(message) + text)}"


def _is_plain() -> bool:
    """Return whether the user or the terminal asks for text without colors."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _request_text(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a terminal shows of a request, and the details behind it."""
    text = f"{fields['ms']:>8.1f} ms {format_size(fields['bytes']):>9}  "
    text += f"{fields['method']:<6} {fields['route']}"
    details = [str(fields[name]) for name in ("model", "key", "reason") if name in fields]
    if int(fields["status"]) >= 400 and "request_id" in fields:
        details.append(f"request {fields['request_id']}")
    return text, "  ".join(details)


def _one_line(message: str) -> str:
    """Return a message, such as a warning of Python with its source, in one line."""
    return " ".join(line.strip() for line in message.splitlines())


def _escaped(line: str) -> str:
    return line if line.isprintable() else line.translate(_ESCAPES)


def _time(seconds: float) -> str:
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4)
def _local_time(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return {**(context.get() or {}), **getattr(record, "fields", {})}


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


# Of this process; None before `configure`.
_lines: _LineHandler | None = None
