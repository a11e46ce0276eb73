"""The deployment that owns a device and denoises."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instantid_serve import sizing
from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import StepReport, stand_in
from instantid_serve.engine.ticket import HandedOver
from instantid_serve.errors import EngineStoppedError, OverloadedError
from instantid_serve.log_context import Fields, logged
from instantid_serve.messages import Checkpoint, Picture, Progress, Request
from instantid_serve.service.generation import Finished, Interrupted
from instantid_serve.serving.model_folder import made_with, provide
from instantid_serve.serving.stop_notice import when_stopped
from instantid_serve.serving.telemetry import EngineMetrics, log_as_serve_does
from instantid_serve.settings import Settings


class Generator:
    """Owns a device: one engine over one loaded model. It takes calls only after a real warm-up picture."""

    # As often as the dispatcher writes it down. A message costs this process and the dispatcher a millisecond each, and
    # while this one sends it, the device thread waits for the interpreter.
    progress_every_s = 0.5

    def __init__(self, args: Mapping[str, Any]) -> None:
        log_as_serve_does()
        settings = Settings.load(dict(args))
        self._stuck_step_s = settings.engine.stuck_step_s
        self._engine = self._opened(settings, EngineMetrics().stepped)
        self._made_with = self._provenance(settings)
        self._engine.start()
        side, _ = sizing.default_size((1, 1), settings.limits.native_side)
        self._engine.submit(stand_in("warm-up", side, side, steps=2)).result(settings.engine.warm_up_timeout_s)
        self._closed = threading.Event()
        when_stopped(self._engine.hand_over, self._closed)

    def _opened(self, settings: Settings, on_step: Callable[[StepReport], None]) -> Engine:
        """The engine over the model that the settings name."""
        provide(settings.model)
        # Here, because whoever builds the application imports this class, and torch and diffusers are ten seconds.
        from instantid_serve.serving.replicas.engine import open_engine  # noqa: PLC0415

        return open_engine(settings, on_step)

    def _provenance(self, settings: Settings) -> dict[str, Any]:
        """What its pictures are made with."""
        return made_with(settings)

    async def ping(self) -> None:
        """Answer: this replica is warm."""

    async def generate(
        self,
        request: Request,
        checkpoint: Checkpoint | None = None,
        left_s: float | None = None,
        about: Fields | None = None,
    ) -> AsyncGenerator[Progress | Finished | NDArray[np.uint8] | Interrupted]:
        """Denoise one picture: now and then a Progress, then Finished without pixels, then the (H, W, 3) uint8 pixels.

        It goes on from ``checkpoint``, if there is one. ``left_s``: seconds until its deadline, if it has one.
        When this replica is being stopped, the last message is Interrupted instead, at once: another replica goes on
        from there.

        The pixels are a message of their own so that the caller owns them, without having to read them: what this
        replica put into the object store itself would be gone when it is stopped before the publisher comes.
        When the caller closes the stream, the request leaves the engine before its next step. Ray does not tell when
        the caller's process dies: that request runs to its end, and nobody takes the picture.
        ``about``: the caller's :func:`logged_fields`.
        """
        if not self._engine.alive:  # the health check ends this replica; until then it must not use up a job's attempts
            raise OverloadedError("this generator is being replaced")
        request = _own(request, left_s)
        inbox = _Inbox(self.progress_every_s)
        try:
            with logged(**(about or {})), logged(request_id=request.id):  # the engine's threads take it over
                future = self._engine.submit(request, inbox.progressed, checkpoint)
            future.add_done_callback(inbox.done)
            while (progress := await inbox.next()) is not None:
                yield progress
            try:
                picture = future.result()
            except HandedOver as handed_over:
                yield Interrupted(handed_over.checkpoint)
            else:
                yield Finished(None, picture.stats, picture.precision, self._made_with)
                yield picture.pixels
        finally:
            self._engine.cancel(request.id)

    def check_health(self) -> None:
        """Serve replaces the replica after three failures in a row."""
        if not self._engine.alive:
            raise EngineStoppedError("the engine's thread ended")
        if self._engine.step_age_s() > self._stuck_step_s:
            raise EngineStoppedError("the engine's step hangs")

    def __del__(self) -> None:
        """Serve calls this when the replica stops, after its calls ended or its grace is over."""
        if closed := getattr(self, "_closed", None):
            closed.set()
        if engine := getattr(self, "_engine", None):
            engine.close()


def _own(request: Request, left_s: float | None) -> Request:
    """The request for this call alone, its deadline on this process's clock.

    A job tried again may come back while its first try is still in the engine, so its id gets a suffix; and Ray's
    arrays are read-only views of a message, which torch warns of.
    """
    return dataclasses.replace(
        request,
        id=f"{request.id}.{uuid.uuid4().hex[:8]}",
        embedding=request.embedding.copy(),
        landmarks=request.landmarks.copy(),
        deadline_s=None if left_s is None else time.monotonic() + left_s,
    )


class _Inbox:
    """The news of one request, from the engine's threads to the event loop; progress only now and then."""

    def __init__(self, progress_every_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._every_s = progress_every_s
        self._told_s = -float("inf")
        self._progress: Progress | None = None
        self._done = False

    def progressed(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < self._every_s:
            return  # here, because waking the loop costs the device thread more than the step's bookkeeping
        self._told_s, self._progress = now_s, progress
        self._loop.call_soon_threadsafe(self._news.set)

    def done(self, _future: Future[Picture]) -> None:
        self._done = True
        self._loop.call_soon_threadsafe(self._news.set)

    async def next(self) -> Progress | None:
        """The newest progress once there is some; None when the request is over."""
        await self._news.wait()
        self._news.clear()
        return None if self._done else self._progress
