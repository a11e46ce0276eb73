"""The fixed-bucket tier: a request's result is the same to the last bit, whoever else is in the engine."""

import dataclasses
import hashlib
import random

import numpy as np
import pytest
from doubles.engine import engine_by_hand
from doubles.varied_requests import make_request

from instantid_serve.engine.runner import Runner

SCHEDULES = 60  # load_tests/bench/g6_exact.py runs a thousand
EXACT_ROWS = 6


def exact_request(number):
    return dataclasses.replace(make_request(number), exact=True, width=32, height=32)


class Session:
    """An engine driven by hand, and the digests of the last latents of its requests."""

    def __init__(self, model):
        self.latents = {}
        runner = Runner(
            model,
            exact_rows=EXACT_ROWS,
            observe=lambda id_, _, latents: self.latents.__setitem__(id_, latents.copy()),
        )
        self.engine = engine_by_hand(runner, max_batch_rows=12, max_resident_requests=12)
        self.futures = {}

    def join(self, request):
        self.futures[request.id] = self.engine.submit(request)

    def run(self):
        while self.engine.tick() or not all(future.done() for future in self.futures.values()):
            pass

    def digest(self, request_id):
        picture = self.futures[request_id].result(0).pixels
        return hashlib.sha256(self.latents[request_id].tobytes() + picture.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def alone(miniature_model):
    """The digest of each request that has the engine for itself."""
    digests = {}

    def digest(number):
        if number not in digests:
            session = Session(miniature_model)
            session.join(exact_request(number))
            session.run()
            digests[number] = session.digest(f"r{number}")
        return digests[number]

    return digest


def run_schedule(model, seed):
    draw = random.Random(f"exact {seed}")
    session = Session(model)
    numbers = draw.sample(range(16), draw.randint(2, 6))
    canceled = set(numbers[: draw.randint(0, 1)])
    for number in numbers:
        session.join(exact_request(number))
        if draw.random() < 0.3:  # someone of the ordinary tier, and of the same size
            session.join(dataclasses.replace(make_request(number), id=f"ordinary{number}", width=32, height=32))
        if draw.random() < 0.3:
            poisoned = np.full(512, np.inf, np.float32)  # comes to NaN, in every step, in its own rows
            session.join(dataclasses.replace(exact_request(number), id=f"nan{number}", embedding=poisoned))
        for _ in range(draw.randint(0, 3)):
            session.engine.tick()
    for number in canceled:
        session.engine.cancel(f"r{number}")
    session.run()
    return session, [number for number in numbers if number not in canceled]


def test_no_company_changes_a_bit(miniature_model, alone):
    for seed in range(SCHEDULES):
        session, well = run_schedule(miniature_model, seed)

        for number in well:
            assert session.digest(f"r{number}") == alone(number), f"schedule {seed}, request {number}"


def test_the_ordinary_tier_does_not_promise_that(miniature_model):
    """Or the test above would show nothing."""
    changed = 0
    for number in range(4):
        one = dataclasses.replace(exact_request(number), exact=False)
        solo, crowd = Session(miniature_model), Session(miniature_model)
        solo.join(one)
        crowd.join(one)
        for other in range(4, 8):
            crowd.join(dataclasses.replace(exact_request(other), exact=False))
        solo.run()
        crowd.run()
        changed += solo.digest(one.id) != crowd.digest(one.id)

    assert changed


def test_every_batch_has_the_fixed_number_of_rows(miniature_model):
    rows = set()

    class Watched:
        def __getattr__(self, name):
            return getattr(miniature_model, name)

        def unet(self, latents, *args, **kwargs):
            rows.add(len(latents))
            return miniature_model.unet(latents, *args, **kwargs)

    session = Session(Watched())
    for number in range(8):
        session.join(exact_request(number))
    session.run()

    assert rows == {EXACT_ROWS}
