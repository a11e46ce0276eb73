"""What schemathesis cannot make up by itself: photos that decode, and ids of things that are there."""

from __future__ import annotations

import base64
import io
import json
import os
from typing import Any

import schemathesis
from doubles.api_process import KEYS
from hypothesis import strategies as st
from PIL import Image


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (120, 90, 60)).save(stream, "PNG")
    return stream.getvalue()


PNG = _png()
PNG_TEXT = base64.b64encode(PNG).decode()
NAMES: dict[str, str] = json.loads(os.environ.get("FUZZ_NAMES", "{}"))
KINDS = {
    "tenant_id": "tenant",
    "job_id": "job",
    "batch_id": "batch",
    "upload_id": "upload",
    "identity_id": "identity",
    "webhook_id": "webhook",
    "delivery_id": "delivery",
    "key_id": "key",
}
# What is served is narrower than what the document can say of each: together they are refused, or each alone is.
HARD = {"image_url", "image_urls", "upload_id", "upload_ids", "identity_id", "model", "sampler", "width", "height"}
HARD |= {"identitynet_start", "identitynet_end", "webhook_url", "webhook_events"}

schemathesis.openapi.format("binary", st.sampled_from([PNG, PNG, b"", b"\xff\xd8\xff"]) | st.binary(max_size=64))


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Half of all ids are of things that are there; those that are deleted are none that others are to find."""
    if not path_parameters or not _is_even(path_parameters):
        return path_parameters
    whose = "spare_" if context.operation.method.upper() == "DELETE" else "own_"
    known = {name: NAMES[whose + kind] for name, kind in KINDS.items() if name in path_parameters}
    return path_parameters | known


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - the signature is given
    """What is right in each part becomes right as a whole, in every other case; and what is needed stays."""
    _keep_what_is_needed(case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.operation.path.endswith("/content"):
        kwargs["data"] = b"abc"  # as many bytes as were announced
    if not isinstance(case.body, dict) or not _is_even(case.body):
        return
    for name in ("Idempotency-Key", "Cancel-After"):
        case.headers.pop(name, None)
    if case.media_type == "multipart/form-data":
        # Beside the case: one that a hook gave bytes counts as wrong data.
        kwargs["files"] = _form(_mended(case.body, PNG))
    else:
        case.body = _mended(case.body, PNG_TEXT)


def _form(fields: dict[str, Any]) -> list[tuple[str, tuple[str | None, bytes | str]]]:
    """The parts of a form, as requests takes them."""
    parts: list[tuple[str, tuple[str | None, bytes | str]]] = []
    for name, value in fields.items():
        for one in value if name == "images" else [value]:
            text = one if isinstance(one, bytes | str) else json.dumps(one)
            parts.append((name, ("a.png" if one is PNG else None, text)))
    return parts


def _keep_what_is_needed(case: Any) -> None:
    """Nothing that others are to find is deleted, and no limits are set to the tenant that asks.

    Schemathesis learns these names from lists, and would use them.
    """
    if case.method.upper() in {"DELETE", "PATCH"}:
        needed = KEYS if case.method.upper() == "PATCH" else {v for n, v in NAMES.items() if n.startswith("own_")}
        for name, value in (case.path_parameters or {}).items():
            if value in needed:
                case.path_parameters[name] = NAMES["spare_" + KINDS[name]]


def _mended(body: dict[str, Any], photo: bytes | str) -> dict[str, Any]:
    if isinstance(body.get("items"), list):
        items = [_mended(item, photo) | {"prompt": "a portrait", "image": photo} for item in body["items"][:3]]
        return body | {"items": items, "defaults": {}}
    mended = {name: value for name, value in body.items() if name not in HARD}
    if "prompt" in body:
        return mended | {"prompt": "a portrait", "image": photo}
    if "consent" in body:
        return mended | {"images": [photo], "consent": {"given": True, "version": "1"}}
    return body


def _is_even(value: Any) -> bool:
    return len(repr(value)) % 2 == 0
