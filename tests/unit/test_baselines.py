"""The baselines of the benchmarks are right: they make the pictures our engine makes, alone and several in a call."""

import numpy as np
import pytest

from instantid_serve.engine.runner import Runner
from instantid_serve.messages import Request
from load_tests.bench import baselines, engines, traffic
from load_tests.bench.baselines_keyed import GuidanceKeyedRunner, HeadOfLineScheduler

TOLERANCE = 1e-4
REQUESTS = [
    traffic.make_request(n, side_px=64, steps=4, sampler=sampler, guidance_scale=guidance_scale)
    for n, (sampler, guidance_scale) in enumerate(
        2 * [(s, g) for s in (*traffic.SAMPLERS, "EulerAncestralDiscreteScheduler") for g in (1.0, 5.0)]
    )
]


@pytest.fixture(scope="module")
def plain(miniature_folder):
    return baselines.PlainDiffusers(miniature_folder)


@pytest.fixture(scope="module")
def engine_latents(miniature_model):
    return latents_of(miniature_model, Runner, engines.scheduler())


def latents_of(model, runner_class, scheduler):
    latents = {}
    observed = runner_class(model, observe=lambda id_, _, values: latents.__setitem__(id_, values[0].copy()))
    engines.ByHand(observed, scheduler).run(REQUESTS)
    return latents


def relative_error(actual, wanted):
    return np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("request_", REQUESTS[:4], ids=lambda r: r.id)
def test_one_request_per_call_equals_the_engine(plain, engine_latents, request_):
    (latents,) = plain.call([request_], "latent").images.numpy()

    assert relative_error(latents, engine_latents[request_.id]) <= TOLERANCE


def test_several_people_in_one_call_equal_the_engine(plain, engine_latents):
    for group in baselines.groups(REQUESTS, max_rows=16):
        assert len(group) > 1
        for request, latents in zip(group, plain.call(group, "latent").images.numpy(), strict=True):
            assert relative_error(latents, engine_latents[request.id]) <= TOLERANCE, request.id


def test_the_guidance_keyed_engine_makes_the_same_pictures(miniature_model, engine_latents):
    keyed = latents_of(miniature_model, GuidanceKeyedRunner, HeadOfLineScheduler(max_batch_rows=16))

    for request in REQUESTS:
        assert relative_error(keyed[request.id], engine_latents[request.id]) <= TOLERANCE, request.id


def test_the_static_batcher_serves_everybody_and_groups_what_is_alike(plain):
    alike: list[Request] = [traffic.make_request(n, side_px=32, steps=2) for n in range(3)]
    other = traffic.make_request(9, side_px=32, steps=2, guidance_scale=3.0)

    with baselines.StaticBatcher(plain, max_batch_requests=4, max_rows=4, wait_timeout_s=5.0) as batcher:
        made = [batcher.submit(r) for r in (*alike, other)]
        assert all(len(f.result(30).images) >= 1 for f in made)

    assert batcher.batches == [[2, 1, 1]]
