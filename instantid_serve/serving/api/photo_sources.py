"""Where the photo of a request comes from: exactly one of four, whichever body it came in."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from instantid_serve.errors import InvalidRequestError

PHOTO_FIELD, URL_FIELD, UPLOAD_FIELD, IDENTITY_FIELD = FIELDS = ("image", "image_url", "upload_id", "identity_id")
MAX_URL_CHARS = 2048
MAX_ID_CHARS = 64
_ONE = "give exactly one of image, image_url, upload_id and identity_id"
_DATA_URI = re.compile(r"data:image/(?:jpeg|png|webp);base64,")


@dataclasses.dataclass(frozen=True, slots=True)
class GivenPhoto:
    """A photo that came with the request: its bytes, undecoded."""

    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class PhotoAt:
    """A photo to be fetched. The URL may hold a password."""

    url: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class UploadedPhoto:
    """A photo that was uploaded before."""

    upload_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class IdentityPhotos:
    """All photos of an identity."""

    identity_id: str


PhotoSource = GivenPhoto | PhotoAt | UploadedPhoto | IdentityPhotos


def take_source(values: dict[str, Any], files: Mapping[str, Sequence[bytes]]) -> PhotoSource:
    """Take the photo's fields out of a body's ``values`` (JSON, or a form's texts with its ``files``).

    A photo that came in base64 is decoded. Raises InvalidRequestError that names the fields at fault.
    """
    given = [name for name in FIELDS if values.get(name) is not None or name in files]
    texts = {name: values.pop(name) for name in FIELDS if name in values}
    if len(given) > 1:
        raise _fault(_ONE, *given)
    if not given:
        raise _fault(_ONE, PHOTO_FIELD)
    match given[0]:
        case "image" if "image" in files:
            return GivenPhoto(files["image"][0])
        case "image":
            return GivenPhoto(decode_base64(texts["image"], PHOTO_FIELD))
        case "image_url":
            return PhotoAt(checked_text(texts[URL_FIELD], URL_FIELD, MAX_URL_CHARS))
        case "upload_id":
            return UploadedPhoto(checked_text(texts[UPLOAD_FIELD], UPLOAD_FIELD, MAX_ID_CHARS))
        case _:
            return IdentityPhotos(checked_text(texts[IDENTITY_FIELD], IDENTITY_FIELD, MAX_ID_CHARS))


def fingerprint_of(source: PhotoSource) -> tuple[dict[str, str], tuple[bytes, ...]]:
    """What tells the source from others: fields, and contents, as :func:`..service.idempotency.fingerprint` takes."""
    match source:
        case GivenPhoto(data):
            return {}, (data,)
        case PhotoAt(url):
            return {URL_FIELD: url}, ()
        case UploadedPhoto(upload_id):
            return {UPLOAD_FIELD: upload_id}, ()
        case IdentityPhotos(identity_id):
            return {IDENTITY_FIELD: identity_id}, ()


def decode_base64(text: object, name: str) -> bytes:
    """The bytes of a field in base64, or of a data URI. Raises InvalidRequestError that names the field."""
    if not isinstance(text, str):
        raise _fault("the photo must be given in base64", name)
    prefix = _DATA_URI.match(text)
    try:
        return base64.b64decode(text[prefix.end() if prefix else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise _fault("the photo is not base64", name) from None


def checked_text(text: object, name: str, max_chars: int) -> str:
    """The field's text. Raises InvalidRequestError that names the field."""
    if not isinstance(text, str) or not text or len(text) > max_chars or "\0" in text:
        raise _fault(f"this must be a text of 1 to {max_chars} characters", name)
    return text


def _fault(detail: str, *names: str) -> InvalidRequestError:
    return InvalidRequestError(detail, {"errors": [{"pointer": f"/{name}", "detail": detail} for name in names]})
