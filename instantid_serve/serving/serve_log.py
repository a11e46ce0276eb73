"""Ray Serve's log of this replica, with lines formatted our way.

Serve's own formatter prints tracebacks with the messages of foreign errors, and its filters replace a ``job_id`` with
the id of Ray's job.
"""

from __future__ import annotations

import logging

from ray._common.formatters import JSONFormatter

from instantid_serve import log_context
from instantid_serve.log_lines import LineFormatter


class ServeLog(logging.Handler):
    """Hands records on to whatever handlers Serve's logger has, and sees to it that these write our lines.

    Serve makes its handlers anew when a deployment's logging_config changes, so they are looked at for every record.
    """

    def __init__(self, serve: logging.Logger, deployment: str, replica: str) -> None:
        super().__init__()
        self._serve = serve
        self._deployment = deployment
        self._replica = replica
        self.addFilter(self.prepare)
        serve.addFilter(self.prepare)  # what Serve itself logs does not come through here

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record where Serve writes."""
        for handler in self._serve.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def prepare(self, record: logging.LogRecord) -> bool:
        """A filter that keeps nothing back: note what the record is about, and how it will be written."""
        log_context.stamp(record)
        targets = [getattr(handler, "target", None) or handler for handler in self._serve.handlers]
        new = [target for target in targets if not isinstance(target.formatter, LineFormatter)]
        as_json = any(isinstance(target.formatter, JSONFormatter) for target in new)
        for target in new:
            target.setFormatter(LineFormatter(as_json=as_json, deployment=self._deployment, replica=self._replica))
        return True
