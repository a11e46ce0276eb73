import base64
import contextlib
import json

import hypothesis
import hypothesis.strategies as st
import pytest
from doubles.api_callers import assert_problem, fields_of

from instantid_serve.errors import MalformedBodyError
from instantid_serve.serving.api.bodies import parse_json
from instantid_serve.serving.api.schemas import MAX_SEED

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'prompt': 1}",
        b'{"prompt": NaN}',
        b'{"prompt": Infinity}',
        b'{"prompt": -Infinity}',
        b'{"guidance_scale": 1e400}',
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\xff"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b'{"prompt": "a"} trailing',
    ],
    ids=lambda raw: repr(raw[:24]),
)
async def test_what_is_not_json_is_malformed(client, raw):
    response = await client.post("/v1/generations", content=raw, headers=JSON)

    assert_problem(response, 400, "malformed_body")


@pytest.mark.parametrize("raw", [b"[]", b"null", b'""', b"7", b"true"])
async def test_json_that_is_no_object_is_invalid(client, raw):
    response = await client.post("/v1/generations", content=raw, headers=JSON)

    assert_problem(response, 422, "invalid_request")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", ""),
        ("prompt", " \t\n"),
        ("prompt", "\u200b\u200d\ufeff"),
        ("prompt", "a\0b"),
        ("prompt", "x" * 2001),
        ("prompt", "👩‍👩‍👧‍👦" * 400),
        ("prompt", 7),
        ("prompt", ["a"]),
        ("negative_prompt", "a\0b"),
        ("negative_prompt", None),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.0),
        ("seed", True),
        ("seed", "30"),
        ("count", 0),
        ("count", 5),
        ("count", 10**9),
        ("count", True),
        ("steps", 0),
        ("steps", 101),
        ("steps", -1),
        ("steps", "30"),
        ("steps", None),
        ("guidance_scale", -1),
        ("guidance_scale", 1e9),
        ("identity_strength", -0.1),
        ("identity_strength", 1.5001),
        ("identitynet_strength", 99),
        ("identitynet_start", 1.0001),
        ("identitynet_end", -1),
        ("quality", 0),
        ("quality", 101),
        ("fit", "bend"),
        ("face", "all"),
        ("face", -1),
        ("face", True),
        ("output_format", "gif"),
        ("output_format", "PNG"),
        ("sampler", "x" * 65),
        ("tenant_id", "other"),
        ("metadata", {"__proto__": 1}),
        ("steps ", 3),
    ],
    ids=repr,
)
async def test_a_wrong_parameter_is_named_and_its_value_is_not_repeated(submit_json, field, value):
    response = await submit_json(**{field: value})

    assert_problem(response, 422, "invalid_request")
    assert fields_of(response) == {f"/{field}"}
    if isinstance(value, str) and len(value) > 20:
        assert value[:20] not in response.text


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"width": 1000 + 4, "height": 512}, "width"),
        ({"width": 1, "height": 512}, "width"),
        ({"width": 512, "height": 100_000}, "height"),
        ({"width": 2048, "height": 2048}, "width"),
    ],
)
async def test_a_size_that_is_not_served_names_the_side(submit_json, fields, fact):
    response = await submit_json(**fields)

    assert_problem(response, 422, "invalid_request")
    assert response.json()["parameter"] == fact


@pytest.mark.parametrize(
    "fields", [{"width": 512}, {"height": 512}, {"identitynet_start": 0.6, "identitynet_end": 0.4}], ids=repr
)
async def test_parameters_that_contradict_each_other_are_refused(submit_json, fields):
    response = await submit_json(**fields)

    assert_problem(response, 422, "invalid_request")


async def test_an_unknown_sampler_answers_with_the_known_ones(submit_json):
    response = await submit_json(sampler="os.system")

    assert_problem(response, 422, "invalid_request")
    assert "euler" in response.json()["known"]


async def test_an_unknown_model_answers_with_the_served_one(submit_json):
    response = await submit_json(model="dall-e-3")

    assert_problem(response, 422, "unknown_model")
    assert response.json()["served"] == ["miniature"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "\u202eright to left"),
        ("prompt", "<script>alert(1)</script>'; DROP TABLE jobs;--"),
        ("prompt", "emoji 👩‍👩‍👧‍👦 and ünïcödé"),
        ("seed", MAX_SEED),
        ("guidance_scale", -0.0),
        ("guidance_scale", 7),
        ("face", 0),
        ("seed", None),
        ("sampler", "UniPCMultistepScheduler"),
    ],
    ids=repr,
)
async def test_an_odd_but_valid_parameter_is_taken_as_it_is(submit_json, field, value):
    response = await submit_json(**{field: value})

    assert response.status_code == 202
    if value is not None:
        assert response.json()["parameters"][field] == value


@pytest.mark.parametrize("image", [None, 7, "", "not base64!", "data:text/html;base64,QUJD", "QUJ"])
async def test_a_photo_that_is_not_base64_is_refused(submit_json, image):
    response = await submit_json(image=image)

    assert response.status_code == 422
    assert response.json()["code"] in {"invalid_request", "image_corrupt", "image_unsupported_format"}


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "multipart/form-data; boundary=line; charset=idna",
        "application/jsonp",
        "\u00e4",
    ],
)
async def test_another_media_type_is_refused(client, content_type):
    headers = {"Content-Type": content_type.encode("latin-1")} if content_type else {}

    response = await client.post("/v1/generations", content=b'{"prompt": "a"}', headers=headers)

    assert_problem(response, 415, "unsupported_media_type")


async def test_a_compressed_body_is_refused(client):
    response = await client.post("/v1/generations", content=b"x", headers={**JSON, "Content-Encoding": "gzip"})

    assert_problem(response, 415, "unsupported_media_type")


async def test_an_empty_photo_in_base64_is_corrupt(submit_json):
    response = await submit_json(image=base64.b64encode(b"").decode())

    assert response.status_code == 422


@hypothesis.given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_parsing_json_equals_the_standard_library_where_it_accepts(value):
    raw = json.dumps(value, ensure_ascii=False).encode()

    assert parse_json(raw) == value


@hypothesis.given(st.binary(max_size=64))
def test_parsing_json_raises_nothing_but_malformed_body(raw):
    with contextlib.suppress(MalformedBodyError):
        parse_json(raw)
