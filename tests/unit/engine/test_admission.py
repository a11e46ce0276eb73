"""What may be in the engine at once, in requests and in bytes."""

import pytest
from doubles.engine import CountingRunner, engine_by_hand, request, run_all

from instantid_serve.errors import InvalidRequestError


def test_requests_wait_until_the_bytes_they_need_are_free():
    runner = CountingRunner()
    engine = engine_by_hand(runner, state_bytes=250)  # 100 each
    futures = [engine.submit(request(f"r{i}", steps=2)) for i in range(5)]

    run_all(engine)

    assert max(len(batch) for batch in runner.batches) == 2
    assert all(future.result(0) for future in futures)


def test_what_a_request_turned_out_to_hold_is_what_it_is_charged():
    runner = CountingRunner()
    engine = engine_by_hand(runner, state_bytes=320)
    futures = [engine.submit(request(f"r{i}", prompt="well well", steps=2)) for i in range(2)]  # estimated at 200 each
    run_all(engine)

    assert [len(batch) for batch in runner.batches] == [2, 2]
    assert all(future.result(0) for future in futures)
    assert engine.charged_bytes == 0


def test_a_request_that_could_never_fit_is_refused():
    engine = engine_by_hand(CountingRunner(), state_bytes=50)
    future = engine.submit(request("huge"))

    run_all(engine)

    with pytest.raises(InvalidRequestError):
        future.result(0)


@pytest.mark.parametrize("prompt", ["well", "bad prepare", "bad sampler", "bad forward", "bad decode"])
def test_however_a_request_ends_its_bytes_are_free_again(prompt):
    engine = engine_by_hand(CountingRunner(), state_bytes=250)
    canceled = engine.submit(request("canceled", steps=9))
    future = engine.submit(request("r", prompt=prompt))
    waiting = engine.submit(request("waiting"))
    engine.tick()

    canceled.cancel()
    waiting.cancel()
    run_all(engine)

    assert future.done()
    assert engine.charged_bytes == 0
