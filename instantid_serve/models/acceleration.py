"""What makes a forward pass faster on a GPU without changing what is computed, and one thing that does change it.

Everything here is off by default and harmless on a CPU, where the tests run it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from instantid_serve.errors import ConfigurationError
from instantid_serve.models.checkpoint import Components

# Shapes that one region may be compiled for: rows, sizes and text lengths, until dimensions have become dynamic.
_MOST_RECOMPILES = 32
# Below this many inputs or outputs a quantised product is slower than the plain one; and kernels want multiples of 16.
_FP8_MIN_FEATURES = 512
_FP8_MULTIPLE = 16
_EMBEDDINGS = ("time_emb", "add_emb")  # one vector per row that every block depends on: no time to win, much to lose


@dataclasses.dataclass(frozen=True, slots=True)
class Acceleration:
    """``channels_last``: convolutions' own memory layout. ``compiler``: fuses each block's work (`inductor`).

    ``fp8_linears`` rounds the inputs and weights of large linear layers to eight bits, which changes pictures: whoever
    serves with it says so in every result. Needs torchao and a GPU with fp8 units (compute capability 8.9 or more).
    """

    channels_last: bool = False
    compiler: str | None = None
    fp8_linears: bool = False


def accelerate(parts: Components, wanted: Acceleration) -> None:
    """Change the two networks and the VAE in place, after their attention was replaced.

    Raises ConfigurationError when fp8 is asked for and torchao is not installed.
    """
    if wanted.channels_last:
        for network in (parts.unet, parts.identitynet, parts.vae):
            network.to(memory_format=torch.channels_last)
    if wanted.fp8_linears:
        _quantize(parts.unet)
        _quantize(parts.identitynet)
    if wanted.compiler:
        for region in (*_blocks(parts.unet, parts.identitynet), parts.vae.decoder):
            # torch limits compilations by function, and most blocks share one: the two networks' cross-attention blocks
            # together use up its 8 with the second batch size, and the first long prompt would run uncompiled.
            region.compile(backend=wanted.compiler, isolate_recompiles=True, recompile_limit=_MOST_RECOMPILES)


def _blocks(*networks: Any) -> Iterator[nn.Module]:  # noqa: ANN401 - diffusers ships no types
    """The blocks of the networks: one region each, because compiling a whole network takes minutes per shape."""
    for network in networks:
        yield from network.down_blocks
        yield network.mid_block
        yield from getattr(network, "up_blocks", ())


def _quantize(network: nn.Module) -> None:
    try:
        from torchao.quantization import (  # noqa: PLC0415 - an extra that only this needs
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise ConfigurationError("engine.fp8_linears needs torchao: install the extra `fp8`") from error
    quantize_(network, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=_is_worth_it)


def _is_worth_it(module: nn.Module, name: str) -> bool:
    if not isinstance(module, nn.Linear) or any(part in name for part in _EMBEDDINGS):
        return False
    features = (module.in_features, module.out_features)
    return min(features) >= _FP8_MIN_FEATURES and not any(f % _FP8_MULTIPLE for f in features)
