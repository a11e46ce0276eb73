"""The routes of webhooks; what they do is tested in the service room."""

import pytest
from doubles.api_callers import assert_problem, fields_of
from doubles.loopback import loopback
from doubles.webhooks import WebhookDesk, by_path, delivering, received, until
from standardwebhooks import Webhook

from instantid_serve.service.ids import new_id
from instantid_serve.settings import OutboundSettings

URL = "https://example.com/hook"
PATH = "/v1/webhooks"


@pytest.fixture
def create(client):
    async def send(headers=None, **fields):
        return await client.post(PATH, json={"url": URL, **fields}, headers=headers)

    return send


async def test_an_endpoint_is_created_and_shows_its_secret_once(create, client):
    created = await create(events=["generation.failed"], description="nights")

    webhook = created.json()
    shown = await client.get(created.headers["location"])
    assert created.status_code == 201
    assert webhook.pop("secret").startswith("whsec_")
    assert shown.json() == webhook
    assert (await client.get(PATH)).json() == {"object": "list", "data": [webhook]}


async def test_the_secret_can_be_read_again_and_rotated(create, client):
    created = (await create()).json()

    before = await client.get(f"{PATH}/{created['id']}/secret")
    rotated = await client.post(f"{PATH}/{created['id']}/rotate-secret", json={"overlap_s": 60})
    after = (await client.get(f"{PATH}/{created['id']}/secret")).json()

    assert before.json()["secret"] == created["secret"]
    assert [entry["secret"] for entry in after["live"]] == [rotated.json()["secret"], created["secret"]]


async def test_the_secret_of_single_generations_webhooks_is_the_tenants_and_rotates(client, other):
    first = (await client.get(f"{PATH}/secret")).json()
    rotated = (await client.post(f"{PATH}/rotate-secret", json={})).json()

    assert [entry["secret"] for entry in rotated["live"]][1:] == [first["secret"]]
    assert (await other.get(f"{PATH}/secret")).json()["secret"] not in {first["secret"], rotated["secret"]}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"url": 7}, "/url"),
        ({"url": "https://e.example/" + "x" * 2048}, "/url"),
        ({"url": "https://e.example/\0"}, "/url"),
        ({"events": ["generation.queued"]}, "/events"),
        ({"events": "generation.failed"}, "/events"),
        ({"description": "x" * 501}, "/description"),
        ({"tenant": "other"}, "/tenant"),
        ({"secret": "whsec_mine"}, "/secret"),
    ],
)
async def test_what_an_endpoint_cannot_be_is_refused_by_name(create, fields, pointer):
    refused = await create(**fields)

    assert_problem(refused, 422, "invalid_request")
    assert fields_of(refused) == {pointer}


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://2130706433/",
        "https://user:pass@example.com/",
        "https://example.com:22/",
        "ftp://example.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/\r\nx: y",
        "nonsense",
    ],
)
async def test_a_url_that_is_never_sent_to_is_refused_at_registration_and_change(create, client, url):
    webhook_id = (await create()).json()["id"]

    assert_problem(await create(url=url), 422, "url_blocked")
    assert_problem(await client.patch(f"{PATH}/{webhook_id}", json={"url": url}), 422, "url_blocked")


@pytest.mark.parametrize("body", ['{"url": "https://a.example", "url": "https://b.example"}', '{"url": NaN}', "[]", ""])
async def test_a_body_that_is_not_exactly_understood_is_refused(client, body):
    refused = await client.post(PATH, content=body, headers={"content-type": "application/json"})

    assert refused.status_code in (400, 422)


async def test_a_repeated_request_with_its_key_creates_nothing_more(create, client):
    first, again = [await create({"Idempotency-Key": "k1"}) for _ in range(2)]

    assert first.json() == again.json()
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert "idempotent-replayed" not in first.headers
    assert len((await client.get(PATH)).json()["data"]) == 1
    assert_problem(await create({"Idempotency-Key": "k1"}, description="x"), 422, "idempotency_key_reused")


async def test_a_change_sets_what_it_names_and_nothing_else(create, client):
    before = (await create(description="nights")).json()

    after = (await client.patch(f"{PATH}/{before['id']}", json={"disabled": True})).json()

    assert after["disabled_reason"] == "by_tenant"
    assert (after["url"], after["description"]) == (before["url"], "nights")


async def test_a_deleted_endpoint_is_gone(create, client):
    webhook_id = (await create()).json()["id"]

    deleted = await client.delete(f"{PATH}/{webhook_id}")

    assert deleted.status_code == 204
    assert_problem(await client.get(f"{PATH}/{webhook_id}"), 404, "not_found")


async def test_deliveries_come_in_pages_that_a_cursor_joins(create, client):
    webhook_id = (await create()).json()["id"]
    made = [(await client.post(f"{PATH}/{webhook_id}/test")).json()["id"] for _ in range(3)]

    first = (await client.get(f"{PATH}/{webhook_id}/deliveries", params={"limit": 2})).json()
    rest = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await client.get(f"{PATH}/{webhook_id}/deliveries", params=rest)).json()

    assert [delivery["id"] for delivery in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["x", "", "whd_", "whd_' OR 1=1", "gen_" + "0" * 26, "whd_" + "0" * 27])
async def test_a_cursor_that_is_none_is_refused(create, client, cursor):
    webhook_id = (await create()).json()["id"]

    refused = await client.get(f"{PATH}/{webhook_id}/deliveries", params={"cursor": cursor})

    assert_problem(refused, 422, "invalid_request")


ROUTES = [
    ("GET", "", None),
    ("PATCH", "", {"description": "mine"}),
    ("DELETE", "", None),
    ("GET", "/secret", None),
    ("POST", "/rotate-secret", {}),
    ("POST", "/test", None),
    ("GET", "/deliveries", None),
    ("POST", "/deliveries/whd_x/redeliver", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_another_tenants_webhook_is_answered_like_one_that_is_not_there(create, other, method, path, body):
    theirs = (await create()).json()["id"]

    foreign, unknown = [
        await other.request(method, f"{PATH}/{webhook_id}{path}", json=body) for webhook_id in (theirs, new_id("whk"))
    ]

    assert_problem(foreign, 404, "not_found")
    assert foreign.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}


async def test_the_description_tells_bodies_and_keys(client):
    described = (await client.get("/openapi.json")).json()["paths"]

    create = described[PATH]["post"]
    assert set(create["requestBody"]["content"]["application/json"]["schema"]["properties"]) == {
        "url",
        "events",
        "description",
    }
    assert "Idempotency-Key" in {parameter["name"] for parameter in create["parameters"]}


class TestFromTheRequestToTheReceiver:
    """One generation is canceled, and a receiver on this machine hears of it."""

    @pytest.fixture
    async def receiver(self):
        async with loopback(by_path({})) as server:
            yield server

    @pytest.fixture
    def settings(self, settings, receiver):
        allowed = OutboundSettings(allowed_networks=("127.0.0.0/8",), ports=(receiver.port,), webhooks_need_https=False)
        return settings.model_copy(update={"outbound": allowed})

    async def test_what_happened_is_delivered_logged_and_delivered_again(
        self, database, create, client, submit, receiver
    ):
        webhook = (await create(url=receiver.url())).json()
        job = (await submit()).json()
        await client.post(f"/v1/generations/{job['id']}/cancel")
        deliveries = f"{PATH}/{webhook['id']}/deliveries"

        async with delivering(WebhookDesk(database, database.now), receiver.port) as outcomes:
            await until(lambda: outcomes == ["delivered"])
            [logged] = (await client.get(deliveries)).json()["data"]
            await client.post(f"{deliveries}/{logged['id']}/redeliver")
            await until(lambda: outcomes == ["delivered"] * 2)

        messages = received(receiver)
        told = [Webhook(webhook["secret"]).verify(message.body, message.headers) for message in messages]
        assert told == [logged["payload"]] * 2
        assert (told[0]["type"], told[0]["data"]["id"]) == ("generation.canceled", job["id"])
        assert {message.headers["webhook-id"] for message in messages} == {logged["message_id"]}
        assert (logged["status"], logged["attempts"][0]["status"]) == ("delivered", 204)
