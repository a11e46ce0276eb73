"""Which request, job and tenant a log line is about: said once by whoever begins the work, known to every line below.

A scope belongs to the task that opened it and to the tasks and ``asyncio.to_thread`` calls begun inside it. An executor
and a thread of one's own know it only when they are run in a copied context (``contextvars.copy_context().run``).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator
from typing import TypedDict, Unpack


class Fields(TypedDict, total=False):
    """What a line may be about. ``attempt`` counts from 1; ``fence`` is the claim's."""

    request_id: str  # of HTTP at the API's edge, of the engine's request in a generator
    job_id: str
    tenant: str
    attempt: int
    fence: int


_scope: contextvars.ContextVar[Fields] = contextvars.ContextVar("log_fields")


@contextlib.contextmanager
def logged(**fields: Unpack[Fields]) -> Iterator[None]:
    """Say what the lines written inside are about, in addition to what is said already.

    Not around a ``yield`` of an asynchronous generator: its parts may run in different contexts.
    """
    token = _scope.set(logged_fields() | fields)
    try:
        yield
    finally:
        _scope.reset(token)


def note(**fields: Unpack[Fields]) -> None:
    """Add what was learnt on the way to the innermost scope: all its lines have it from now on, its opener's too.

    Outside of every scope there is nothing to add to, and nothing happens.
    """
    if (scope := _scope.get(None)) is not None:
        scope.update(fields)


def logged_fields() -> Fields:
    """What lines written now are about: a copy, which may travel to another process."""
    return _scope.get(Fields()).copy()


def stamp(record: logging.LogRecord) -> bool:
    """A filter for handlers that keeps nothing back: it writes the fields down while the record is still in its task.

    They become the attribute ``log_fields``; Ray's own filters overwrite attributes called ``job_id`` with Ray's ids.
    """
    if not hasattr(record, "log_fields"):
        record.log_fields = logged_fields()
    return True
