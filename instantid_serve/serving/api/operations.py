"""Routes for operators and for those who want to know what is served: health, readiness, metrics, models."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from instantid_serve import samplers
from instantid_serve.errors import UnavailableError
from instantid_serve.service.delivery_queue import DeliveryQueue
from instantid_serve.service.job import JobStatus
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.serving.api.callers import AnyCaller
from instantid_serve.serving.api.context import Context

router = APIRouter()
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_LICENCES = {
    "miniature": ["Apache-2.0: made by this package; it draws no people"],
    "instantid-sdxl": [
        "base: CreativeML Open RAIL++-M",
        "IdentityNet and identity adapter: Apache-2.0, for research by their authors' model card",
        "antelopev2 face analysis: non-commercial research only",
    ],
}


@router.get("/healthz", tags=["operations"])
async def healthz() -> dict[str, str]:
    """Whether this process answers at all. It says nothing of what is behind it."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operations"], responses={503: {"description": "Not ready; `faults` says what is not."}})
async def readyz(context: Context) -> dict[str, str]:
    """Whether a generation would be served now: database, result store, and a generator that made a picture."""
    faults = await context.readiness.faults()
    if faults:
        raise UnavailableError(f"not ready: {', '.join(sorted(faults))}", {"faults": faults})
    return {"status": "ready"}


@router.get("/metrics", tags=["operations"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus: what is true of all jobs, from the database, and this replica's own requests."""
    registry: CollectorRegistry = request.app.state.registry
    text = await asyncio.to_thread(generate_latest, registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


@router.get("/v1/models", tags=["models"])
async def models(_caller: AnyCaller, context: Context) -> dict[str, Any]:
    """What is served here, within which limits."""
    preset = context.settings.model.preset
    entry = {
        "id": preset,
        "object": "model",
        "default": True,
        "samplers": sorted(samplers.SHORT_NAMES) + sorted(samplers.CLASS_NAMES),
        "limits": context.settings.limits.model_dump() | {"max_photo_bytes": context.settings.api.max_photo_bytes},
        "licences": _LICENCES[preset],
    }
    return {"object": "list", "data": [entry]}


def request_seconds(registry: CollectorRegistry) -> Histogram:
    """The duration of HTTP requests, by route (never by path: that has no bound)."""
    return Histogram(
        "instantid_http_request_duration_seconds",
        "Seconds an HTTP request took in this API replica.",
        ("method", "route", "status"),
        buckets=_BUCKETS,
        registry=registry,
    )


class JobsCollector(Collector):
    """Asks the jobs table at every scrape, so that each replica tells the same truth."""

    def __init__(self, queue: JobQueue, deliveries: DeliveryQueue) -> None:
        self._queue = queue
        self._deliveries = deliveries

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering must not ask the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Jobs by status, the queue's length and age, and the build."""
        build = GaugeMetricFamily("instantid_build_info", "Always 1; the labels tell.", labels=["version"])
        build.add_metric([importlib.metadata.version("instantid-serve")], 1)
        yield build
        up = GaugeMetricFamily("instantid_database_up", "Whether the jobs table answered this scrape.")
        try:
            found = list(self._from_database())
        except UnavailableError:
            found = []
        up.add_metric([], float(bool(found)))
        yield up
        yield from found

    def _from_database(self) -> Iterator[Metric]:
        counts = self._queue.counts()
        by_status = GaugeMetricFamily("instantid_jobs", "Jobs in the database by status.", labels=["status"])
        for status, count in counts.items():
            by_status.add_metric([status.value], count)
        yield by_status
        depth = counts.get(JobStatus.QUEUED, 0)
        yield GaugeMetricFamily("instantid_queue_depth", "Jobs that wait for a worker.", value=depth)
        yield GaugeMetricFamily(
            "instantid_queue_oldest_age_seconds",
            "Seconds the oldest waiting job has waited.",
            value=self._queue.oldest_queued_age_s(),
        )
        yield GaugeMetricFamily(
            "instantid_webhook_oldest_pending_seconds",
            "Seconds for which the webhook that is most overdue has been due.",
            value=self._deliveries.oldest_due_age_s(),
        )
