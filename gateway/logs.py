"""Logs: one JSON object a line on stderr, events by name with fields. Bodies, keys and salts never, by construction.

Only fields of the list below are written, so that a new field is a decision; values are short texts, numbers or lists
of them, never bytes. Tracebacks carry no locals. A line that cannot be written is lost, and nothing else is. What
libraries log or warn of comes in the same form.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

#: Every field that may stand in a log line.
FIELDS = frozenset(
    (
        "event", "level", "timestamp", "logger", "receipt", "release", "verdict", "reason", "node", "network", "policy",
        "error", "exception", "failures", "outcome", "keyset", "size", "known_size", "ed25519", "path", "url", "count",
        "open_intents", "check", "model", "state", "p", "rekeyed", "epoch", "counts", "doubted",
        "signal", "seconds", "version", "origin", "notice", "kind", "key", "seq", "nodes", "policies", "connections",
        "code", "status", "param",
    )
)  # fmt: skip
_LONGEST = 2000
_LARGEST = 2**63


def configure(*, level: str = "info", stream: Any = None) -> None:
    """Set structlog and the standard library's logging up, once, for a service."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            only_known,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(_Lossy(stream or sys.stderr)),
        cache_logger_on_first_use=False,
    )
    handler = _Forward()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)  # Python would write them between the lines, as text of several lines


def only_known(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the fields of the list, with values that cannot hold a body."""
    known = {name: _plain(value) for name, value in event.items() if name in FIELDS and name != "exception"}
    if "exception" in event:
        known["exception"] = _end(str(event["exception"]))
    return known


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < _LARGEST:
        return value  # not so what JSON has no number for (NaN, infinity), or has more digits than a line
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, list | tuple):
        return [_text(item) if isinstance(item, list | tuple) else _plain(item) for item in value[:32]]
    return _text(value)


def _text(value: Any) -> str:
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - anybody's class: of an adapter's error, for one
        return f"<{type(value).__name__} without text: {type(error).__name__}>"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _end(traceback: str) -> str:
    """The part of a traceback that says what failed, and where: its end."""
    return traceback if len(traceback) <= _LONGEST else "…" + traceback[-_LONGEST:]


class _Lossy:
    """A stream whose failures are nobody's: a full disk or a reader that went away costs lines, never an exchange."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Forward(logging.Handler):
    """Libraries' own log records, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        fields: dict[str, Any] = {"logger": record.name, "error": _message(record)}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exc_info"] = record.exc_info[1]
        (log.error if record.levelno >= logging.ERROR else log.warning)("library.message", **fields)


def _message(record: logging.LogRecord) -> object:
    """What a library says; what it wanted to say where that does not take its arguments: nothing of ours fails then."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - anybody's classes are formatted here
        return record.msg
