"""What a tenant is told of its usage, its limits, and the service; and what refusals of limits say."""

import datetime as dt

import pytest
from doubles.api_callers import assert_problem

from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Speed
from instantid_serve.service.usage import period_end


@pytest.fixture
def limited(context):
    context.tenants.ensure("acme")
    context.tenants.change("acme", {"max_queued_jobs": 2, "pictures_per_month": 5, "max_running_pictures": 4})


async def test_usage_counts_what_was_accepted_this_month(client, submit):
    await submit(count=2)

    (month,) = (await client.get("/v1/usage")).json()["data"]

    assert month["period"] == dt.datetime.now(dt.UTC).strftime("%Y-%m")
    assert (month["jobs"], month["pictures"], month["made"]) == (1, 2, 0)


async def test_another_tenants_usage_is_not_told(submit, other):
    await submit()

    assert (await other.get("/v1/usage")).json()["data"] == []


@pytest.mark.usefixtures("limited")
async def test_limits_stand_beside_what_is_used_of_them(client, submit, queue):
    await submit(count=3)
    queue.claim("w1", Room(8), 30)
    await submit(count=1)

    limits = (await client.get("/v1/limits")).json()

    assert limits["queued_jobs"] == {"limit": 2, "used": 1, "resets_at": None}
    assert limits["running_pictures"] == {"limit": 4, "used": 3, "resets_at": None}
    assert (limits["pictures_per_month"]["limit"], limits["pictures_per_month"]["used"]) == (5, 4)
    assert limits["pictures_per_month"]["resets_at"].endswith("-01T00:00:00Z")
    assert (limits["requests_per_minute"]["limit"], limits["requests_per_minute"]["used"]) == (1200, 3)


async def test_where_there_is_no_limit_none_is_told(client):
    limits = (await client.get("/v1/limits")).json()

    assert limits["pictures_per_month"]["limit"] is None
    assert limits["running_pictures"]["limit"] is None


async def test_the_status_tells_of_all_tenants_queue_and_of_workers(other, submit, queue):
    await submit()
    await submit()
    queue.report("w1", Speed(0, 8, 0.0, 0.0))

    status = (await other.get("/v1/status")).json()

    assert (status["queued"], status["running"], status["workers"]) == (2, 0, 1)
    assert 0 <= status["oldest_age_s"] < 60
    assert set(status) == {"object", "version", "queued", "oldest_age_s", "running", "workers"}


@pytest.mark.usefixtures("limited")
async def test_a_full_queue_says_to_come_back_in_seconds(submit):
    await submit()
    await submit()

    refused = await submit()

    assert_problem(refused, 429, "queue_full")
    assert (refused.json()["max_queued_jobs"], refused.json()["queued"]) == (2, 2)
    assert 1 <= int(refused.headers["Retry-After"]) <= 30


@pytest.mark.usefixtures("limited")
async def test_a_used_up_month_says_when_it_ends_and_to_ask_again_within_a_day(submit):
    await submit(count=4)

    refused = await submit(count=2)

    assert_problem(refused, 429, "quota_exceeded")
    told = refused.json()
    ends = dt.datetime.fromisoformat(told["resets_at"])
    left_s = (ends - dt.datetime.now(dt.UTC)).total_seconds()
    assert (told["quota"], told["used"]) == (5, 4)
    assert abs(int(refused.headers["Retry-After"]) - min(left_s, 86_400)) < 5


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-25T04:00:00+00:00", "2026-12-01T00:00:00+00:00"),
        ("2026-12-31T23:59:59+00:00", "2027-01-01T00:00:00+00:00"),
        ("2028-02-29T12:00:00+00:00", "2028-03-01T00:00:00+00:00"),
        ("2027-01-31T00:00:00+00:00", "2027-02-01T00:00:00+00:00"),
    ],
)
def test_a_month_ends_where_the_next_begins(now, end):
    ends = period_end(dt.datetime.fromisoformat(now).timestamp())

    assert ends == dt.datetime.fromisoformat(end).timestamp()
