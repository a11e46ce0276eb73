"""The engine with its real threads: what happens beside a step, and when it is closed."""

import threading
import time

import pytest
from doubles.engine import CountingRunner, request

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.errors import EngineStoppedError


@pytest.fixture
def running():
    runner = CountingRunner()
    engine = Engine(runner, Scheduler(max_batch_rows=8, ageing_s=1.0), max_resident_requests=8)
    engine.start()
    yield engine, runner
    runner.gate.set()
    engine.close(5)


def test_the_engine_serves_from_its_own_thread(running):
    engine, _ = running

    pictures = [engine.submit(request(f"r{i}", steps=1 + i)).result(5) for i in range(5)]

    assert [p.pixels[0, 0, 0] for p in pictures] == [1, 2, 3, 4, 5]


def test_closing_fails_what_is_not_done_and_what_comes_later(running):
    engine, runner = running
    runner.gate.clear()
    running_one = engine.submit(request("running", steps=1000))
    closing = threading.Thread(target=engine.close)
    closing.start()

    runner.gate.set()
    closing.join(5)

    assert not engine.alive
    for future in (running_one, engine.submit(request("after"))):
        with pytest.raises(EngineStoppedError):
            future.result(1)


def test_closing_prepares_no_more_requests(running):
    engine, runner = running
    runner.gate.clear()
    futures = [engine.submit(request(f"r{i}")) for i in range(12)]  # four more than may be prepared at once
    closing = threading.Thread(target=engine.close)
    closing.start()

    runner.gate.set()
    closing.join(5)

    assert all(isinstance(future.exception(1), EngineStoppedError) for future in futures)
    assert len(runner.prepared) <= 8


def test_an_engine_given_up_while_its_step_hangs_still_fails_every_request(running):
    engine, runner = running
    runner.gate.clear()
    futures = [engine.submit(request(f"r{i}")) for i in range(12)]
    time.sleep(0.3)
    engine.close(timeout_s=0.1)

    runner.gate.set()

    assert all(isinstance(future.exception(5), EngineStoppedError) for future in futures)


def test_a_finished_picture_does_not_wait_for_the_step_that_runs(running):
    engine, runner = running
    neighbour = engine.submit(request("neighbour", steps=10**9))
    decoding, decoded = threading.Event(), threading.Event()
    finish = runner.finish

    def finish_slowly(states):
        decoding.set()
        decoded.wait(10)
        return finish(states)

    runner.finish = finish_slowly
    future = engine.submit(request("short", steps=1))
    assert decoding.wait(5)
    runner.gate.clear()  # from the next one on, steps hang
    time.sleep(0.1)
    decoded.set()

    assert future.result(2)
    assert not neighbour.done()


def test_the_age_of_a_hanging_step_is_seen(running):
    engine, runner = running
    runner.gate.clear()
    engine.submit(request("hangs"))

    time.sleep(0.3)

    assert engine.alive
    assert engine.step_age_s() > 0.1


def test_a_request_that_comes_while_a_step_runs_is_prepared_before_it_ends(running):
    engine, runner = running
    runner.gate.clear()
    engine.submit(request("hangs"))
    time.sleep(0.1)
    engine.submit(request("newcomer"))

    time.sleep(0.1)

    assert runner.prepared == ["hangs", "newcomer"]
    assert runner.batches == []
