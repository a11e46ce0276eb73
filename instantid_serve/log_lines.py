"""Log records as lines: JSON for machines, or one readable line, with the same fields and the same care.

Three walls keep callers' words out of them. A library's message is withheld, because it may hold what a caller sent
(diffusers, for one, quotes the end of a long prompt); the line says where in its code it comes from. Of an error that
is not ours only its class and the lines it passed are written, because its message may hold a prompt or SQL values.
And whatever is written has passed :mod:`.redaction`.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from instantid_serve import log_context
from instantid_serve.errors import InstantIDError
from instantid_serve.redaction import REDACTED, names_a_secret, redacted

_ABOUT = ("request_id", "job_id", "tenant", "attempt", "fence")
_MAX_ITEMS = 64
_MAX_CAUSES = 5
_OURS = "instantid_serve"
_SERVE = "ray.serve"
# What Python's logging, Ray Core and Ray Serve put on records for their own formatters.
_NOT_OURS = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("message", "asctime", "taskName", "log_fields", *_ABOUT, "_ray_timestamp_ns"),
    *("worker_id", "node_id", "actor_id", "actor_name", "task_id", "task_name", "task_func_name"),
    *("application", "deployment", "replica", "component_name", "component_id", "component_type"),
    *("log_to_stderr", "serve_access_log", "skip_context_filter", "ray_serve_extra_fields"),
}


class LineFormatter(logging.Formatter):
    """Formats records as lines; ``deployment`` and ``replica`` say who writes them."""

    def __init__(self, *, as_json: bool, deployment: str | None = None, replica: str | None = None) -> None:
        super().__init__()
        self._as_json = as_json
        self._writer = {"deployment": deployment, "replica": replica}

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        told = _written(self._told(record))
        return json.dumps(told) if self._as_json else _readable(told)

    def _told(self, record: logging.LogRecord) -> dict[str, Any]:
        log_context.stamp(record)
        about: dict[str, Any] = {"request_id": getattr(record, "request_id", None), **record.__dict__["log_fields"]}
        told = {
            "ts": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **self._writer,
            **{name: about.get(name) for name in _ABOUT},
        }
        if _is_from(record, _OURS):
            told |= {name: value for name, value in record.__dict__.items() if name not in _NOT_OURS}
        if record.exc_info and record.exc_info[1]:
            for name, value in described(record.exc_info[1]).items():
                told.setdefault(name, value)  # what the call itself says of the error counts more
        return told


def described(error: BaseException) -> dict[str, object]:
    """What may be logged of an error and of those that led to it: classes, lines, and the words of our own."""
    told: dict[str, object] = {"error": type(error).__name__}
    if isinstance(error, InstantIDError):
        told |= {"code": error.code, "detail": error.detail}
    told["where"] = _lines(error.__traceback__)[-_MAX_ITEMS:]
    if causes := [_cause(cause) for cause in _causes(error)]:
        told["causes"] = causes
    return told


def _lines(trace: TracebackType | None) -> list[str]:
    return [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(trace)]


def _causes(error: BaseException) -> Iterator[BaseException]:
    for _ in range(_MAX_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            return
        yield cause
        error = cause


def _cause(error: BaseException) -> str:
    lines = _lines(error.__traceback__)
    return f"{type(error).__name__} at {lines[-1]}" if lines else type(error).__name__


def _is_from(record: logging.LogRecord, logger: str) -> bool:
    return record.name == logger or record.name.startswith(f"{logger}.")


def _message(record: logging.LogRecord) -> str:
    if not (_is_from(record, _OURS) or _is_from(record, _SERVE)):
        return f"a library's message, withheld: {record.pathname}:{record.lineno}"
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - logging would print the arguments, which may be anything, to stderr
        return f"a message whose arguments do not fit: {record.pathname}:{record.lineno}"


def _written(value: Any) -> Any:  # noqa: ANN401 - whatever a record holds
    """The value as it may be written: plain, short, redacted. Numbers in lists may be a face's features."""
    match value:
        case float():
            return value if math.isfinite(value) else str(value)
        case None | int():
            return value
        case str():
            return redacted(value)
        case Mapping():
            return {str(k): REDACTED if names_a_secret(str(k)) else _written(v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return _written_list(list(value))
    return f"<{type(value).__name__}>"


def _written_list(values: list[Any]) -> list[str] | str:
    if all(isinstance(value, str) for value in values):
        return [redacted(value) for value in values[:_MAX_ITEMS]]
    return f"<{len(values)} values>"


def _readable(told: dict[str, Any]) -> str:
    """``level time logger: message`` and the other fields that are known, as ``name=value``."""
    first = f"{told.pop('level')} {told.pop('ts')} {told.pop('logger')}: {_one_line(told.pop('message'))}"
    rest = (f"{name}={_value(value)}" for name, value in told.items() if value is not None)
    return " ".join([first, *rest])


def _value(value: object) -> str:
    if isinstance(value, str) and value and not any(c.isspace() or c in '"=' for c in value):
        return _one_line(value)
    return json.dumps(value)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
