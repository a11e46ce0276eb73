"""What only a GPU can show: recorded steps, streams beside them, the same bits, and a host that does not wait.

Every body also runs on the CPU, where nothing is recorded and there are no streams: that shows that the test is right.
"""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from doubles.engine import engine_by_hand, run_all
from doubles.varied_requests import LONG_PROMPT, make_request

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler

EXACT_ROWS = 8
# Rows are padded where steps are recorded, so that kernels may sum in another order (in TF32, on a GPU).
TOLERANCE = {"float32": 5e-3, "bfloat16": 5e-2}
# A step of these must not make the host wait; ancestral, SDE and UniPC samplers copy from the host or solve on it.
QUEUED = ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler", "HeunDiscreteScheduler"]


def one(number, **changes):
    plain = dataclasses.replace(make_request(number), width=64, height=64, steps=6, prompt="a man", negative_prompt="")
    return dataclasses.replace(plain, sampler="EulerDiscreteScheduler", **changes)


# Together they have rows with and without IdentityNet, at all or now, one row alone, and a long prompt (so, a mask).
CROWD = [
    one(1, identitynet_strength=0.8, identitynet_start=0.0, identitynet_end=1.0, guidance_scale=5.0),
    one(2, identitynet_strength=0.6, identitynet_start=0.3, identitynet_end=0.8, guidance_scale=1.0),
    one(3, identitynet_strength=0.0, guidance_scale=4.0),
]
LATE = [dataclasses.replace(one(4, guidance_scale=3.0), prompt=LONG_PROMPT), one(5, guidance_scale=1.0)]


def play(runner):
    """Latents after every step of requests that come and go: (step, id) to an array."""
    seen = {}
    states = [runner.prepare(request) for request in CROWD]
    for step in range(9):
        if step == 3:  # two leave, others take their seats
            states = states[1:2] + [runner.prepare(request) for request in LATE]
        states = [state for state in states if state.step < state.steps]
        assert not runner.step(states)
        seen |= {(step, state.request.id): state.latents.cpu().numpy() for state in states}
    return seen


def test_it_is_a_crowd_with_a_mask_and_idle_rows():
    """Or the tests below would show less than they say."""
    assert len({request.identitynet_strength for request in CROWD}) == 3
    assert len(LATE[0].prompt) > 600


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_equal_launched_ones(load, device, dtype):
    launched = play(Runner(load(dtype), max_rows=8))
    recorded = play(Runner(load(dtype), max_rows=8, graphs=device == "cuda"))

    assert set(launched) == set(recorded)
    for at, latents in launched.items():
        error = np.linalg.norm(recorded[at] - latents) / np.linalg.norm(latents)
        assert error <= TOLERANCE[dtype], at


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_of_the_fixed_bucket_tier_have_the_bits_of_launched_ones(load, device, dtype):
    runners = [Runner(load(dtype), exact_rows=EXACT_ROWS, graphs=g and device == "cuda") for g in (False, True)]
    launched, recorded = (alone(runner, exact(1)) for runner in runners)

    assert np.array_equal(launched, recorded)


def exact(number):
    return dataclasses.replace(one(number), exact=True)


def alone(runner, request):
    state = runner.prepare(request)
    while state.step < state.steps:
        assert not runner.step([state])
    return state.latents.cpu().numpy()


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fixed_bucket_tier_has_the_same_bits_in_any_company(load, device, dtype, graphs):
    latents = {}
    runner = Runner(
        load(dtype),
        exact_rows=EXACT_ROWS,
        graphs=graphs and device == "cuda",
        observe=lambda id_, _, values: latents.__setitem__(id_, values.copy()),
    )
    wanted = {f"r{n}": alone(runner, exact(n)) for n in range(1, 6)}

    engine = engine_by_hand(runner, max_batch_rows=12, max_resident_requests=12)
    for number in range(1, 6):
        engine.submit(exact(number))
        engine.tick()
    engine.cancel("r2")
    run_all(engine)

    for name in ("r1", "r3", "r4", "r5"):
        assert np.array_equal(latents[name], wanted[name]), name


@pytest.mark.parametrize("graphs", [False, True])
def test_preparing_and_decoding_beside_the_steps_make_the_same_pictures(load, device, graphs):
    runner = Runner(load(), exact_rows=EXACT_ROWS, graphs=graphs and device == "cuda")
    requests = [dataclasses.replace(exact(n % 6), id=f"{n}", seed=n) for n in range(24)]
    inline = engine_by_hand(runner, max_batch_rows=8, max_resident_requests=8)
    wanted = [inline.submit(request) for request in requests]
    run_all(inline)

    threaded = Engine(runner, Scheduler(max_batch_rows=8, ageing_s=1.0), max_resident_requests=8)
    threaded.start()
    try:
        pictures = [threaded.submit(request) for request in requests]
        for got, want in zip(pictures, wanted, strict=True):
            assert np.array_equal(got.result(120).pixels, want.result(0).pixels)
    finally:
        threaded.close()


@pytest.mark.parametrize(
    "sampler", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_a_request_goes_on_in_another_engine_with_the_same_bits(load, sampler):
    runner, request = Runner(load()), dataclasses.replace(one(1), sampler=sampler)
    wanted = alone(runner, request)

    state = runner.prepare(request)
    for _ in range(3):
        runner.step([state])
    carried = pickle.loads(pickle.dumps(runner.checkpoint(state)))  # noqa: S301 - our own
    other = Runner(load())
    resumed = other.prepare(request, carried)
    while resumed.step < resumed.steps:
        other.step([resumed])

    assert np.array_equal(resumed.latents.cpu().numpy(), wanted)


@pytest.mark.parametrize("sampler", QUEUED)
def test_a_step_does_not_make_the_host_wait(load, device, sampler):
    runner = Runner(load("bfloat16"), max_rows=8)
    request = dataclasses.replace(one(1, guidance_scale=5.0), sampler=sampler)
    states = [runner.prepare(dataclasses.replace(request, id=str(n))) for n in range(3)]
    for _ in range(3):
        runner.step(states)
    runner.wait()

    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        errors = runner.step(states)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")

    assert not errors
    assert [state.step for state in states] == [4, 4, 4]


def test_the_device_tells_how_long_its_steps_took(load, device):
    runner = Runner(load(), max_rows=8)
    states = [runner.prepare(request) for request in CROWD[:2]]
    runner.step(states)
    runner.wait()
    for _ in range(3):
        runner.step(states)

    timings = runner.timings()

    if device == "cpu":
        assert timings is None  # a step is done when the call returns: whoever calls has a clock
    else:
        assert [what for what, _ in timings] == [(states[0].key, 3)] * 2  # the last one may still be at work
        assert all(0 < seconds < 10 for _, seconds in timings)
        assert runner.timings() == []
