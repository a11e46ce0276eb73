"""A request leaves one engine between two steps and goes on in another, with the same bits."""

import dataclasses
import pickle
import random

import numpy as np
import pytest
from doubles.engine import CountingRunner, engine_by_hand, request, run_all
from doubles.varied_requests import make_request

from instantid_serve.engine.runner import Runner
from instantid_serve.engine.ticket import HandedOver
from instantid_serve.samplers import CLASS_NAMES

POINTS = 200
STEPS = 6


def left(future):
    """The checkpoint with which a request left."""
    error = future.exception(0)
    assert isinstance(error, HandedOver)
    return error.checkpoint


def test_a_request_goes_on_at_its_step_and_no_step_is_repeated():
    first, second = CountingRunner(), CountingRunner()
    engine, other = engine_by_hand(first), engine_by_hand(second)
    future = engine.submit(request("a", steps=5))
    engine.tick()
    engine.tick()

    engine.hand_over()
    run_all(engine)
    resumed = other.submit(request("a", steps=5), checkpoint=left(future))
    run_all(other)

    assert len(first.batches) + len(second.batches) == 5
    assert resumed.result(0).pixels[0, 0, 0] == 5
    assert resumed.result(0).stats.moves == 1
    assert resumed.result(0).stats.mean_batch_rows == 2


def test_whoever_waits_or_comes_later_is_handed_over_without_a_step():
    engine = engine_by_hand(CountingRunner(), max_resident_requests=1)
    inside, waiting = engine.submit(request("inside", steps=5)), engine.submit(request("waiting"))
    engine.tick()

    engine.hand_over()
    late = engine.submit(request("late"))
    run_all(engine)

    assert left(inside).step == 1
    assert left(waiting) is None
    assert left(late) is None
    assert engine.charged_bytes == 0


def test_a_picture_whose_steps_are_done_is_still_finished():
    engine = engine_by_hand(CountingRunner())
    future = engine.submit(request("a", steps=1))
    engine.tick()

    engine.hand_over()
    run_all(engine)

    assert future.result(0)


def test_a_checkpoint_that_is_moved_again_before_a_step_stays_what_it_was():
    engine, other = engine_by_hand(CountingRunner()), engine_by_hand(CountingRunner())
    future = engine.submit(request("a", steps=5))
    engine.tick()
    engine.hand_over()
    run_all(engine)

    other.hand_over()
    again = other.submit(request("a", steps=5), checkpoint=left(future))
    run_all(other)

    assert left(again) is left(future)


# On the real model.


def finished(runner, state):
    while state.step < state.steps:
        assert not runner.step([state])
    return state.latents.numpy()


def moved(runner, one, step):
    """Interrupt after ``step`` steps; carry the checkpoint as Ray would; go on in another runner."""
    state = runner.prepare(one)
    for _ in range(step):
        runner.step([state])
    carried = pickle.loads(pickle.dumps(runner.checkpoint(state)))  # noqa: S301 - our own
    other = Runner(runner._model)
    return finished(other, other.prepare(one, carried))


@pytest.mark.timeout(600)
def test_any_request_interrupted_at_any_step_ends_with_the_same_bits(miniature_model):
    runner, draw = Runner(miniature_model), random.Random(1)
    uninterrupted = {}

    for _ in range(POINTS):
        number = draw.randrange(40)
        one = dataclasses.replace(make_request(number), steps=STEPS, width=32, height=32)
        if number not in uninterrupted:
            uninterrupted[number] = finished(runner, runner.prepare(one))
        step = draw.randrange(1, STEPS)

        assert np.array_equal(moved(runner, one, step), uninterrupted[number]), (number, step)


@pytest.mark.parametrize("sampler", sorted(CLASS_NAMES))
def test_every_sampler_goes_on_with_the_same_bits(miniature_model, sampler):
    runner = Runner(miniature_model)
    one = dataclasses.replace(make_request(3), sampler=sampler, steps=5, width=32, height=32)
    steps = runner.prepare(one).steps
    wanted = finished(runner, runner.prepare(one))

    for step in range(1, steps, 2):
        assert np.array_equal(moved(runner, one, step), wanted), step


def test_states_of_samplers_differ_from_new_ones(miniature_model):
    """Or the test above would show nothing: a multistep sampler without its past goes elsewhere."""
    runner = Runner(miniature_model)
    one = dataclasses.replace(make_request(3), sampler="DPMSolverMultistepScheduler", steps=5)
    state = runner.prepare(one)
    for _ in range(3):
        runner.step([state])
    forgetful = dataclasses.replace(runner.checkpoint(state), sampler={"_step_index": 3})

    got = finished(runner, runner.prepare(one, forgetful))

    assert not np.array_equal(got, finished(runner, runner.prepare(one)))
