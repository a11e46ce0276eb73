"""An identity as callers register it, and as they see it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from instantid_serve.errors import ConsentError, InvalidRequestError, MalformedBodyError
from instantid_serve.service.identities import Identity
from instantid_serve.serving.api.bodies import FORM_TYPE, JSON_TYPE, Body, parse_json
from instantid_serve.serving.api.job_fields import Metadata, no_nul
from instantid_serve.serving.api.job_views import time_of
from instantid_serve.serving.api.photo_sources import (
    MAX_ID_CHARS,
    MAX_URL_CHARS,
    GivenPhoto,
    PhotoAt,
    PhotoSource,
    UploadedPhoto,
    checked_text,
    decode_base64,
)

MAX_PHOTOS = 8
PHOTOS_FIELD, URLS_FIELD, UPLOADS_FIELD = "images", "image_urls", "upload_ids"
_JSON_FIELDS = ("consent", "metadata", "retention_s")  # in a form
_CONSENT = "consent must say that the pictured person gave it, and to what: a statement, or the version of one"

_Text = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(no_nul)]
_Name = Annotated[str, StringConstraints(max_length=200), AfterValidator(no_nul)]


class ConsentFields(BaseModel):
    """That the pictured person agreed, and to what: the words, or the version of words kept elsewhere."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    given: Annotated[bool, Field(json_schema_extra={"const": True})]
    statement: _Text | None = None
    version: _Name | None = None
    reference: Annotated[_Name | None, Field(description="Where the proof is, in your own records.")] = None


class IdentityFields(BaseModel):
    """What is said of an identity, beside its photos and the consent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    label: _Name = ""
    metadata: Metadata = Field(default_factory=dict)
    retention_s: Annotated[float, Field(ge=60)] | None = Field(
        None, description="Seconds after which the identity is gone; it can only shorten the server's own time."
    )


class ConsentOut(BaseModel):
    """The consent as it was told, and when."""

    given: Literal[True]
    statement: str | None
    version: str | None
    reference: str | None
    recorded_at: dt.datetime


class IdentityPhotoOut(BaseModel):
    """The size of one photo, upright, in pixels. The photo itself does not leave the service again."""

    width: int
    height: int


class IdentityOut(BaseModel):
    """A registered identity. At ``expires_at`` it is gone with its photos."""

    id: str
    object: Literal["identity"] = "identity"
    label: str
    photos: list[IdentityPhotoOut]
    consent: ConsentOut
    metadata: dict[str, str]
    created_at: dt.datetime
    expires_at: dt.datetime


class IdentityList(BaseModel):
    """A page of identities, the newest first. ``next_cursor``: null on the last page."""

    object: Literal["list"] = "list"
    data: list[IdentityOut]
    next_cursor: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Registration:
    """An identity that is asked for: what is said of it, the consent, and where its photos are to be had."""

    fields: IdentityFields = dataclasses.field(repr=False)
    consent: ConsentFields = dataclasses.field(repr=False)
    sources: tuple[PhotoSource, ...]


def read_registration(body: Body) -> Registration:
    """What a body asks to register. Raises InvalidRequestError, ConsentError."""
    values = dict(body.values)
    if body.is_form:
        values |= {name: _json(name, values[name]) for name in _JSON_FIELDS if name in values}
    consent = _consent(values.pop("consent", None))
    sources = tuple(_sources(values, body.files))
    return Registration(Body(values, {}, is_form=False).rest(IdentityFields), consent, sources)


def identity_out(identity: Identity) -> IdentityOut:
    """The identity as its tenant sees it."""
    consent: dict[str, Any] = {"statement": None, "version": None, "reference": None, **identity.consent}
    return IdentityOut(
        id=identity.id,
        label=identity.label,
        photos=[IdentityPhotoOut(width=photo.width, height=photo.height) for photo in identity.photos],
        consent=ConsentOut(**consent, recorded_at=time_of(identity.created_at)),
        metadata=dict(identity.metadata),
        created_at=time_of(identity.created_at),
        expires_at=time_of(identity.expires_at),
    )


def body_schema() -> dict[str, Any]:
    """What a route gives as ``openapi_extra``."""
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": MAX_PHOTOS}
    schema = IdentityFields.model_json_schema()
    named = {URLS_FIELD: texts, UPLOADS_FIELD: texts, "consent": ConsentFields.model_json_schema()}

    def of(photo: dict[str, Any]) -> dict[str, Any]:
        photos = {"type": "array", "items": {"type": "string", **photo}, "maxItems": MAX_PHOTOS}
        return {
            **schema,
            "description": f"1 to {MAX_PHOTOS} photos in all. In a form, {', '.join(_JSON_FIELDS)} are JSON.",
            "properties": {PHOTOS_FIELD: photos, **named, **schema["properties"]},
            "required": ["consent"],
        }

    content = {
        FORM_TYPE: {"schema": of({"format": "binary"})},
        JSON_TYPE: {"schema": of({"contentEncoding": "base64"})},
    }
    return {"requestBody": {"required": True, "content": content}}


def _consent(told: object) -> ConsentFields:
    try:
        consent = ConsentFields.model_validate(told)
    except ValidationError:
        raise ConsentError(_CONSENT, {"errors": [{"pointer": "/consent", "detail": _CONSENT}]}) from None
    if not consent.given or not (consent.statement or consent.version):
        raise ConsentError(_CONSENT, {"errors": [{"pointer": "/consent", "detail": _CONSENT}]})
    return consent


def _sources(values: dict[str, Any], files: Mapping[str, Sequence[bytes]]) -> list[PhotoSource]:
    sources: list[PhotoSource] = [GivenPhoto(data) for data in files.get(PHOTOS_FIELD, ())]
    sources += [GivenPhoto(decode_base64(text, PHOTOS_FIELD)) for text in _list(values, PHOTOS_FIELD)]
    sources += [PhotoAt(checked_text(text, URLS_FIELD, MAX_URL_CHARS)) for text in _list(values, URLS_FIELD)]
    uploads = _list(values, UPLOADS_FIELD)
    sources += [UploadedPhoto(checked_text(text, UPLOADS_FIELD, MAX_ID_CHARS)) for text in uploads]
    if not 1 <= len(sources) <= MAX_PHOTOS:
        detail = f"give 1 to {MAX_PHOTOS} photos, in {PHOTOS_FIELD}, {URLS_FIELD} and {UPLOADS_FIELD} together"
        names = (PHOTOS_FIELD, URLS_FIELD, UPLOADS_FIELD)
        raise InvalidRequestError(detail, {"errors": [{"pointer": f"/{name}", "detail": detail} for name in names]})
    return sources


def _list(values: dict[str, Any], name: str) -> list[object]:
    found = values.pop(name, [])
    if not isinstance(found, list) or len(found) > MAX_PHOTOS:
        detail = f"this must be a list of at most {MAX_PHOTOS}"
        raise InvalidRequestError(detail, {"errors": [{"pointer": f"/{name}", "detail": detail}]})
    return found


def _json(name: str, text: str) -> object:
    try:
        return parse_json(text.encode())
    except MalformedBodyError:
        detail = "in a form this field is JSON"
        raise InvalidRequestError(detail, {"errors": [{"pointer": f"/{name}", "detail": detail}]}) from None
