"""The Api deployment's class: wires one replica's parts and hands Serve its ASGI application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.database import ready_database
from instantid_serve.service.results import open_store
from instantid_serve.serving.api.application import build_api
from instantid_serve.serving.api.context import open_context
from instantid_serve.serving.api.readiness import Readiness, on_own_thread
from instantid_serve.serving.stages import translated
from instantid_serve.serving.telemetry import log_as_serve_does
from instantid_serve.settings import Settings


class Api:
    """Stateless: any replica answers for any job."""

    def __init__(self, args: Mapping[str, Any], dispatcher: DeploymentHandle, _housekeeper: DeploymentHandle) -> None:
        # The housekeeper is never called: an application is what hangs together, and so it is started.
        log_as_serve_does()
        settings = Settings.load(dict(args))
        database = ready_database(settings.database)
        store = open_store(settings.results)
        self._dispatcher = dispatcher
        checks = {
            "database": on_own_thread(database.ping),
            "results": on_own_thread(store.ping),
            "generator": self._ask_dispatcher,
        }
        decoder = GuardedDecoder(max_bytes=settings.api.max_photo_bytes)
        self._context = open_context(settings, database, store, decoder, Readiness(checks))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The ASGI application; Serve calls this after the constructor."""
        return build_api(self._context)

    async def _ask_dispatcher(self) -> None:
        with translated():
            await self._dispatcher.ready.remote()
