"""The model's forward passes: every condition counts, and no row sees another's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from instantid_serve.errors import InvalidRequestError, WeightsError
from instantid_serve.models.checkpoint import load_components
from instantid_serve.models.instantid import InstantIDModel

ROWS, SIDE = 3, 8


@pytest.fixture
def rows(miniature_model):
    """Inputs of three rows that have nothing in common."""
    draw = torch.Generator().manual_seed(5)
    pictures = torch.randint(0, 256, (ROWS, SIDE * 8, SIDE * 8, 3), generator=draw, dtype=torch.uint8)
    conditioned = [
        miniature_model.condition([prompt], [torch.randn(512, generator=draw)], picture)
        for prompt, picture in zip(("a man", "a woman in the snow", "film noir"), pictures, strict=True)
    ]
    return {
        "latents": torch.randn(ROWS, miniature_model.latent_channels, SIDE, SIDE, generator=draw),
        "timesteps": torch.tensor([999.0, 500.0, 20.0]),
        **{name: torch.cat([c[name] for c in conditioned]) for name in conditioned[0]},
        "identity_strengths": torch.tensor([0.0, 0.8, 1.3]),
        "strengths": torch.tensor([0.4, 0.8, 1.0]),
    }


def forward(model, rows):
    return model.unet(
        rows["latents"],
        rows["timesteps"],
        rows,
        text_mask=rows.get("text_mask"),
        identity_strengths=rows["identity_strengths"],
        residuals=model.identitynet(rows["latents"], rows["timesteps"], rows, rows["strengths"]),
    )


def one_row(rows, at):
    return {name: value[at : at + 1] for name, value in rows.items()}


def relative_error(actual, wanted):
    return float((actual - wanted).norm() / wanted.norm())


def test_every_row_of_a_batch_is_what_it_is_alone(miniature_model, rows):
    together = forward(miniature_model, rows)

    for at in range(ROWS):
        assert relative_error(together[at], forward(miniature_model, one_row(rows, at))[0]) < 1e-5


@pytest.mark.parametrize(
    "name", ["identity", "identitynet", "text", "hint", "strengths", "identity_strengths", "pooled"]
)
def test_every_condition_of_a_row_counts_for_that_row_alone(miniature_model, rows, name):
    changed = {**rows, name: rows[name].clone()}
    changed[name][1] = rows[name][2] + 0.25

    before, after = forward(miniature_model, rows), forward(miniature_model, changed)

    assert relative_error(after[1], before[1]) > 1e-3
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])


def test_masked_text_padding_changes_nothing(miniature_model, rows):
    padding = torch.full((ROWS, 77, rows["text"].shape[2]), 9.0)
    mask = torch.cat([torch.ones(ROWS, 77), torch.zeros(ROWS, 77)], dim=1)
    padded = {**rows, "text": torch.cat([rows["text"], padding], dim=1), "text_mask": mask}

    assert relative_error(forward(miniature_model, padded), forward(miniature_model, rows)) < 1e-5


def test_decoding_one_picture_or_many_gives_the_same(miniature_model):
    latents = torch.randn(3, miniature_model.latent_channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))

    together = miniature_model.decode(latents)
    alone = np.concatenate([miniature_model.decode(latents[i : i + 1]) for i in range(3)])

    assert together.shape == (3, 64, 64, 3)
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


def test_a_sampler_that_is_not_served_is_refused(miniature_model):
    with pytest.raises(InvalidRequestError):
        miniature_model.new_sampler("StableDiffusionXLPipeline", {})


def test_each_request_gets_a_sampler_of_its_own(miniature_model):
    one, other = (miniature_model.new_sampler("EulerDiscreteScheduler", {}) for _ in range(2))

    assert one is not other


def test_a_folder_without_a_manifest_is_not_opened(tmp_path):
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        InstantIDModel.open(tmp_path, device="cpu", dtype="float32")


def test_a_folder_that_lacks_a_part_says_so(tmp_path):
    with pytest.raises(WeightsError, match="does not load"):
        InstantIDModel.load(tmp_path)


@pytest.mark.parametrize(("dtype", "wanted"), [("float16", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_vae_that_overflows_in_half_precision_decodes_in_full(miniature_folder, dtype, wanted):
    # The miniature's VAE says of itself what SDXL's does: force_upcast.
    parts = load_components(miniature_folder, device="cpu", dtype=getattr(torch, dtype))

    assert parts.vae.dtype == wanted
    assert parts.unet.dtype == getattr(torch, dtype)


def test_a_vae_made_for_half_precision_keeps_it(miniature_folder, tmp_path):
    folder = Path(shutil.copytree(miniature_folder, tmp_path / "model"))
    config = folder / "base" / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": False}))

    assert load_components(folder, device="cpu", dtype=torch.float16).vae.dtype == torch.float16
