"""The deployment that drives jobs through the stages."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from instantid_serve.errors import UnavailableError
from instantid_serve.service import wakeups
from instantid_serve.service.database import ready_database
from instantid_serve.service.dispatcher import Dispatcher as JobDispatcher
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.serving.stages import ServeStages
from instantid_serve.serving.telemetry import LeaseMetrics, StageMetrics, log_as_serve_does
from instantid_serve.settings import Settings

_HEARD_RECENTLY_S = 10.0


class Dispatcher:
    """Claims jobs and drives them through the stages, from the replica's start on, with or without requests."""

    def __init__(
        self,
        args: Mapping[str, Any],
        analyzer: DeploymentHandle,
        generator: DeploymentHandle,
        publisher: DeploymentHandle,
    ) -> None:
        log_as_serve_does()
        settings = Settings.load(dict(args))
        database = ready_database(settings.database)
        self._stages = ServeStages(analyzer, generator, publisher, StageMetrics())
        worker = f"{socket.gethostname()}:{os.getpid()}"
        leases, most_attempts = LeaseMetrics(), settings.dispatcher.max_attempts
        queue = JobQueue(database, max_attempts=most_attempts, reclaimed=leases.reclaimed, refused=leases.refused)
        most = settings.tenancy.max_running_pictures
        self._dispatcher = JobDispatcher(queue, self._stages, settings.dispatcher, worker, tenant_pictures=most)
        # Serve runs constructors on the loop that will run the calls.
        loop = asyncio.get_running_loop()
        self._listener = wakeups.listen(
            database, [wakeups.WORK], lambda *_: loop.call_soon_threadsafe(self._dispatcher.wake)
        )
        self._running = loop.create_task(self._dispatcher.run())

    async def ready(self) -> None:
        """Return when jobs are being dispatched and a warm generator answers. Raises UnavailableError."""
        self.check_health()
        await self._stages.wait_for_generator(recently_s=_HEARD_RECENTLY_S)

    def check_health(self) -> None:
        """Serve replaces the replica after three failures in a row."""
        if self._running.done():
            raise UnavailableError("the dispatcher's loop ended")

    async def __del__(self) -> None:
        """Serve calls this when the replica stops: jobs in flight are finished, or handed back after the drain time."""
        if hasattr(self, "_running"):
            if self._listener:
                await asyncio.to_thread(self._listener.close)
            await self._dispatcher.stop()
            await self._running
