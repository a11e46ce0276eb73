"""Finished latents become pictures on a thread of their own, those of one shape together."""

from __future__ import annotations

import threading
import typing
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from instantid_serve.engine.ticket import Ticket, named
from instantid_serve.errors import InstantIDError
from instantid_serve.messages import Picture

if typing.TYPE_CHECKING:
    from instantid_serve.engine.runner import Runner, State

OnDone = Callable[[Ticket, Picture | InstantIDError], None]


class Decoder:
    """Decodes what it is handed, in order, and tells ``done`` from its own thread."""

    def __init__(
        self, runner: Runner, executor: Executor, *, most: int, clock: Callable[[], float], done: OnDone
    ) -> None:
        """At most ``most`` pictures are decoded together. ``executor`` must have one thread."""
        self._runner, self._executor, self._most = runner, executor, most
        self._clock, self._done = clock, done
        self._queue: deque[tuple[Ticket, State, float]] = deque()
        self._lock = threading.Lock()

    def put(self, ticket: Ticket, state: State) -> None:
        """Decode a request whose last step is done; returns at once."""
        with self._lock:
            self._queue.append((ticket, state, self._clock()))
        self._executor.submit(self._decode_next)

    def _decode_next(self) -> None:
        group = self._take()
        if not group:
            return  # an earlier call took these along
        try:
            outcomes = self._runner.finish([state for _, state, _ in group])
        except Exception as error:  # noqa: BLE001 - whatever decoding raises is that request's
            if len(group) > 1:
                self._apart(group)
                return
            self._done(group[0][0], named(error))
            return
        for (ticket, state, done_s), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, InstantIDError):
                self._done(ticket, outcome)
                continue
            stats = ticket.stats(steps=state.steps, denoised_s=done_s, decoded_s=self._clock())
            self._done(ticket, Picture(outcome, stats, self._runner.precision))

    def _take(self) -> list[tuple[Ticket, State, float]]:
        """The next one, and others of its shape; one of the fixed-bucket tier comes alone, for its bits' sake."""
        with self._lock:
            if not self._queue:
                return []
            key = self._queue[0][1].key
            most = 1 if key.exact_rows else self._most
            group = [item for item in self._queue if item[1].key == key][:most]
            for item in group:
                self._queue.remove(item)
            return group

    def _apart(self, group: list[tuple[Ticket, State, float]]) -> None:
        """Decode each alone, so that only the culprits fail."""
        most, self._most = self._most, 1
        with self._lock:
            self._queue.extendleft(reversed(group))
        for _ in group:
            self._decode_next()
        self._most = most
