import pytest
from doubles.api_callers import assert_problem, fields_of

FORM = {"Content-Type": "multipart/form-data; boundary=line"}


def part(name, value, filename=None):
    shown = f'; filename="{filename}"' if filename is not None else ""
    return b'--line\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
        name.encode(),
        shown.encode(),
        value if isinstance(value, bytes) else value.encode(),
    )


async def test_a_form_takes_numbers_as_text(submit):
    response = await submit(steps=12, guidance_scale=2.5, face=1, count=2, quality=80, output_format="jpeg")

    parameters = response.json()["parameters"]
    assert (parameters["steps"], parameters["guidance_scale"], parameters["face"]) == (12, 2.5, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", "twenty"), ("steps", "1.5"), ("guidance_scale", "nan"), ("x", "1"), ("seed", "9" * 5000)],
)
async def test_a_form_field_that_does_not_parse_is_named(submit, field, value):
    response = await submit(**{field: value})

    assert_problem(response, 422, "invalid_request")
    assert fields_of(response) == {f"/{field}"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_body"),
        (b"garbage", 400, "malformed_body"),
        (part("prompt", "a"), 400, "malformed_body"),  # not closed
        (part("prompt", "a") + b"--line--", 422, "invalid_request"),  # no photo
        (part("prompt", "a") + part("image", "text") + b"--line--", 422, "invalid_request"),
        (part("prompt", "a") + part("image", "1", "a") + part("image", "2", "b") + b"--line--", 400, "malformed_body"),
        (part("prompt", "a") + part("image", "1", "a") + part("prompt", "b") + b"--line--", 400, "malformed_body"),
        (part("prompt", b"\xff\xfe") + part("image", "1", "a") + b"--line--", 400, "malformed_body"),
        (part("prompt", "a") + part("other", "1", "a") + b"--line--", 422, "invalid_request"),
        (part("prompt", "a" * 70_000) + part("image", "1", "a") + b"--line--", 400, "malformed_body"),
        (b"".join(part(f"f{i}", "a") for i in range(10_000)) + b"--line--", 400, "malformed_body"),
        (b"--line\r\nContent-Disposition: form-data\r\n\r\na\r\n--line--", 400, "malformed_body"),
        (b"--line\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\na\r\n--line--", 400, "malformed_body"),
        (b"--line\r\n" + b"X: a\r\n" * 100_000 + b"\r\na\r\n--line--", 400, "malformed_body"),
    ],
    ids=range(14),
)
async def test_a_broken_form_is_a_problem(client, body, status, code):
    response = await client.post("/v1/generations", content=body, headers=FORM)

    assert_problem(response, status, code)


@pytest.mark.parametrize(
    "name", ["../../x", 'a"><img onerror=x>', "x" * 4096, "a\u202egnp.exe", "a\\r\\nSet-Cookie: x"]
)
async def test_a_files_name_and_type_mean_nothing(client, photo, name):
    files = {"image": (name, photo, "text/html")}

    response = await client.post("/v1/generations", data={"prompt": "x"}, files=files)

    assert response.status_code == 202
    assert name not in response.text


async def test_a_form_without_boundary_is_malformed(client):
    response = await client.post("/v1/generations", content=b"x", headers={"Content-Type": "multipart/form-data"})

    assert_problem(response, 400, "malformed_body")
