"""Errors of a request: it is at fault, and trying again unchanged cannot help."""

from __future__ import annotations

from instantid_serve.errors.root import InstantIDError


class CallerError(InstantIDError):
    """The request is at fault; trying again unchanged cannot help."""

    code = "caller_error"
    status = 400


class InvalidRequestError(CallerError):
    """A parameter is missing, unknown, or out of its range."""

    code = "invalid_request"
    status = 422


class UnknownModelError(InvalidRequestError):
    """No model of that name is served here."""

    code = "unknown_model"


class MalformedBodyError(CallerError):
    """The body is not the JSON or the form it says it is."""

    code = "malformed_body"


class UnauthorizedError(CallerError):
    """There is no API key, or it is not a valid one."""

    code = "unauthorized"
    status = 401


class ForbiddenError(CallerError):
    """The API key may not do this."""

    code = "forbidden"
    status = 403


class NotFoundError(CallerError):
    """There is no such thing, or it is another tenant's."""

    code = "not_found"
    status = 404


class ConflictError(CallerError):
    """The thing's state forbids this."""

    code = "conflict"
    status = 409


class BodyTooLargeError(CallerError):
    """The body is larger than the service reads."""

    code = "body_too_large"
    status = 413


class MediaTypeError(CallerError):
    """The body is of a media type the service does not read."""

    code = "unsupported_media_type"
    status = 415


class ConsentError(InvalidRequestError):
    """The pictured person's consent is not recorded."""

    code = "consent_required"


class IdempotencyMismatchError(CallerError):
    """The idempotency key stands for another request."""

    code = "idempotency_key_reused"
    status = 422


class SuspendedError(ForbiddenError):
    """The tenant is suspended."""

    code = "tenant_suspended"


class UploadMissingError(CallerError):
    """There is no such upload, or nothing was uploaded to it yet."""

    code = "upload_missing"
    status = 422


class UrlBlockedError(CallerError):
    """The service does not fetch from, or send to, that address."""

    code = "url_blocked"
    status = 422


class UrlFetchError(CallerError):
    """Nothing usable could be fetched from that address."""

    code = "url_unreachable"
    status = 422


class UrlTooLargeError(CallerError):
    """What lies at that address is larger than the service reads."""

    code = "url_too_large"
    status = 413


class SecretShownError(ConflictError):
    """The idempotency key made a secret before; it was shown then and cannot be shown again."""

    code = "secret_shown_once"
