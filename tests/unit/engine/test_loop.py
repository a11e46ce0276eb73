"""The engine's loop: what becomes of a request that is canceled, late, faulty, or in a faulty neighbour's company."""

import pytest
from doubles.engine import Clock, CountingRunner, LateExecutor, engine_by_hand, request, run_all

from instantid_serve.errors import (
    CanceledError,
    DeadlineError,
    GenerationFailedError,
    NonFiniteOutputError,
)
from instantid_serve.log_context import logged, stamp


def test_a_request_runs_its_steps_and_becomes_a_picture():
    engine, progress = engine_by_hand(CountingRunner()), []
    future = engine.submit(request("a", steps=3), progress.append)

    run_all(engine)

    assert future.result(0).pixels[0, 0, 0] == 3
    assert [(p.step, p.steps, p.batch_rows) for p in progress] == [(1, 3, 2), (2, 3, 2), (3, 3, 2)]


def test_a_newcomer_joins_between_two_steps():
    runner = CountingRunner()
    engine = engine_by_hand(runner)
    first = engine.submit(request("first", steps=3))
    engine.tick()
    second = engine.submit(request("second", steps=3))

    run_all(engine)

    assert runner.batches == [["first"], ["first", "second"], ["first", "second"], ["second"]]
    assert first.result(0).stats.max_batch_rows == 4
    assert second.result(0).stats.mean_batch_rows == pytest.approx((4 + 4 + 2) / 3)


def test_a_canceled_request_is_gone_before_the_next_step():
    runner = CountingRunner()
    engine = engine_by_hand(runner)
    future, other = engine.submit(request("a", steps=9)), engine.submit(request("b", steps=2))
    engine.tick()

    engine.cancel("a")
    run_all(engine)

    assert runner.batches == [["b", "a"], ["b"]]
    with pytest.raises(CanceledError):
        future.result(0)
    assert other.result(0)


def test_canceling_the_future_cancels_the_request():
    runner = CountingRunner()
    engine = engine_by_hand(runner)
    future, other = engine.submit(request("a", steps=9)), engine.submit(request("b", steps=2))
    engine.tick()

    future.cancel()
    run_all(engine)

    assert runner.batches == [["b", "a"], ["b"]]
    assert other.result(0)


def test_pictures_that_wait_to_be_decoded_hold_their_places():
    runner, decode_on = CountingRunner(), LateExecutor()
    engine = engine_by_hand(runner, max_resident_requests=2, decode_on=decode_on)
    futures = [engine.submit(request(f"r{i}", steps=1)) for i in range(4)]

    run_all(engine)
    stepped_before_decoding = {name for batch in runner.batches for name in batch}
    decode_on.run_all()
    run_all(engine)
    decode_on.run_all()
    run_all(engine)

    assert stepped_before_decoding == {"r0", "r1"}
    assert all(f.result(0) for f in futures)


def test_a_request_canceled_while_it_is_decoded_gives_its_place_back():
    decode_on = LateExecutor()
    engine = engine_by_hand(CountingRunner(), max_resident_requests=1, decode_on=decode_on)
    first, second = engine.submit(request("first", steps=1)), engine.submit(request("second", steps=1))
    run_all(engine)

    engine.cancel("first")
    run_all(engine)
    decode_on.run_all()
    run_all(engine)
    decode_on.run_all()
    run_all(engine)

    assert isinstance(first.exception(0), CanceledError)
    assert second.result(0)


def test_a_request_canceled_while_it_waits_is_never_prepared():
    runner = CountingRunner()
    engine = engine_by_hand(runner, max_resident_requests=1)
    engine.submit(request("resident", steps=2))
    waiting = engine.submit(request("waiting"))
    engine.tick()

    engine.cancel("waiting")
    run_all(engine)

    assert "waiting" not in {name for batch in runner.batches for name in batch}
    with pytest.raises(CanceledError):
        waiting.result(0)


def test_a_freed_place_goes_to_the_next_that_waits():
    engine = engine_by_hand(CountingRunner(), max_resident_requests=2)
    futures = [engine.submit(request(f"r{i}", steps=1 + i % 3)) for i in range(7)]
    futures += [engine.submit(request("bad", prompt="bad prepare")), engine.submit(request("last"))]

    run_all(engine)

    assert [f.exception(0) is None for f in futures] == [True] * 7 + [False, True]


def test_a_passed_deadline_ends_a_request_without_another_step():
    runner, clock = CountingRunner(), Clock()
    engine = engine_by_hand(runner, clock=clock)
    future = engine.submit(request("late", steps=50, deadline_s=clock() + 1))
    engine.tick()

    clock.now_s += 2
    run_all(engine)

    assert len(runner.batches) == 1
    with pytest.raises(DeadlineError):
        future.result(0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("bad prepare", GenerationFailedError),
        ("bad sampler", GenerationFailedError),
        ("bad forward", GenerationFailedError),
        ("bad decode", NonFiniteOutputError),
    ],
)
def test_a_faulty_request_fails_alone(fault, error):
    engine = engine_by_hand(CountingRunner())
    well = [engine.submit(request(f"well-{i}")) for i in range(2)]
    bad = engine.submit(request("bad", prompt=fault))

    run_all(engine)

    assert [f.result(0).pixels[0, 0, 0] for f in well] == [3, 3]
    with pytest.raises(error):
        bad.result(0)


def test_an_id_in_use_is_refused_and_its_owner_is_unharmed():
    engine = engine_by_hand(CountingRunner())
    owner, second = engine.submit(request("same")), engine.submit(request("same"))

    run_all(engine)

    assert owner.result(0)
    assert isinstance(second.exception(0), GenerationFailedError)


def test_a_refused_request_that_its_caller_gave_up_harms_nobody():
    engine = engine_by_hand(CountingRunner())
    owner, refused, neighbour = (engine.submit(request(name)) for name in ("same", "same", "neighbour"))

    refused.cancel()
    run_all(engine)

    assert owner.result(0)
    assert neighbour.result(0)


def test_a_failing_progress_callback_does_not_stop_the_request():
    engine = engine_by_hand(CountingRunner())
    future = engine.submit(request("a"), lambda _: 1 / 0)

    run_all(engine)

    assert future.result(0)


@pytest.mark.parametrize(
    ("fault", "on_progress"),
    [("", lambda _: 1 / 0), ("bad prepare", None), ("bad sampler", None), ("bad forward", None)],
)
def test_what_goes_wrong_in_the_engines_threads_is_told_of_the_callers_job(caplog, fault, on_progress):
    caplog.handler.addFilter(stamp)
    engine = engine_by_hand(CountingRunner())
    with logged(job_id="gen_1", tenant="acme", attempt=2):
        engine.submit(request("a", prompt=fault), on_progress)

    run_all(engine)

    assert [record.log_fields for record in caplog.records] == [{"job_id": "gen_1", "tenant": "acme", "attempt": 2}]


def test_step_reports_tell_rows_and_requests():
    reports = []
    engine = engine_by_hand(CountingRunner(), on_step=reports.append)
    engine.submit(request("guided", steps=1))
    engine.submit(request("plain", steps=1, guided=False))

    run_all(engine)

    assert [(r.requests, r.rows) for r in reports] == [(2, 3)]


def test_a_failing_listener_to_steps_does_not_stop_the_engine():
    engine = engine_by_hand(CountingRunner(), on_step=lambda _: 1 / 0)
    future = engine.submit(request("a"))

    run_all(engine)

    assert future.result(0)
