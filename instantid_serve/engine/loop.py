"""The engine: one thread owns the device and runs step after step; callers hand in requests and get futures.

Preparing (text, identity, noise) and decoding run on two threads beside it, so a step never waits for either. Callers
are let in while a step runs, so that they are prepared when it ends; all else reaches the device thread as a message.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import typing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from instantid_serve.engine.admission import Admission
from instantid_serve.engine.decoding import Decoder, give_way
from instantid_serve.engine.inbox import Inbox
from instantid_serve.engine.request import Entry, StepReport
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.engine.ticket import HandedOver, OnProgress, Ticket, named
from instantid_serve.errors import (
    CanceledError,
    DeadlineError,
    EngineStoppedError,
    GenerationFailedError,
    InstantIDError,
    InvalidRequestError,
)
from instantid_serve.messages import Checkpoint, Picture, Request

if typing.TYPE_CHECKING:  # not at run time: the loop knows no tensors, and who runs another runner needs no torch
    from instantid_serve.engine.runner import Runner, State

log = logging.getLogger(__name__)


class Engine:
    """Step-level continuous batching over one runner."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        *,
        max_resident_requests: int,
        state_bytes: float = math.inf,
        decode_together: int = 1,
        on_step: Callable[[StepReport], None] | None = None,
        prepare_on: Executor | None = None,
        decode_on: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most ``max_resident_requests``, holding ``state_bytes``, are inside at once; the rest wait their turn.

        ``decode_together``: pictures of one shape that are decoded at once.
        """
        self._runner, self._scheduler = runner, scheduler
        self._admission = Admission(max_resident_requests, state_bytes)
        self._on_step, self._clock = on_step, clock
        self._prepare_on = prepare_on or ThreadPoolExecutor(1, thread_name_prefix="engine-prepare")
        self._decode_on = decode_on or ThreadPoolExecutor(1, thread_name_prefix="engine-decode", initializer=give_way)
        self._decoder = Decoder(runner, self._decode_on, most=decode_together, clock=clock, done=self._decoded)
        self._inbox = Inbox()
        self._tickets: dict[str, Ticket] = {}
        self._closing = self._leaving = False
        self._step_began_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine-device", daemon=True)

    # What callers use, from any thread.

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def submit(
        self, request: Request, on_progress: OnProgress | None = None, checkpoint: Checkpoint | None = None
    ) -> Future[Picture]:
        """Queue a request, or go on with one where another engine took its checkpoint.

        Its future fails with one of our errors, or with HandedOver after :meth:`hand_over`; canceling it cancels the
        request. ``on_progress`` runs on the device thread: it must return at once.
        """
        ticket = Ticket(request, on_progress, self._clock(), checkpoint)
        ticket.future.add_done_callback(lambda future: self._given_up(ticket) if future.cancelled() else None)
        with self._inbox.desk:
            self._take_in(ticket)
        return ticket.future

    def cancel(self, request_id: str) -> None:
        """Drop a request before the next step; its future raises CanceledError. Unknown ids are ignored."""
        error = CanceledError("the request was canceled")
        self._inbox.send(lambda: self._drop(request_id, error))

    def _given_up(self, ticket: Ticket) -> None:
        """Drop the request whose future was canceled; one that was refused must not take its namesake along."""
        error = CanceledError("the request was canceled")
        id_ = ticket.request.id
        self._inbox.send(lambda: self._drop(id_, error) if self._tickets.get(id_) is ticket else None)

    def hand_over(self) -> None:
        """Let go of every request that has steps to run, at the next step boundary: their futures raise HandedOver.

        Pictures whose steps are done are still decoded. What is submitted from now on is handed over as well.
        """
        self._inbox.send(self._leave)

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop after the step that runs now; what is not done fails with EngineStoppedError."""
        self._inbox.send(self._stop)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._prepare_on.shutdown(wait=False, cancel_futures=True)
        self._decode_on.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._thread.is_alive()

    @property
    def charged_bytes(self) -> int:
        """What the requests inside hold, or are estimated to hold once they are prepared."""
        return self._admission.charged_bytes

    def step_age_s(self) -> float:
        """Seconds since the step that runs now began; 0 between steps. Large when the device hangs."""
        began = self._step_began_s
        return 0.0 if began is None else self._clock() - began

    # The device thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self.tick(wait=True)
        except Exception:  # the top of the device thread: the replica's health check sees it end
            log.exception("the device thread failed")
        finally:
            with self._inbox.desk:
                self._stop()
            self._inbox.close()

    def tick(self, *, wait: bool = False) -> bool:
        """Take in messages, then run one step; False when there was nothing to run. The loop's body, for tests."""
        self._inbox.read(wait=wait and not len(self._scheduler))
        with self._inbox.desk:
            for entry in self._scheduler.past_deadline(self._clock()):
                self._drop(entry.id, DeadlineError("the deadline passed"))
        batch = [] if self._closing else self._scheduler.next_batch(self._clock())
        if batch:
            self._step(batch)
        return bool(batch)

    def _take_in(self, ticket: Ticket) -> None:
        if self._closing:
            ticket.settle(EngineStoppedError("the engine is stopping"))
        elif self._leaving:
            ticket.settle(HandedOver(ticket.checkpoint))
        elif ticket.request.id in self._tickets:
            ticket.settle(GenerationFailedError(f"request {ticket.request.id} is already here"))
        elif not self._admission.could_ever_fit(charge := self._runner.estimated_bytes(ticket.request)):
            ticket.settle(InvalidRequestError("the picture is too large for this engine", {"bytes": charge}))
        else:
            ticket.charged_bytes = charge
            self._tickets[ticket.request.id] = ticket
            self._admission.wait(ticket)
            self._admit()

    def _admit(self) -> None:
        while not self._closing and (ticket := self._admission.admit()):
            self._prepare_on.submit(self._prepare, ticket)

    def _prepare(self, ticket: Ticket) -> None:
        """Runs on the prepare thread; hands the result back through the inbox."""
        began_s = self._clock()
        try:
            state = self._runner.prepare(ticket.request, ticket.checkpoint)
        except Exception as error:  # noqa: BLE001 - whatever a request's preparation raises is that request's
            failure = named(error)
            self._inbox.send(lambda: self._retire(ticket, failure))
            return
        ticket.prepare_s = self._clock() - began_s
        self._inbox.send(lambda: self._join(ticket, state))

    def _join(self, ticket: Ticket, state: State) -> None:
        request = ticket.request
        self._admission.charge(ticket, state.nbytes)
        self._admit()  # it may hold less than was estimated
        if self._tickets.get(request.id) is not ticket:  # canceled while it was prepared
            self._free_place(ticket)
        elif self._leaving:
            self._retire(ticket, HandedOver(ticket.checkpoint))
        else:
            ticket.state = state
            self._scheduler.add(Entry(request, state.key, state.steps, ticket.submitted_s, state.step))

    def _leave(self) -> None:
        self._leaving = True
        for ticket in list(self._tickets.values()):
            if self._admission.leave(ticket):
                self._settle(ticket, HandedOver(ticket.checkpoint))
            elif ticket.state is not None and self._scheduler.remove(ticket.request.id):
                checkpoint = ticket.counted(self._runner.checkpoint(ticket.state), self._clock())
                self._retire(ticket, HandedOver(checkpoint if checkpoint.step else None))

    def _step(self, batch: list[Entry]) -> None:
        began_s = self._step_began_s = self._clock()
        failed = self._run_isolated(batch)
        now_s = self._clock()
        self._step_began_s = None
        self._scheduler.ran(batch, now_s - began_s, self._runner.timings())
        rows = sum(entry.rows for entry in batch)
        for entry in batch:
            if entry.id in failed:
                with self._inbox.desk:
                    self._drop(entry.id, failed[entry.id])
            else:
                self._moved(entry, rows, began_s)
        self._report(StepReport(batch[0].key, len(batch), rows, now_s - began_s))

    def _report(self, report: StepReport) -> None:
        if self._on_step is None:
            return
        try:
            self._on_step(report)
        except Exception:  # whoever only counts steps must not end the device thread
            log.warning("the step report was not taken", exc_info=True)

    def _run_isolated(self, batch: list[Entry]) -> dict[str, InstantIDError]:
        """Run the batch; when its forward pass fails, run each request alone, so that only the culprits fail."""
        states = [state for entry in batch if (state := self._tickets[entry.id].state)]
        try:
            return {id_: named(error) for id_, error in self._runner.step(states).items()}
        except Exception as error:  # the top of the device thread: a failed batch must not end it
            if len(batch) == 1:  # its ticket writes a line about it
                return {batch[0].id: named(error)}
            log.warning("a step failed", exc_info=True, extra={"requests": [entry.id for entry in batch]})
        return {id_: error for entry in batch for id_, error in self._run_isolated([entry]).items()}

    def _moved(self, entry: Entry, rows: int, began_s: float) -> None:
        ticket = self._tickets[entry.id]
        ticket.moved(entry, rows, began_s)
        if entry.remaining == 0 and ticket.state:
            self._scheduler.remove(entry.id)
            self._decoder.put(ticket, ticket.state)

    def _decoded(self, ticket: Ticket, outcome: Picture | InstantIDError) -> None:
        """Runs on the decode thread: the caller has the picture at once, the place is free before the next step."""
        ticket.settle(outcome)
        self._inbox.send(lambda: self._retire(ticket, outcome))

    def _drop(self, request_id: str, error: InstantIDError) -> None:
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        if self._scheduler.remove(request_id):
            self._free_place(ticket)
        else:
            self._admission.leave(ticket)
        self._settle(ticket, error)

    def _retire(self, ticket: Ticket, outcome: Picture | InstantIDError | HandedOver) -> None:
        """End a request that left another thread: only now is its place free, so finished ones cannot pile up."""
        self._free_place(ticket)
        self._settle(ticket, outcome)

    def _settle(self, ticket: Ticket, outcome: Picture | InstantIDError | HandedOver) -> None:
        if self._tickets.get(ticket.request.id) is not ticket:
            return
        del self._tickets[ticket.request.id]
        ticket.settle(outcome)

    def _free_place(self, ticket: Ticket) -> None:
        self._admission.free(ticket)
        self._admit()

    def _stop(self) -> None:
        self._closing = True
        for request_id in list(self._tickets):
            self._drop(request_id, EngineStoppedError("the engine stopped"))
