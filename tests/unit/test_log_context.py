import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor

from instantid_serve.log_context import logged, logged_fields, note, stamp


def test_outside_of_every_scope_a_line_is_about_nothing_and_a_note_changes_nothing():
    note(tenant="acme")

    assert logged_fields() == {}


def test_scopes_nest_and_what_was_said_before_holds_again_afterwards():
    with logged(job_id="gen_1", attempt=1):
        with logged(attempt=2, fence=7):
            inside = logged_fields()
        after = logged_fields()

    assert inside == {"job_id": "gen_1", "attempt": 2, "fence": 7}
    assert after == {"job_id": "gen_1", "attempt": 1}


def test_what_is_learnt_in_a_thread_is_known_to_the_scope_that_began_it():
    with logged(request_id="r"), ThreadPoolExecutor(1) as threads:
        threads.submit(contextvars.copy_context().run, lambda: note(job_id="gen_1")).result()

        assert logged_fields() == {"request_id": "r", "job_id": "gen_1"}


async def test_tasks_of_different_jobs_do_not_see_each_other_and_their_children_inherit():
    async def child(number):
        await asyncio.sleep(0)
        return [logged_fields(), await asyncio.to_thread(logged_fields)], number

    async def job(number):
        with logged(job_id=f"gen_{number}"):
            return await asyncio.create_task(child(number))

    found = await asyncio.gather(*(job(number) for number in range(5)))

    assert all(seen == [{"job_id": f"gen_{number}"}] * 2 for seen, number in found)


def test_a_record_keeps_what_it_was_about_when_it_is_stamped_again_elsewhere():
    record = logging.makeLogRecord({})
    with logged(job_id="gen_1"):
        stamp(record)

    with logged(job_id="gen_2"):
        stamp(record)

    assert record.log_fields == {"job_id": "gen_1"}
