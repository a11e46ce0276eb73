"""What becomes of a job when its stages do this or that. The database is real; its time is its own."""

import logging

import pytest
from doubles.service import add
from doubles.stages import STATS, HandStages, SilentStages, dispatching, ended, until

from instantid_serve.errors import (
    CanceledError,
    DeadlineError,
    EngineStoppedError,
    FaceNotFoundError,
    MultipleFacesError,
    NonFiniteOutputError,
    OverloadedError,
    StoreError,
    UnavailableError,
)
from instantid_serve.log_context import stamp
from instantid_serve.service.job import JobStatus


@pytest.fixture
def clock():
    """None: the database's own time."""


@pytest.fixture
def stages():
    return HandStages()


class TestSuccess:
    async def test_every_picture_is_made_and_published_in_order(self, jobs, queue, stages):
        job = add(jobs, count=3, seed=40)

        async with dispatching(queue, stages):
            done = await ended(jobs, job)

        assert done.status is JobStatus.SUCCEEDED
        assert [image.seed for image in done.images] == [40, 41, 42]
        assert [image.key for image in done.images] == [f"alice/{job.id}/1/{index}.png" for index in range(3)]
        assert stages.published == {image.key: image.seed for image in done.images}
        assert (done.step, done.steps) == (30, 30)

    async def test_how_it_was_made_is_kept(self, jobs, queue, stages):
        job = add(jobs)

        async with dispatching(queue, stages):
            done = await ended(jobs, job)

        assert set(done.timings) == {"queue_s", "analyze_s", "generate_s", "publish_s"}
        assert all(seconds >= 0 for seconds in done.timings.values())
        assert done.images[0].stats["denoise_s"] == STATS.denoise_s

    async def test_progress_is_summed_over_the_pictures_while_it_runs(self, jobs, queue, stages):
        stages.gate.clear()
        job = add(jobs, count=3)

        async with dispatching(queue, stages):
            await until(lambda: jobs.get("alice", job.id).step == 3)
            running = jobs.get("alice", job.id)
            stages.gate.set()
            await ended(jobs, job)

        assert (running.status, running.steps) == (JobStatus.RUNNING, 30)


class TestFailure:
    @pytest.mark.parametrize("stage", ["analyze", "generate", "publish"])
    @pytest.mark.parametrize(
        "error", [MultipleFacesError("two faces", {"boxes": [[0, 0, 1, 1]]}), NonFiniteOutputError("NaN")]
    )
    async def test_an_error_that_trying_again_cannot_help_fails_the_job_at_once(
        self, jobs, queue, stages, stage, error
    ):
        stages.faults[stage].append(error)
        job = add(jobs)

        async with dispatching(queue, stages):
            failed = await ended(jobs, job)

        assert (failed.status, failed.error, failed.attempts) == (JobStatus.FAILED, error.to_json(), 1)
        assert stages.calls[stage] == 1

    async def test_an_unforeseen_error_fails_it_without_showing_anything(self, jobs, queue, stages, caplog):
        caplog.set_level(logging.DEBUG)
        caplog.handler.addFilter(stamp)
        stages.faults["generate"].append(ValueError("a secret prompt"))
        job = add(jobs, prompt="a secret prompt")

        async with dispatching(queue, stages):
            failed = await ended(jobs, job)

        [record] = [record for record in caplog.records if record.getMessage() == "work failed"]
        assert (failed.status, failed.error["code"]) == (JobStatus.FAILED, "generation_failed")
        assert record.error == "ValueError"
        assert record.log_fields == {"job_id": job.id, "tenant": "alice", "attempt": 1, "fence": 1}
        assert not [record for record in caplog.records if "a secret prompt" in f"{record.__dict__}"]

    async def test_one_pictures_failure_stops_the_others(self, jobs, queue, stages):
        stages.gate.clear()
        stages.faults["generate"].append(FaceNotFoundError("no face"))
        job = add(jobs, count=3)

        async with dispatching(queue, stages):
            failed = await ended(jobs, job)

        assert failed.error["code"] == "face_not_found"
        assert stages.running == set()

    async def test_the_engines_deadline_expires_it(self, jobs, queue, stages):
        stages.faults["generate"].append(DeadlineError("too late"))
        job = add(jobs)

        async with dispatching(queue, stages):
            assert (await ended(jobs, job)).status is JobStatus.EXPIRED

    async def test_the_engines_cancel_cancels_it(self, jobs, queue, stages):
        stages.faults["generate"].append(CanceledError("canceled"))
        job = add(jobs)

        async with dispatching(queue, stages):
            assert (await ended(jobs, job)).status is JobStatus.CANCELED


class TestTryingAgain:
    @pytest.mark.parametrize("stage", ["analyze", "generate", "publish"])
    async def test_a_stage_that_dies_costs_one_attempt(self, jobs, queue, stages, stage):
        stages.faults[stage].append(UnavailableError("the replica died"))
        job = add(jobs)

        async with dispatching(queue, stages):
            done = await ended(jobs, job)

        assert (done.status, done.attempts, done.fence) == (JobStatus.SUCCEEDED, 2, 2)
        assert done.images[0].key == f"alice/{job.id}/2/0.png"

    async def test_one_that_dies_every_time_fails_it_after_the_last_attempt(self, jobs, queue, stages):
        stages.faults["generate"].extend(EngineStoppedError("stopped") for _ in range(9))
        job = add(jobs)

        async with dispatching(queue, stages):
            failed = await ended(jobs, job)

        assert (failed.status, failed.error["code"]) == (JobStatus.FAILED, "attempts_exhausted")
        assert failed.error["facts"] == {"attempts": 3, "cause": "engine_stopped"}
        assert stages.calls["generate"] == 3

    async def test_a_generation_without_a_picture_is_tried_again(self, jobs, queue):
        stages = SilentStages()
        job = add(jobs)

        async with dispatching(queue, stages):
            failed = await ended(jobs, job)

        assert failed.error["facts"]["cause"] == "engine_stopped"
        assert stages.calls["generate"] == 3

    async def test_a_stage_that_hangs_is_given_up_and_tried_again(self, jobs, queue, stages):
        stages.gate.clear()
        job = add(jobs)

        async with dispatching(queue, stages, stage_timeout_s=0.1):
            failed = await ended(jobs, job)

        assert failed.error["facts"] == {"attempts": 3, "cause": "unavailable"}
        assert stages.running == set()

    async def test_being_refused_by_a_full_stage_is_no_attempt(self, jobs, queue, stages):
        stages.faults["analyze"].extend(OverloadedError("full") for _ in range(6))
        job = add(jobs)

        async with dispatching(queue, stages):
            done = await ended(jobs, job)

        assert (done.status, done.attempts, done.fence) == (JobStatus.SUCCEEDED, 1, 7)

    async def test_an_outage_of_the_result_store_costs_neither_an_attempt_nor_a_picture(self, jobs, queue, stages):
        stages.faults["publish"].extend(StoreError("down") for _ in range(3))
        job = add(jobs)

        async with dispatching(queue, stages):
            done = await ended(jobs, job)

        assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
        assert (stages.calls["generate"], stages.calls["publish"]) == (1, 4)


class TestCancel:
    async def test_a_running_job_leaves_the_engine_and_ends_canceled(self, jobs, queue, stages):
        stages.gate.clear()
        job = add(jobs, count=2)
        async with dispatching(queue, stages):
            await until(lambda: len(stages.running) == 2)

            jobs.request_cancel("alice", job.id)
            canceled = await ended(jobs, job)

            assert (canceled.status, canceled.images) == (JobStatus.CANCELED, ())
            assert stages.running == set()

    async def test_others_go_on(self, jobs, queue, stages):
        stages.gate.clear()
        canceled, other = add(jobs), add(jobs)
        async with dispatching(queue, stages):
            await until(lambda: len(stages.running) == 2)

            jobs.request_cancel("alice", canceled.id)
            await ended(jobs, canceled)
            stages.gate.set()

            assert (await ended(jobs, other)).status is JobStatus.SUCCEEDED


class TestBudget:
    async def test_no_more_pictures_are_in_flight_than_allowed(self, jobs, queue, stages):
        waiting = [add(jobs, count=2) for _ in range(6)]

        async with dispatching(queue, stages, max_pictures_in_flight=4):
            done = [await ended(jobs, job) for job in waiting]

        assert {job.status for job in done} == {JobStatus.SUCCEEDED}
        assert stages.most_running <= 4

    async def test_a_job_larger_than_the_budget_still_runs(self, jobs, queue, stages):
        job = add(jobs, count=4)

        async with dispatching(queue, stages, max_pictures_in_flight=2):
            assert (await ended(jobs, job)).status is JobStatus.SUCCEEDED
