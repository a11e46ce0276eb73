"""What a request gets depends on itself alone: on the real model, in any company, whoever leaves or fails."""

import dataclasses
import functools
import itertools
import random

import numpy as np
import pytest
import torch
from doubles.varied_requests import make_request

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.models.instantid import InstantIDModel
from instantid_serve.verify import InlineExecutor

SCHEDULES = 200
TOLERANCE = 1e-5


class FailingSampler:
    """A sampler that works until its n-th step."""

    def __init__(self, sampler, failing_step):
        self._sampler, self._left = sampler, failing_step

    def __getattr__(self, name):
        return getattr(self._sampler, name)

    def step(self, *args, **kwargs):
        self._left -= 1
        if self._left < 0:
            raise ArithmeticError("the sampler fails here")
        return self._sampler.step(*args, **kwargs)


class FaultyModel:
    """The real model, in which some requests bring trouble: by prompt, or by a sampler option of this double."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def new_sampler(self, class_name, options):
        options = dict(options)
        failing_step = options.pop("failing_step", None)
        sampler = self._model.new_sampler(class_name, options)
        return sampler if failing_step is None else FailingSampler(sampler, failing_step)

    def condition(self, prompts, faces, picture, *, scope):
        if "cannot be encoded" in prompts[-1]:
            raise ValueError("this prompt cannot be encoded")
        conditioning = self._model.condition(prompts, faces, picture, scope=scope)
        if "poisons the batch" in prompts[-1]:
            return conditioning | {"pooled": torch.full_like(conditioning["pooled"], torch.inf)}
        return conditioning

    def decode(self, latents):
        return np.zeros((len(latents), 8, 8, 3), np.uint8)  # the latents are what is compared

    def unet(self, latents, timesteps, conditioning, **rest):
        if not torch.isfinite(conditioning["pooled"]).all():
            raise RuntimeError("out of memory")
        return self._model.unet(latents, timesteps, conditioning, **rest)


FAULTS = (
    {"prompt": "this cannot be encoded"},
    {"prompt": "this poisons the batch"},
    {"sampler_options": {"failing_step": 0}},
    {"sampler_options": {"failing_step": 1}},
)


class Session:
    """An engine driven by hand on the real model, and the last latents of every request."""

    def __init__(self, model, max_batch_rows=12):
        self.latents, self.futures = {}, {}
        inline = InlineExecutor()
        self.engine = Engine(
            Runner(model, observe=lambda id_, _, latents: self.latents.__setitem__(id_, latents.copy())),
            Scheduler(max_batch_rows=max_batch_rows, ageing_s=0.5),
            max_resident_requests=6,
            prepare_on=inline,
            decode_on=inline,
        )

    def join(self, request):
        self.futures[request.id] = self.engine.submit(request)

    def run(self):
        while self.engine.tick() or any(not f.done() for f in self.futures.values()):
            pass


@pytest.fixture(scope="module")
def calm_model(miniature_folder):
    """The miniature with its residual branches halved.

    As shipped it is so lively that rounding the last place of a request's own embedding moves a few of these requests
    by 2e-5, more than the tolerance that neighbours are held to here; calmed, by 5e-6.
    """
    model = InstantIDModel.open(miniature_folder, device="cpu", dtype="float32")
    for part in (model._parts.unet, model._parts.identitynet):
        for name, weight in part.named_parameters():
            if any(branch in name for branch in ("to_out.weight", "ff.net.2.weight")):
                weight.mul_(0.5)
    return model


@functools.cache
def solo(model, number):
    session = Session(model)
    session.join(make_request(number))
    session.run()
    return session.latents[f"r{number}"]


def relative_error(actual, wanted):
    return np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)


def run_schedule(model, seed):
    """Join, cancel and fail at random moments. Returns the session and the numbers of those that should end well."""
    draw = random.Random(f"schedule {seed}")
    session = Session(FaultyModel(model), max_batch_rows=draw.choice([2, 5, 12]))
    arrivals = draw.sample(range(24), draw.randint(3, 6))
    canceled = set(draw.sample(arrivals, draw.randint(0, 2)))
    for number in arrivals:
        session.join(make_request(number))
        if draw.random() < 0.4:
            trouble = dataclasses.replace(make_request(number), id=f"bad{number}", **draw.choice(FAULTS))
            session.join(trouble)
        for _ in range(draw.randint(0, 2)):
            session.engine.tick()
        if canceled and draw.random() < 0.5:
            session.engine.cancel(f"r{draw.choice(sorted(canceled))}")
    for number in canceled:
        session.engine.cancel(f"r{number}")
    session.run()
    return session, [n for n in arrivals if n not in canceled]


@pytest.mark.timeout(600)
def test_no_schedule_of_joins_cancels_and_failures_changes_what_another_gets(calm_model):
    worst = 0.0

    for seed in range(SCHEDULES):
        session, well = run_schedule(calm_model, seed)
        for number in well:
            assert session.futures[f"r{number}"].exception(0) is None
            error = relative_error(session.latents[f"r{number}"], solo(calm_model, number))
            worst = max(worst, error)
            assert error <= TOLERANCE, f"schedule {seed}, request {number}"
        for name in session.futures:
            assert not name.startswith("bad") or session.futures[name].exception(0) is not None

    print(f"worst relative error over {SCHEDULES} schedules: {worst:.2e}")  # noqa: T201 - shown with -s


def test_the_requests_of_these_schedules_differ_from_each_other(calm_model):
    finished = [solo(calm_model, number) for number in range(24)]

    for a, b in itertools.combinations(finished, 2):
        assert a.shape != b.shape or relative_error(a, b) > 100 * TOLERANCE
