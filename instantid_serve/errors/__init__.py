"""Every error the service names: a stable code, an HTTP status, and whether trying again can help.

InstantIDError
├── CallerError                  the request is at fault; trying again unchanged cannot help
│   ├── InvalidRequestError      invalid_request           422
│   │   ├── UnknownModelError    unknown_model             422
│   │   └── ConsentError         consent_required          422
│   ├── MalformedBodyError       malformed_body            400
│   ├── UnauthorizedError        unauthorized              401
│   ├── ForbiddenError           forbidden                 403
│   │   └── SuspendedError       tenant_suspended          403
│   ├── NotFoundError            not_found                 404
│   ├── ConflictError            conflict                  409
│   │   └── SecretShownError     secret_shown_once         409
│   ├── BodyTooLargeError        body_too_large            413
│   ├── MediaTypeError           unsupported_media_type    415
│   ├── IdempotencyMismatchError idempotency_key_reused    422
│   ├── UploadMissingError       upload_missing            422
│   ├── UrlBlockedError          url_blocked               422
│   ├── UrlFetchError            url_unreachable           422
│   ├── UrlTooLargeError         url_too_large             413
│   ├── ImageError               image_*                   422
│   └── FaceError                face_*                    422
├── LimitError                   the tenant's limits, and later it can succeed
│   ├── RateLimitedError         rate_limited              429   retryable
│   ├── QueueFullError           queue_full                429   retryable
│   └── QuotaExceededError       quota_exceeded            429   retryable
├── StoppedError                 the work was stopped on purpose
│   ├── CanceledError            canceled                  409
│   └── DeadlineError            deadline_passed           504
└── ServiceError                 the service is at fault
    ├── UnavailableError         unavailable               503   retryable
    │   ├── OverloadedError      overloaded                503   retryable
    │   ├── DatabaseError        database_unavailable      503   retryable
    │   ├── StoreError           store_unavailable         503   retryable
    │   └── EngineStoppedError   engine_stopped            503   retryable
    ├── StaleFenceError          stale_fence               409
    ├── AttemptsExhaustedError   attempts_exhausted        500
    ├── NonFiniteOutputError     nan_output                500
    ├── GenerationFailedError    generation_failed         500
    ├── ConfigurationError       configuration             500
    └── WeightsError             weights_invalid           500

Ray pickles these: no subclass has a constructor. ``raise FaceNotFoundError("no face", {"advice": "…"})``.
"""

from instantid_serve.errors.caller import (
    BodyTooLargeError,
    CallerError,
    ConflictError,
    ConsentError,
    ForbiddenError,
    IdempotencyMismatchError,
    InvalidRequestError,
    MalformedBodyError,
    MediaTypeError,
    NotFoundError,
    SecretShownError,
    SuspendedError,
    UnauthorizedError,
    UnknownModelError,
    UploadMissingError,
    UrlBlockedError,
    UrlFetchError,
    UrlTooLargeError,
)
from instantid_serve.errors.limits import (
    LimitError,
    QueueFullError,
    QuotaExceededError,
    RateLimitedError,
)
from instantid_serve.errors.photo import (
    FaceError,
    FaceIndexError,
    FaceNotFoundError,
    FaceTooSmallError,
    ImageAnimatedError,
    ImageCorruptError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    ImageTooManyPixelsError,
    ImageTooSmallError,
    MultipleFacesError,
    PhotoGoneError,
)
from instantid_serve.errors.root import (
    InstantIDError,
)
from instantid_serve.errors.service import (
    AttemptsExhaustedError,
    CanceledError,
    ConfigurationError,
    DatabaseError,
    DeadlineError,
    EngineStoppedError,
    GenerationFailedError,
    NonFiniteOutputError,
    OverloadedError,
    ServiceError,
    StaleFenceError,
    StoppedError,
    StoreError,
    UnavailableError,
    WeightsError,
)

__all__ = [
    "AttemptsExhaustedError",
    "BodyTooLargeError",
    "CallerError",
    "CanceledError",
    "ConfigurationError",
    "ConflictError",
    "ConsentError",
    "DatabaseError",
    "DeadlineError",
    "EngineStoppedError",
    "FaceError",
    "FaceIndexError",
    "FaceNotFoundError",
    "FaceTooSmallError",
    "ForbiddenError",
    "GenerationFailedError",
    "IdempotencyMismatchError",
    "ImageAnimatedError",
    "ImageCorruptError",
    "ImageError",
    "ImageFormatError",
    "ImageTooLargeError",
    "ImageTooManyPixelsError",
    "ImageTooSmallError",
    "InstantIDError",
    "InvalidRequestError",
    "LimitError",
    "MalformedBodyError",
    "MediaTypeError",
    "MultipleFacesError",
    "NonFiniteOutputError",
    "NotFoundError",
    "OverloadedError",
    "PhotoGoneError",
    "QueueFullError",
    "QuotaExceededError",
    "RateLimitedError",
    "SecretShownError",
    "ServiceError",
    "StaleFenceError",
    "StoppedError",
    "StoreError",
    "SuspendedError",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownModelError",
    "UploadMissingError",
    "UrlBlockedError",
    "UrlFetchError",
    "UrlTooLargeError",
    "WeightsError",
]
