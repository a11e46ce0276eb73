"""What a service's process logs, as the lines it would write."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from instantid_serve.log_lines import LineFormatter


class KeptLines(logging.Handler):
    """Keeps every record as our line, and as Python's own formatter would have written it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(as_json=True, deployment="Test", replica="r1"))
        self.texts: list[str] = []
        self.plain: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))
        self.plain.append(f"{logging.Formatter().format(record)} {record.__dict__}")

    def told(self, logger: str = "instantid_serve") -> list[dict[str, Any]]:
        """The lines of a logger and those below it, parsed."""
        return [line for text in self.texts if (line := json.loads(text))["logger"].startswith(logger)]


@contextlib.contextmanager
def everything_logged() -> Iterator[KeptLines]:
    """Every record of this process at DEBUG, for the length of the block."""
    root, kept = logging.getLogger(), KeptLines()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    try:
        yield kept
    finally:
        root.setLevel(level)
        root.removeHandler(kept)
