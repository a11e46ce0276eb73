"""The sampler tables against the installed diffusers."""

import diffusers
import numpy as np
import pytest
from doubles.engine import engine_by_hand, run_all

from instantid_serve.engine.runner import Runner
from instantid_serve.errors import InvalidRequestError
from instantid_serve.messages import Request
from instantid_serve.samplers import CLASS_NAMES, SHORT_NAMES, resolve

# Compatible by diffusers' own list, but not served: one needs another package, one another kind of model.
NOT_SERVED = {"DPMSolverSDEScheduler", "EDMEulerScheduler"}
FEW_STEP = {"LCMScheduler", "TCDScheduler"}


def test_every_sampler_that_diffusers_lists_for_sdxl_is_served():
    listed = {c.__name__ for c in diffusers.EulerDiscreteScheduler.from_config({}).compatibles}

    assert listed - NOT_SERVED | FEW_STEP == CLASS_NAMES


@pytest.mark.parametrize("name", sorted(SHORT_NAMES))
def test_a_short_name_stands_for_a_served_class(name):
    class_name, options = resolve(name)

    assert class_name in CLASS_NAMES
    assert set(options) <= set(getattr(diffusers, class_name)().config)


@pytest.mark.parametrize("name", ["", "eulr", "os.system", "StableDiffusionXLPipeline", "../euler", "Euler" * 999])
def test_any_other_name_is_refused_with_the_known_ones(name):
    with pytest.raises(InvalidRequestError) as refusal:
        resolve(name)

    assert "euler" in refusal.value.facts["known"]


@pytest.mark.parametrize("name", sorted(CLASS_NAMES | set(SHORT_NAMES)))
def test_every_sampler_makes_a_finite_picture(miniature_model, name):
    class_name, options = resolve(name)
    engine = engine_by_hand(Runner(miniature_model))
    future = engine.submit(
        Request(
            id=name,
            prompt="a portrait",
            seed=1,
            width=64,
            height=64,
            embedding=np.ones(512, np.float32),
            landmarks=np.array([[22, 25], [42, 24], [32, 34], [25, 45], [40, 44]], np.float32),
            steps=4,
            sampler=class_name,
            sampler_options=options,
        )
    )

    run_all(engine)

    assert future.result(0).pixels.shape == (64, 64, 3)
