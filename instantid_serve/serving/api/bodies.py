"""Reads a generation's body, JSON or form, strictly: what is not exactly understood is refused, never guessed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
from collections.abc import AsyncGenerator
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from instantid_serve.errors import InvalidRequestError, MalformedBodyError, MediaTypeError
from instantid_serve.serving.api.problems import invalid
from instantid_serve.serving.api.schemas import GenerationFields

PHOTO_FIELD = "image"
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"
_MAX_FORM_FIELDS = 64  # more than there are parameters: an unknown one is named, ten thousand are not read
_MAX_FIELD_BYTES = 64 * 1024
_DATA_URI = re.compile(r"data:image/(?:jpeg|png|webp);base64,")


async def read_generation(request: Request, model: type[GenerationFields]) -> tuple[GenerationFields, bytes]:
    """Return the checked fields and the photo's bytes, undecoded.

    Raises MediaTypeError, MalformedBodyError, InvalidRequestError, and BodyTooLargeError while reading.
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
            # A thread: fifteen megabytes of JSON take a tenth of a second, in which nobody else would be answered.
            return await asyncio.to_thread(_from_json, await request.body(), model)
        case "multipart/form-data":
            return await _from_form(await _parse_form(request, declared), model)
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


def _from_json(body: bytes, model: type[GenerationFields]) -> tuple[GenerationFields, bytes]:
    parsed = parse_json(body)
    if not isinstance(parsed, dict):
        raise InvalidRequestError("the body must be a JSON object")
    photo = parsed.pop(PHOTO_FIELD, None)
    if not isinstance(photo, str):
        raise _field_error(PHOTO_FIELD, "the photo is missing: give it in base64")
    try:
        fields = model.model_validate(parsed)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False, include_context=False)) from None
    return fields, _decode_base64(photo)


def _decode_base64(text: str) -> bytes:
    prefix = _DATA_URI.match(text)
    try:
        return base64.b64decode(text[prefix.end() if prefix else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise _field_error(PHOTO_FIELD, "the photo is not base64") from None


async def _from_form(form: FormData, model: type[GenerationFields]) -> tuple[GenerationFields, bytes]:
    try:
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
        if len(fields) + len(files) < len(form.multi_items()):
            raise MalformedBodyError("the form names a field twice")
        photo = files.pop(PHOTO_FIELD, None)
        if photo is None:
            raise _field_error(PHOTO_FIELD, "the photo is missing: send it as a file")
        if files:
            raise _field_error(next(iter(files))[:100], "this field is not a file")
        return _validate_strings(fields, model), await photo.read()
    finally:
        await form.close()


def _validate_strings(fields: dict[str, str], model: type[GenerationFields]) -> GenerationFields:
    try:
        texts = {_utf8(name): _utf8(value) for name, value in fields.items()}
        return model.model_validate_strings(texts)
    except UnicodeDecodeError:
        raise MalformedBodyError("a form field is not valid UTF-8 text") from None
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False, include_context=False)) from None


def _utf8(text: str) -> str:
    """Undo the parser's latin-1: it maps every byte to one character, so nothing is lost or guessed on the way."""
    return text.encode("latin-1").decode("utf-8")


async def _parse_form(request: Request, declared: Message) -> FormData:
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
        headers, chunks(), max_files=1, max_fields=_MAX_FORM_FIELDS, max_part_size=_MAX_FIELD_BYTES
    )
    parser.spool_max_size = len(body) + 1
    try:
        return await parser.parse()
    except MultiPartException:
        raise MalformedBodyError("the form is not valid, has too many parts or too large a field") from None


def _field_error(name: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(detail, {"errors": [{"pointer": f"/{name}", "detail": detail}]})
