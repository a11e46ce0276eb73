"""Work that was stopped on purpose, and faults of the service itself."""

from __future__ import annotations

from instantid_serve.errors.root import InstantIDError


class StoppedError(InstantIDError):
    """The work was stopped on purpose."""

    code = "stopped"
    status = 409


class CanceledError(StoppedError):
    """The tenant canceled the job."""

    code = "canceled"


class DeadlineError(StoppedError):
    """The deadline passed before the work was done."""

    code = "deadline_passed"
    status = 504


class ServiceError(InstantIDError):
    """The service is at fault."""

    code = "service_error"


class UnavailableError(ServiceError):
    """A part of the service cannot be reached now; try again later."""

    code = "unavailable"
    status = 503
    retryable = True


class OverloadedError(UnavailableError):
    """There is more work than the service takes on; try again later."""

    code = "overloaded"


class DatabaseError(UnavailableError):
    """The database does not answer."""

    code = "database_unavailable"


class StoreError(UnavailableError):
    """The result store does not answer."""

    code = "store_unavailable"


class EngineStoppedError(UnavailableError):
    """The engine stopped before the request was done."""

    code = "engine_stopped"


class StaleFenceError(ServiceError):
    """Another worker holds the job now; what this one wanted to write was refused."""

    code = "stale_fence"
    status = 409


class AttemptsExhaustedError(ServiceError):
    """The job's worker died too often; it is not tried again."""

    code = "attempts_exhausted"


class NonFiniteOutputError(ServiceError):
    """The model produced NaN or infinity instead of a picture."""

    code = "nan_output"


class GenerationFailedError(ServiceError):
    """The model could not make the picture."""

    code = "generation_failed"


class ConfigurationError(ServiceError):
    """The configuration cannot be served; the message names the key."""

    code = "configuration"


class WeightsError(ServiceError):
    """A weight file is missing, is not the one its manifest names, or cannot be read safely."""

    code = "weights_invalid"
