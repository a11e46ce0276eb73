import base64
import datetime as dt
import io
import json

import pytest
from doubles.api_callers import assert_problem, fields_of
from PIL import Image

from instantid_serve.service.sweeper import Sweeper
from instantid_serve.service.tables import identities as table

CONSENT = {"given": True, "statement": "I agree to pictures of me.", "reference": "form 7"}


@pytest.fixture
def register(client, photo):
    """Send JSON: fields as keywords."""

    async def send(headers=None, **fields):
        body = {"consent": CONSENT, "images": [base64.b64encode(photo).decode()], **fields}
        return await client.post("/v1/identities", json=body, headers=headers)

    return send


def files_in(settings):
    return [file for file in settings.results.folder.rglob("*") if file.is_file()]


async def test_an_identity_is_registered_with_the_consent_that_was_given(client, register):
    made = await register(label="Ada", metadata={"n": "1"})

    told = made.json()
    assert made.status_code == 201
    assert made.headers["Location"] == f"/v1/identities/{told['id']}"
    assert told["consent"] == {**CONSENT, "version": None, "recorded_at": told["created_at"]}
    assert (told["label"], told["metadata"], told["photos"]) == ("Ada", {"n": "1"}, [{"width": 300, "height": 400}])
    assert (await client.get(f"/v1/identities/{told['id']}")).json() == told


async def test_a_form_brings_several_photos(client, photo):
    form = {"consent": json.dumps({"given": True, "version": "2026-11"}), "label": "Ada", "retention_s": "3600"}
    files = [("images", ("a.jpg", photo)), ("images", ("b.jpg", photo))]

    told = (await client.post("/v1/identities", data=form, files=files)).json()

    assert len(told["photos"]) == 2
    assert dt.datetime.fromisoformat(told["expires_at"]) - dt.datetime.fromisoformat(
        told["created_at"]
    ) == dt.timedelta(hours=1)


async def test_photos_are_stored_upright_and_without_metadata(register, store):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "at home"
    Image.new("RGB", (300, 400), (120, 90, 60)).save(stream, "JPEG", exif=exif)

    told = (await register(images=[base64.b64encode(stream.getvalue()).decode()])).json()

    stored = store.get(f"acme/{told['id']}/0")
    with Image.open(io.BytesIO(stored)) as image:
        assert (image.format, image.size, dict(image.getexif())) == ("PNG", (400, 300), {})
    assert told["photos"] == [{"width": 400, "height": 300}]
    assert b"at home" not in stored


@pytest.mark.parametrize(
    "consent",
    [
        None,
        {},
        True,
        "yes",
        {"given": True},
        {"given": False, "version": "1"},
        {"given": "true", "version": "1"},
        {"given": 1, "version": "1"},
        {"version": "1"},
        {"given": True, "statement": ""},
        {"given": True, "version": "1", "by": "me"},
    ],
    ids=repr,
)
async def test_without_a_plain_consent_nothing_is_stored(register, settings, consent):
    response = await register(consent=consent)

    assert_problem(response, 422, "consent_required")
    assert fields_of(response) == {"/consent"}
    assert files_in(settings) == []


@pytest.mark.parametrize("count", [0, 9])
async def test_there_are_one_to_eight_photos(register, photo, count):
    response = await register(images=[base64.b64encode(photo).decode()] * count)

    assert_problem(response, 422, "invalid_request")
    assert "/images" in fields_of(response)


async def test_one_photo_that_is_none_registers_nothing(register, settings, photo):
    good, bad = (base64.b64encode(data).decode() for data in (photo, b"<html>" * 100))

    response = await register(images=[good, bad])

    assert_problem(response, 422, "image_unsupported_format")
    assert files_in(settings) == []


async def test_an_address_that_is_not_public_registers_nothing(register, settings):
    response = await register(image_urls=["http://169.254.169.254/"])

    assert_problem(response, 422, "url_blocked")
    assert files_in(settings) == []


@pytest.mark.parametrize(("wanted_s", "kept_s"), [(None, 2_592_000), (3600.0, 3600), (9e9, 2_592_000)])
async def test_a_request_can_only_shorten_how_long_it_is_kept(register, wanted_s, kept_s):
    told = (await register(retention_s=wanted_s)).json()

    times = [dt.datetime.fromisoformat(told[name]) for name in ("created_at", "expires_at")]
    assert (times[1] - times[0]).total_seconds() == pytest.approx(kept_s, abs=0.01)


async def test_identities_are_listed_page_by_page(client, register):
    made = [(await register(label=str(number))).json()["id"] for number in range(3)]

    first = (await client.get("/v1/identities", params={"limit": 2})).json()
    second = (await client.get("/v1/identities", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [one["id"] for one in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None


async def test_a_retry_with_the_same_key_registers_once(client, register):
    key = {"Idempotency-Key": "k1"}

    first, again = await register(headers=key), await register(headers=key)

    assert (first.json(), again.headers["Idempotent-Replayed"]) == (again.json(), "true")
    assert len((await client.get("/v1/identities")).json()["data"]) == 1
    assert_problem(await register(headers=key, label="another"), 422, "idempotency_key_reused")


async def test_a_deleted_identity_is_erased_at_once_and_its_row_with_the_next_sweep(
    client, other, register, database, store, settings, photo
):
    mine = (await register()).json()["id"]
    body = {"consent": CONSENT, "images": [base64.b64encode(photo).decode()]}
    theirs = (await other.post("/v1/identities", json=body)).json()["id"]

    response = await client.delete(f"/v1/identities/{mine}")

    assert response.status_code == 204
    assert [file.parent.name for file in files_in(settings)] == [theirs]
    assert_problem(await client.get(f"/v1/identities/{mine}"), 404, "not_found")
    assert_problem(await client.delete(f"/v1/identities/{mine}"), 404, "not_found")
    Sweeper(database, store).sweep()
    with database.read() as connection:
        assert list(connection.scalars(table.select().with_only_columns(table.c.id))) == [theirs]


async def test_another_tenants_identity_does_not_exist(other, register):
    path = f"/v1/identities/{(await register()).json()['id']}"

    for response in (await other.get(path), await other.delete(path)):
        assert_problem(response, 404, "not_found")
    assert (await other.get("/v1/identities")).json()["data"] == []
