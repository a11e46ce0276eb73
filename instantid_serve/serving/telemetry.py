"""What replicas report: metrics through Ray's exporter, and log lines in the replica's own log.

A replica has no port of its own, so its numbers leave through the node's metrics agent (one scrape target per node).
What is true of the whole service (jobs by status, queue depth) comes from SQL instead, in :mod:`.api.operations`.
No metric carries a tenant, a prompt or a size: their number has no bound.
"""

from __future__ import annotations

import logging
import threading

from ray import serve
from ray.serve import metrics
from ray.serve.exceptions import RayServeException

from instantid_serve.engine.request import StepReport
from instantid_serve.serving.serve_log import ServeLog

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160]
_ROWS = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64]


class EngineMetrics:
    """The steps of one engine."""

    def __init__(self) -> None:
        self._seconds = metrics.Histogram(
            "instantid_engine_step_seconds", "Seconds one denoising step took.", boundaries=_SECONDS
        )
        self._rows = metrics.Histogram(
            "instantid_engine_step_rows", "UNet rows that shared one denoising step.", boundaries=_ROWS
        )

    def stepped(self, report: StepReport) -> None:
        """Count a step; called on the device thread, a few microseconds each."""
        self._seconds.observe(report.seconds)
        self._rows.observe(report.rows)


class StageMetrics:
    """What the dispatcher's calls to the stages came to."""

    def __init__(self) -> None:
        self._seconds = metrics.Histogram(
            "instantid_stage_seconds", "Seconds a stage took, as its caller saw it.", _SECONDS, tag_keys=("stage",)
        )
        self._outcomes = metrics.Counter(
            "instantid_stage_calls", "Calls of a stage by how they ended: ok, or an error code.", ("stage", "code")
        )

        self._moves = metrics.Counter(
            "instantid_generation_moves", "Times a picture went on in another generator because its own was stopped."
        )

    def moved(self) -> None:
        """Count a picture that left its generator between two steps."""
        self._moves.inc(1)

    def ran(self, stage: str, code: str, seconds: float) -> None:
        """Count one call of ``stage`` that ended with ``code`` (an error's, or ok)."""
        self._seconds.observe(seconds, tags={"stage": stage})
        self._outcomes.inc(1, tags={"stage": stage, "code": code})


class LeaseMetrics:
    """What became of jobs whose workers fell silent."""

    def __init__(self) -> None:
        self._reclaims = metrics.Counter(
            "instantid_lease_reclaims", "Jobs taken back from workers whose leases ran out."
        )
        self._rejections = metrics.Counter(
            "instantid_stale_commits_rejected", "Ends of jobs that were refused because another worker held the job."
        )

    def reclaimed(self, jobs: int) -> None:
        """Count jobs that were taken back."""
        self._reclaims.inc(jobs)

    def refused(self) -> None:
        """Count one end that came too late."""
        self._rejections.inc(1)


class WebhookMetrics:
    """What the attempts to deliver webhooks came to."""

    def __init__(self) -> None:
        self._outcomes = metrics.Counter(
            "instantid_webhook_deliveries",
            "Attempts to deliver a webhook by outcome: delivered, retried, failed, disabled or stale.",
            ("outcome",),
        )

    def settled(self, outcome: str) -> None:
        """Count one attempt."""
        self._outcomes.inc(1, tags={"outcome": outcome})


def log_as_serve_does() -> None:
    """Send what this process logs to the replica's log, in the encoding the config file's logging_config names.

    That is all of it: the lines of this package, of Ray and of libraries, warnings, and threads that die. Outside of a
    replica, as in tests, nothing changes.
    """
    try:
        replica = serve.get_replica_context()
    except RayServeException:
        return
    log = ServeLog(logging.getLogger("ray.serve"), replica.deployment, replica.replica_id.unique_id)
    for name in ("", "ray", "instantid_serve"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [log], False
    logging.getLogger("instantid_serve").setLevel(logging.getLogger("ray.serve").level)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # a line that cannot be written would be printed to stderr with its arguments
    threading.excepthook = _thread_died


def _thread_died(death: threading.ExceptHookArgs) -> None:
    """Instead of a traceback on stderr, which shows messages of errors that are not ours."""
    if death.exc_value is not None:
        logging.getLogger("instantid_serve").error("a thread died", exc_info=death.exc_value)
