"""What is written down of a job's life, and what goes into the outbox with it."""

import pytest
import sqlalchemy as sa
from doubles.service import LEASE_S, add, claim_one, image, new_job

from instantid_serve.errors import ConflictError, NotFoundError
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Beat, JobStatus
from instantid_serve.service.job_rows import end
from instantid_serve.service.tables import events, webhook_deliveries, webhook_endpoints
from instantid_serve.service.tables import jobs as table

ERROR = {"code": "face_not_found", "status": 422, "retryable": False, "detail": "no face", "facts": {"n": 0}}


def kinds(jobs, job):
    return [event.type.removeprefix("generation.") for event in jobs.events_after(job.tenant, job.id, 0)]


@pytest.fixture
def endpoint(database, clock):
    """Register an endpoint of a tenant, for all events unless told."""

    def register(tenant="alice", wanted=(), *, disabled=False):
        values = {"id": f"whk_{tenant}_{len(wanted)}", "tenant": tenant, "url": f"https://{tenant}.example/hook"}
        values |= {"events": list(wanted), "secrets": [], "description": "", "created_at": clock()}
        with database.write() as connection:
            connection.execute(
                sa.insert(webhook_endpoints).values(values | {"disabled_at": clock() if disabled else None})
            )
        return values["id"]

    return register


@pytest.fixture
def outbox(database):
    """The deliveries, in the order of their making."""

    def rows():
        with database.read() as connection:
            return connection.execute(sa.select(webhook_deliveries).order_by(webhook_deliveries.c.id)).all()

    return rows


def told(rows):
    return [row.type.removeprefix("generation.") for row in rows]


class TestLives:
    @pytest.mark.parametrize(
        ("settle", "kind"),
        [
            (lambda queue, *held: queue.settle_succeeded(*held, [image()], {}), "succeeded"),
            (lambda queue, *held: queue.settle_failed(*held, ERROR), "failed"),
            (lambda queue, *held: queue.settle_canceled(*held), "canceled"),
            (lambda queue, *held: queue.settle_expired(*held, ERROR), "expired"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_each_change_is_one_event_in_order(self, jobs, queue, settle, kind):
        job = add(jobs)
        claim = claim_one(queue)
        queue.heartbeat([Beat(job.id, claim.fence, 3, 10)], LEASE_S)
        settle(queue, job.id, claim.fence)
        settle(queue, job.id, claim.fence)

        assert kinds(jobs, job) == ["queued", "running", kind]

    def test_another_try_is_told(self, jobs, queue):
        job = add(jobs)
        for _ in range(3):
            queue.release(job.id, claim_one(queue).fence, cause=ERROR)

        assert kinds(jobs, job) == ["queued", *["running", "retrying"] * 2, "running", "failed"]

    def test_a_silent_workers_job_is_told_to_be_tried_again(self, jobs, queue, clock):
        job = add(jobs)
        claim_one(queue)
        clock.pass_lease()
        claim_one(queue, "w2")

        assert kinds(jobs, job) == ["queued", "running", "retrying", "running"]

    def test_a_cancel_is_told_once_and_only_when_it_is_done(self, jobs, queue):
        waiting, running = add(jobs), add(jobs)
        claims = {claim.job.id: claim for claim in queue.claim("w1", Room(2), LEASE_S)}
        queue.release(waiting.id, claims[waiting.id].fence)
        for _ in range(2):
            jobs.request_cancel("alice", waiting.id)
            jobs.request_cancel("alice", running.id)

        assert kinds(jobs, waiting) == ["queued", "running", "retrying", "canceled"]
        assert kinds(jobs, running) == ["queued", "running"]

    def test_an_event_tells_the_state_and_the_error_it_led_to(self, jobs, queue, clock):
        job = add(jobs)
        claim = claim_one(queue)
        clock.now += 3
        queue.settle_failed(job.id, claim.fence, ERROR)

        last = jobs.events_after("alice", job.id, 0)[-1]

        assert (last.type, last.at) == ("generation.failed", clock.now)
        error = {"code": "face_not_found", "detail": "no face"}
        assert last.data == {"status": "failed", "attempts": 1, "error": error}


class TestReading:
    def test_a_reader_that_was_cut_off_goes_on_after_the_last_it_saw(self, jobs, queue):
        job, _ = add(jobs), add(jobs)
        [first] = jobs.events_after("alice", job.id, 0)
        queue.claim("w1", Room(2), LEASE_S)

        [second] = jobs.events_after("alice", job.id, first.id)

        assert (second.type, second.job_id) == ("generation.running", job.id)
        assert second.id > first.id
        assert jobs.events_after("alice", job.id, second.id) == []

    def test_another_tenant_reads_nothing(self, jobs):
        job = add(jobs)

        with pytest.raises(NotFoundError):
            jobs.events_after("bob", job.id, 0)


class TestOutbox:
    def test_an_endpoint_is_told_of_what_it_wants(self, jobs, queue, endpoint, outbox):
        endpoint(wanted=["generation.succeeded"])
        job = add(jobs)
        queue.settle_succeeded(job.id, claim_one(queue).fence, [image()], {})

        assert told(outbox()) == ["succeeded"]

    def test_one_that_names_nothing_is_told_of_all_but_what_is_of_no_use(self, jobs, queue, endpoint, outbox):
        endpoint()
        job = add(jobs)
        queue.release(job.id, claim_one(queue).fence)
        queue.settle_failed(job.id, claim_one(queue).fence, ERROR)

        assert sorted(told(outbox())) == ["failed", "running", "running"]

    def test_neither_other_tenants_nor_disabled_endpoints_are_told(self, jobs, queue, endpoint, outbox):
        endpoint("bob")
        endpoint("alice", disabled=True)
        add(jobs)
        claim_one(queue)

        assert outbox() == []

    def test_the_url_that_a_job_names_is_told_beside_them(self, jobs, queue, endpoint, outbox):
        known = endpoint()
        add(jobs, webhook={"url": "https://own.example/", "events": ["generation.running"]})
        claim = claim_one(queue)
        queue.settle_canceled(claim.job.id, claim.fence)

        assert sorted((row.type.partition(".")[2], row.endpoint_id or row.url) for row in outbox()) == [
            ("canceled", known),
            ("running", "https://own.example/"),
            ("running", known),
        ]

    def test_the_message_says_how_it_ended_and_shows_neither_prompt_nor_pictures(self, jobs, queue, endpoint, outbox):
        endpoint(wanted=["generation.failed"])
        job = add(jobs, prompt="a secret prompt", metadata={"order": "7"})
        queue.settle_failed(job.id, claim_one(queue).fence, ERROR)

        [row] = outbox()

        assert row.payload["data"]["id"] == job.id
        assert row.payload["data"]["metadata"] == {"order": "7"}
        assert row.payload["data"]["error"] == {"code": "face_not_found", "detail": "no face"}
        assert "secret" not in str(row.payload)


class TestTogether:
    def test_an_end_that_is_rolled_back_leaves_neither_event_nor_webhook(self, jobs, queue, database, endpoint, outbox):
        endpoint(wanted=["generation.canceled"])
        job = add(jobs)
        claim_one(queue)

        def end_and_raise():
            with database.write() as connection:
                assert end(connection, database.now(), table.c.id == job.id, JobStatus.CANCELED)
                assert connection.execute(sa.select(sa.func.count()).select_from(webhook_deliveries)).scalar_one() == 1
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            end_and_raise()

        assert jobs.get("alice", job.id).status is JobStatus.RUNNING
        assert kinds(jobs, job) == ["queued", "running"]
        assert outbox() == []

    def test_jobs_that_are_refused_together_leave_no_event(self, jobs, tenants, database):
        taken = add(jobs)

        with pytest.raises(ConflictError):
            jobs.accept(tenants.get("alice"), [new_job(), new_job(id=taken.id)])

        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one() == 1
