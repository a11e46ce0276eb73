"""What makes a GPU faster changes nothing that is computed; what does is declared."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from instantid_serve.errors import ConfigurationError, NonFiniteOutputError
from instantid_serve.models.acceleration import Acceleration, _blocks, _is_worth_it
from instantid_serve.models.instantid import InstantIDModel


def step(model):
    draw = torch.Generator().manual_seed(1)
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
    conditioning = model.condition(["a king"], [torch.randn(512, generator=draw)], picture)
    latents, at, one = torch.randn(1, 4, 8, 8, generator=draw), torch.tensor([500.0]), torch.ones(1)
    residuals = model.identitynet(latents, at, conditioning, one)
    return model.unet(latents, at, conditioning, text_mask=None, identity_strengths=one, residuals=residuals)


def test_channels_last_computes_the_same(miniature_model, miniature_folder):
    fast = InstantIDModel.load(miniature_folder, acceleration=Acceleration(channels_last=True))

    assert torch.allclose(step(fast), step(miniature_model), rtol=1e-3, atol=1e-4)
    assert fast._parts.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_every_block_of_both_networks_is_a_region_of_its_own(miniature_model):
    parts = miniature_model._parts

    assert len(list(_blocks(parts.unet, parts.identitynet))) == (3 + 1 + 3) + (3 + 1)


def test_a_compiled_model_computes_the_same(miniature_folder, miniature_model):
    # The regions are traced and then run as they are: no C++ compiler is needed for that.
    fast = InstantIDModel.load(miniature_folder, acceleration=Acceleration(compiler="eager"))

    assert torch.allclose(step(fast), step(miniature_model), rtol=1e-3, atol=1e-4)


def test_no_region_uses_up_the_compilations_of_another(miniature_folder):
    """Blocks of one class share a function, and torch limits compilations by function."""
    fast = InstantIDModel.load(miniature_folder, acceleration=Acceleration(compiler="eager"))

    torch._dynamo.reset()  # what other tests compiled would do here, too

    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        assert torch.isfinite(step(fast)).all()


def test_fp8_is_for_large_linear_layers_alone():
    assert _is_worth_it(torch.nn.Linear(640, 640), "")
    assert not _is_worth_it(torch.nn.Linear(64, 640), "")
    assert not _is_worth_it(torch.nn.Linear(650, 640), "")
    assert not _is_worth_it(torch.nn.Conv2d(640, 640, 3), "")


@pytest.mark.parametrize(
    "name", ["time_embedding.linear_2", "add_embedding.linear_1", "mid_block.resnets.0.time_emb_proj"]
)
def test_fp8_leaves_what_every_block_is_told_of_step_and_size_alone(name):
    assert not _is_worth_it(torch.nn.Linear(1280, 1280), name)


def test_fp8_without_torchao_names_what_is_missing(miniature_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)

    with pytest.raises(ConfigurationError, match="torchao"):
        InstantIDModel.load(miniature_folder, acceleration=Acceleration(fp8_linears=True))


@pytest.fixture
def half_precision_model(miniature_folder, tmp_path):
    """The miniature in float16, VAE included, as one whose configuration says that it does not overflow."""
    folder = Path(shutil.copytree(miniature_folder, tmp_path / "model"))
    config = folder / "base" / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": False}))
    return InstantIDModel.load(folder, dtype="float16")


def test_a_vae_that_overflows_after_all_decodes_again_in_full_precision(half_precision_model, miniature_model):
    latents = 9e3 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))  # / 0.13: above float16

    picture = half_precision_model.decode(latents)

    assert np.abs(picture.astype(int) - miniature_model.decode(latents).astype(int)).max() <= 8


def test_latents_that_are_not_finite_are_an_error_in_any_precision(half_precision_model):
    with pytest.raises(NonFiniteOutputError):
        half_precision_model.decode(torch.full((1, 4, 8, 8), torch.inf))
