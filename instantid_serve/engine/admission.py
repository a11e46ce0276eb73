"""How much may be in the engine at once: a number of requests, and the bytes of memory that they hold."""

from __future__ import annotations

from collections import deque

from instantid_serve.engine.ticket import Ticket


class Admission:
    """Who waits to be prepared, in order of arrival, and what those inside are charged."""

    def __init__(self, max_requests: int, max_bytes: float) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._waiting: deque[Ticket] = deque()
        self._inside = self._bytes = 0

    @property
    def charged_bytes(self) -> int:
        """What all those inside hold, or are estimated to."""
        return self._bytes

    def could_ever_fit(self, size_bytes: int) -> bool:
        """Whether a request of that size fits into an empty engine."""
        return size_bytes <= self._max_bytes

    def wait(self, ticket: Ticket) -> None:
        """Take a place at the end of the queue."""
        self._waiting.append(ticket)

    def leave(self, ticket: Ticket) -> bool:
        """Give up a place in the queue; False for one that is not in it."""
        if ticket not in self._waiting:
            return False
        self._waiting.remove(ticket)
        return True

    def admit(self) -> Ticket | None:
        """Let the first in, charge it, and return it; None while there is no room for it."""
        if not self._waiting or self._inside >= self._max_requests:
            return None
        # Alone it may come in even if its estimate was too low by the text's length: nothing else will make room.
        if self._inside and self._bytes + self._waiting[0].charged_bytes > self._max_bytes:
            return None
        ticket = self._waiting.popleft()
        self._inside += 1
        self._bytes += ticket.charged_bytes
        return ticket

    def charge(self, ticket: Ticket, size_bytes: int) -> None:
        """Charge one that is inside for what it turned out to hold."""
        self._bytes += size_bytes - ticket.charged_bytes
        ticket.charged_bytes = size_bytes

    def free(self, ticket: Ticket) -> None:
        """One that was inside is gone."""
        self._inside -= 1
        self.charge(ticket, 0)
