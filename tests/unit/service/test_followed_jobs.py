"""What those who follow jobs are told of them."""

from doubles.service import add, claim_one

from instantid_serve.service.job import Beat, JobStatus


def seen(*jobs):
    return {job.id: job.updated_at for job in jobs}


def test_a_job_that_nothing_happened_to_is_not_told(jobs, clock):
    job = add(jobs)
    clock.now += 1

    assert jobs.changed(seen(job)) == {}


def test_progress_is_told(jobs, queue, clock):
    add(jobs)
    claim = claim_one(queue)
    clock.now += 1
    queue.heartbeat([Beat(claim.job.id, claim.fence, 3, 10)], 30)

    told = jobs.changed(seen(claim.job))

    assert told[claim.job.id].step == 3


def test_an_end_is_told_even_when_the_clock_stood_still(jobs):
    job = add(jobs)
    jobs.request_cancel("alice", job.id)

    told = jobs.changed(seen(job))

    assert told[job.id].status is JobStatus.CANCELED


def test_a_change_with_an_earlier_time_is_told(jobs, queue, clock):
    job = add(jobs)
    claim = claim_one(queue)
    clock.now -= 1  # it waited for the row, and bears the time at which it began to wait
    jobs.request_cancel("alice", job.id)

    assert jobs.changed(seen(claim.job))[job.id].cancel_requested


def test_jobs_that_are_gone_are_told_as_none(jobs):
    job = add(jobs)
    jobs.delete("alice", job.id)

    assert jobs.changed({**seen(job), "gen_nobody": 0.0}) == {job.id: None, "gen_nobody": None}


def test_thousands_are_asked_for_together(jobs):
    job = add(jobs)
    many = {f"gen_{number}": 0.0 for number in range(2500)}

    told = jobs.changed(many | {job.id: 0.0})

    assert told.pop(job.id).id == job.id
    assert len(told) == 2500
