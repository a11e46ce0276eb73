"""Every error the service names: a stable code, an HTTP status, and whether trying again can help.

InstantIDError
├── CallerError                 the request is at fault; trying again unchanged cannot help
│   ├── InvalidRequestError     invalid_request           422
│   │   └── UnknownModelError   unknown_model             422
│   ├── MalformedBodyError      malformed_body            400
│   ├── UnauthorizedError       unauthorized              401
│   ├── ForbiddenError          forbidden                 403
│   ├── NotFoundError           not_found                 404
│   ├── ConflictError           conflict                  409
│   ├── BodyTooLargeError       body_too_large            413
│   ├── MediaTypeError          unsupported_media_type    415
│   ├── ImageError              image_*                   422
│   └── FaceError               face_*                    422
├── StoppedError                the work was stopped on purpose
│   ├── CanceledError           canceled                  409
│   └── DeadlineError           deadline_passed           504
└── ServiceError                the service is at fault
    ├── UnavailableError        unavailable               503   retryable
    │   ├── OverloadedError     overloaded                503   retryable
    │   ├── DatabaseError       database_unavailable      503   retryable
    │   ├── StoreError          store_unavailable         503   retryable
    │   └── EngineStoppedError  engine_stopped            503   retryable
    ├── StaleFenceError         stale_fence               409
    ├── AttemptsExhaustedError  attempts_exhausted        500
    ├── NonFiniteOutputError    nan_output                500
    ├── GenerationFailedError   generation_failed         500
    ├── ConfigurationError      configuration             500
    └── WeightsError            weights_invalid           500

Ray pickles these: no subclass has a constructor. ``raise FaceNotFoundError("no face", {"advice": "…"})``.
"""

from __future__ import annotations

from typing import Any, ClassVar


class InstantIDError(Exception):
    """The root. Called with a sentence for the caller and, optionally, a dict of JSON facts about the case."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def detail(self) -> str:
        """The sentence for the caller."""
        return str(self.args[0]) if self.args else self.code

    @property
    def facts(self) -> dict[str, Any]:
        """JSON facts about the case, for example the boxes of the faces found."""
        return dict(self.args[1]) if len(self.args) > 1 else {}

    def to_json(self) -> dict[str, Any]:
        """What a job's row keeps of the error, and what a problem answer is made of."""
        return {name: getattr(self, name) for name in ("code", "status", "retryable", "detail", "facts")}

    def __str__(self) -> str:
        return self.detail


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


class ImageError(CallerError):
    """The photo cannot be used."""

    code = "image_invalid"
    status = 422


class ImageCorruptError(ImageError):
    """The photo's bytes do not decode."""

    code = "image_corrupt"


class ImageFormatError(ImageError):
    """The photo is not a JPEG, PNG or WebP."""

    code = "image_unsupported_format"


class ImageTooLargeError(ImageError):
    """The photo has too many bytes."""

    code = "image_too_large"
    status = 413


class ImageTooManyPixelsError(ImageError):
    """The photo has too many pixels, or too long a side."""

    code = "image_too_many_pixels"


class ImageTooSmallError(ImageError):
    """The photo has too short a side."""

    code = "image_too_small"


class ImageAnimatedError(ImageError):
    """The photo has more than one frame."""

    code = "image_animated"


class FaceError(CallerError):
    """The photo decodes, but its faces cannot be used."""

    code = "face_invalid"
    status = 422


class FaceNotFoundError(FaceError):
    """There is no face in the photo."""

    code = "face_not_found"


class FaceTooSmallError(FaceError):
    """The chosen face is too small to carry an identity."""

    code = "face_too_small"


class MultipleFacesError(FaceError):
    """There are several faces and none was chosen."""

    code = "multiple_faces"


class FaceIndexError(FaceError):
    """The chosen face index is not among the faces found."""

    code = "face_index_out_of_range"


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
