"""Finished latents become pictures on a thread of their own, those of one shape together."""

from __future__ import annotations

import os
import sys
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

_NICER = 10  # on Linux priorities are a thread's; about a tenth of the time that an equal would get
OnDone = Callable[[Ticket, Picture | InstantIDError], None]


def give_way() -> None:
    """Let steps and newcomers have the processor before this thread: a decode delays one picture, a step all."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + _NICER)


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
            outcomes = self._decoded(group)
        except Exception as error:  # noqa: BLE001 - whatever decoding raises is that request's
            if len(group) > 1:
                self._apart(group)
                return
            outcomes = [named(error)]
        for (ticket, _, _), outcome in zip(group, outcomes, strict=True):
            self._done(ticket, outcome)

    def _decoded(self, group: list[tuple[Ticket, State, float]]) -> list[Picture | InstantIDError]:
        precision = self._runner.precision
        pixels = self._runner.finish([state for _, state, _ in group])
        decoded_s = self._clock()
        return [
            out
            if isinstance(out, InstantIDError)
            else Picture(out, ticket.stats(steps=state.steps, denoised_s=done_s, decoded_s=decoded_s), precision)
            for (ticket, state, done_s), out in zip(group, pixels, strict=True)
        ]

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
