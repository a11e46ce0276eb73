"""The Api deployment's class: wires one replica's parts and hands Serve its ASGI application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.results import open_store
from instantid_serve.service.tenancy import Keyring
from instantid_serve.serving.api.application import build_api
from instantid_serve.serving.api.context import ApiContext
from instantid_serve.serving.api.intake import Intake
from instantid_serve.serving.api.readiness import Readiness, on_own_thread
from instantid_serve.serving.api.schemas import fields_model
from instantid_serve.serving.stages import translated
from instantid_serve.serving.telemetry import log_as_serve_does
from instantid_serve.settings import Settings


class Api:
    """Stateless: any replica answers for any job."""

    def __init__(self, args: Mapping[str, Any], dispatcher: DeploymentHandle) -> None:
        log_as_serve_does()
        settings = Settings.load(dict(args))
        database = open_database(settings.database.url.get_secret_value(), settings.database.busy_timeout_s)
        upgrade(database)
        jobs = Jobs(database, max_attempts=settings.dispatcher.max_attempts)
        decoder = GuardedDecoder(max_bytes=settings.api.max_photo_bytes)
        intake = Intake(settings, jobs, open_store(settings.results), decoder)
        self._dispatcher = dispatcher
        checks = {
            "database": on_own_thread(database.ping),
            "results": on_own_thread(intake.ping),
            "generator": self._ask_dispatcher,
        }
        self._context = ApiContext(
            settings, jobs, Keyring(settings.api.keys), intake, Readiness(checks), fields_model(settings.limits)
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The ASGI application; Serve calls this after the constructor."""
        return build_api(self._context)

    async def _ask_dispatcher(self) -> None:
        with translated():
            await self._dispatcher.ready.remote()
