"""The VAE's decoder by batch, precision and picture size."""

from __future__ import annotations

import copy

import torch
from bench import Bench
from measure import Section, free_memory, middle, repeated, synchronize

_BATCHES = (1, 2, 4, 8)
_GUESS_S = 0.15  # of one picture at the largest size, in the slower precision
_REPEATS = 5


def decode(bench: Bench, section: Section) -> None:
    """Seconds per run of the decoder, and per picture."""
    for dtype in (bench.dtype, torch.float32):
        vae = bench.parts.vae if dtype == bench.dtype else copy.deepcopy(bench.parts.vae).to(dtype)
        for side in (bench.small, bench.large):
            for batch in _BATCHES:
                what = f"{dtype}, {batch} at {side}"
                if section.fits(bench.full * _GUESS_S * batch * (_REPEATS + 2) * (side / 1024) ** 2, what):
                    _measure(bench, section, vae, side, batch)
        free_memory()


@torch.inference_mode()
def _measure(bench: Bench, section: Section, vae: torch.nn.Module, side: int, batch: int) -> None:
    precision = str(vae.dtype).removeprefix("torch.")
    scale = bench.model.latent_scale
    latents = torch.randn(batch, 4, side // scale, side // scale, device=bench.device, dtype=vae.dtype)

    def run() -> None:
        vae.decode(latents, return_dict=False)
        synchronize(bench.device)

    try:
        repeated(run, least=2, most=2, most_s=1.0)
        samples = repeated(run, least=3, most=_REPEATS, most_s=1.0)
    except torch.OutOfMemoryError as error:
        section.add(precision=precision, side=side, batch=batch, out_of_memory=str(error)[:200])
        return
    each = {"seconds": middle(samples), "per_picture_s": middle(samples) / batch}
    section.add(precision=precision, side=side, batch=batch, **each, samples_s=samples)
