"""Reads a body that may bring photos, JSON or form: what is not exactly understood is refused, never guessed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import AsyncGenerator, Collection, Mapping
from email.message import Message
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from instantid_serve.errors import InvalidRequestError, MalformedBodyError, MediaTypeError
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api.defaults import with_defaults
from instantid_serve.serving.api.job_fields import JSON_FIELDS
from instantid_serve.serving.api.photo_sources import PHOTO_FIELD, PhotoSource, take_source
from instantid_serve.serving.api.problems import invalid
from instantid_serve.serving.api.schemas import GenerationFields

JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"
_MAX_FORM_FIELDS = 64  # more than there are parameters: an unknown one is named, ten thousand are not read
_MAX_FIELD_BYTES = 64 * 1024

Model = TypeVar("Model", bound=BaseModel)


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """A body, taken apart: JSON's members, or a form's texts and files.

    Whoever understands one of ``values`` takes it out; :meth:`rest` refuses what nobody did.
    """

    values: dict[str, Any]
    files: Mapping[str, list[bytes]]
    is_form: bool

    def rest(self, model: type[Model]) -> Model:
        """What is left of ``values``, checked. Raises InvalidRequestError."""
        try:
            return model.model_validate_strings(self.values) if self.is_form else model.model_validate(self.values)
        except ValidationError as error:
            raise invalid(error.errors(include_input=False, include_url=False, include_context=False)) from None


async def read_generation(
    request: Request, model: type[GenerationFields], tenant: Tenant
) -> tuple[GenerationFields, PhotoSource]:
    """Return the checked fields, with the tenant's defaults, and where the photo is to be had.

    Raises MediaTypeError, MalformedBodyError, InvalidRequestError, and BodyTooLargeError while reading.
    """
    body = await read_body(request, max_files={PHOTO_FIELD: 1})
    # A thread: fifteen megabytes of base64 take a tenth of a second, in which nobody else would be answered.
    return await asyncio.to_thread(_generation, body, model, tenant)


def _generation(body: Body, model: type[GenerationFields], tenant: Tenant) -> tuple[GenerationFields, PhotoSource]:
    source = take_source(body.values, body.files)
    values = with_defaults(body.values, tenant, as_text=body.is_form)
    if not body.is_form:
        return Body(values, {}, is_form=False).rest(model), source
    # A form's texts say numbers and words; what has parts of its own comes as JSON in one of them.
    parts = {name: _json_field(name, values.pop(name)) for name in JSON_FIELDS if name in values}
    flat = Body(values, {}, is_form=True).rest(model)
    return Body(flat.model_dump(exclude_unset=True) | parts, {}, is_form=False).rest(model), source


def _json_field(name: str, text: str) -> object:
    try:
        return parse_json(text.encode())
    except MalformedBodyError:
        raise _field_error(name, "in a form this field is JSON") from None


async def read_body(request: Request, *, max_files: Mapping[str, int], lists: Collection[str] = ()) -> Body:
    """The body, JSON or form.

    ``max_files``: how many files a form may bring, by name. ``lists``: names that a form may give several texts, which
    become a list. Raises MediaTypeError, MalformedBodyError, InvalidRequestError, and BodyTooLargeError while reading.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeError("compressed bodies are not read here")
    declared = Message()
    declared["content-type"] = request.headers.get("content-type", "")
    charset = declared.get_param("charset")
    if charset is not None and str(charset).lower() not in ("utf-8", "utf8"):
        raise MediaTypeError("the body must be UTF-8")
    match declared.get_content_type():
        case "application/json":
            parsed = await asyncio.to_thread(parse_json, await request.body())  # a thread: see read_generation
            if not isinstance(parsed, dict):
                raise InvalidRequestError("the body must be a JSON object")
            return Body(parsed, {}, is_form=False)
        case "multipart/form-data":
            return await _from_form(await _parse_form(request, declared, sum(max_files.values())), max_files, lists)
        case _:
            raise MediaTypeError(f"the body must be {JSON_TYPE} or {FORM_TYPE}")


def parse_json(data: bytes) -> object:
    """Parse JSON as RFC 8259 has it: UTF-8 without BOM, no NaN or Infinity, no duplicate keys, finite numbers only.

    Raises MalformedBodyError; its sentence never holds any of the input.
    """
    try:
        text = data.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_not_json, parse_float=_finite)
        # A lone surrogate arrives as an escape; it is no character and encodes nowhere.
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise MalformedBodyError("the body is not valid UTF-8 text") from None
    except (ValueError, RecursionError):  # also an integer of thousands of digits, and brackets without end
        raise MalformedBodyError("the body is not valid JSON") from None
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        raise MalformedBodyError("the body names a key twice")
    return parsed


def _not_json(_constant: str) -> NoReturn:
    raise MalformedBodyError("NaN and Infinity are not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedBodyError("a number is too large")
    return number


async def _from_form(form: FormData, max_files: Mapping[str, int], lists: Collection[str]) -> Body:
    try:
        texts: dict[str, list[str]] = {}
        files: dict[str, list[bytes]] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            else:
                texts.setdefault(_utf8(name), []).append(_utf8(value))
    except UnicodeDecodeError:
        raise MalformedBodyError("a form field is not valid UTF-8 text") from None
    finally:
        await form.close()
    if any(len(files[name]) > max_files.get(name, 1) for name in files):
        raise MalformedBodyError("the form names a field twice")
    if any(len(given) > 1 for name, given in texts.items() if name not in lists) or texts.keys() & files.keys():
        raise MalformedBodyError("the form names a field twice")
    for name in files.keys() - max_files.keys():
        raise _field_error(name[:100], "this field is not a file")
    for name in texts.keys() & max_files.keys():
        raise _field_error(name, "send the photo as a file")
    return Body({name: given if name in lists else given[0] for name, given in texts.items()}, files, is_form=True)


def _utf8(text: str) -> str:
    """Undo the parser's latin-1: it maps every byte to one character, so nothing is lost or guessed on the way."""
    return text.encode("latin-1").decode("utf-8")


async def _parse_form(request: Request, declared: Message, max_files: int) -> FormData:
    boundary = declared.get_param("boundary")
    if not isinstance(boundary, str) or not boundary.isascii() or '"' in boundary:
        raise MalformedBodyError("the form's boundary is missing")

    # The whole body is read first: it is bounded, and a photo then never touches a temporary file.
    body = await request.body()
    if f"--{boundary}--".encode() not in body:  # the parser would take what there is of a form that was cut off
        raise MalformedBodyError("the form is not complete")

    async def chunks() -> AsyncGenerator[bytes]:
        yield body

    # latin-1 instead of what the caller names: Python has text codecs that are slow to decode on purpose.
    headers = Headers({"content-type": f'{FORM_TYPE}; charset=latin-1; boundary="{boundary}"'})
    parser = MultiPartParser(
        headers, chunks(), max_files=max_files, max_fields=_MAX_FORM_FIELDS, max_part_size=_MAX_FIELD_BYTES
    )
    parser.spool_max_size = len(body) + 1
    try:
        return await parser.parse()
    except MultiPartException:
        raise MalformedBodyError("the form is not valid, has too many parts or too large a field") from None


def _field_error(name: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(detail, {"errors": [{"pointer": f"/{name}", "detail": detail}]})
