"""Messages to the thread that owns the device: read between two steps, one at a time."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

Message = Callable[[], None]


class Inbox:
    """A queue of calls. ``desk`` is held while one runs, so that another thread may do the same work in its place."""

    def __init__(self) -> None:
        self.desk = threading.RLock()
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._deaf = False

    def send(self, message: Message) -> None:
        """Have the owner run ``message`` before its next step; after :meth:`close` it runs here and now."""
        with self._gate:
            deaf = self._deaf
            if not deaf:
                self._queue.put(message)
        if deaf:
            with self.desk:
                message()

    def read(self, *, wait: bool) -> None:
        """Run what was sent; with ``wait``, at least one message."""
        first = self._queue.get() if wait else None
        with self.desk, contextlib.suppress(queue.Empty):
            if first:
                first()
            while True:
                self._queue.get_nowait()()

    def close(self) -> None:
        """Nobody reads any more: run what is left, and let senders run theirs."""
        with self._gate:
            self._deaf = True
        self.read(wait=False)
