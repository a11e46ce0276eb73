"""The numbers of the miniature's weights: random, the same on every machine, and arranged so that sampling converges.

Random numbers come as raw integers from Philox, whose stream numpy guarantees, keyed by the tensor's name; what is done
with them is exact or elementwise. So neither the machine, nor the number of threads, nor the order of construction
changes a byte.
"""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np
import torch
from numpy.typing import NDArray

# Standard deviations in units of 1/sqrt(inputs), first match wins. 1 keeps a signal's size. Raised where a condition
# enters, because 16 identity tokens or 77 text tokens, averaged by a random attention, all but cancel out.
_GAINS = (
    (re.compile(r"_embedding\.weight$"), 3.0),
    (re.compile(r"attn\d\.to_q\.weight$|self_attn\.[qk]_proj\.weight$|\.to_k_ip\.weight$"), 2.0),
    (re.compile(r"attn2\.to_out\.0\.weight$|\.to_v_ip\.weight$"), 2.0),
    (re.compile(r"^image_proj\.layers\.\d\.0\.to_(q|kv|out)\.weight$"), 2.0),
    (re.compile(r"controlnet_cond_embedding\.conv_out\.weight$"), 12.0),
    (re.compile(r"controlnet_(down_blocks\.\d+|mid_block)\.weight$"), 0.7),
    (re.compile(r"^base/vae\.decoder\.conv_out\.weight$"), 0.8),
)
_BIAS = 0.05
_BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16  # smooth pictures: each 3x3 kernel is mostly this
_SMOOTHNESS = 0.8

# The UNet's prediction: the noise it is given, times this, plus a picture of its own, times that. Above 1 the noise
# shrinks faster than the sampler expects, and what remains at the end is the picture.
_NOISE_GAIN, _PICTURE_GAIN = 1.3, 0.35


def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the tensor of that name: norms are 1, biases small, kernels smooth, the rest uniform."""
    if name.endswith(".bias"):
        return _uniform(name, shape) * np.float32(_BIAS)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    gain = next((gain for pattern, gain in _GAINS if pattern.search(name)), 1.0)
    if shape[2:] == (3, 3):
        return _smooth_kernels(name, shape) * np.float32(gain / math.sqrt(shape[1]))
    return _uniform(name, shape) * np.float32(gain / math.sqrt(math.prod(shape[1:])))


def fill(name: str, module: torch.nn.Module) -> None:
    """Draw every weight of a module."""
    for key, tensor in module.state_dict().items():
        tensor.copy_(torch.from_numpy(draw(f"{name}.{key}", tuple(tensor.shape))))


def pass_noise_through(unet: torch.nn.Module) -> None:
    """Lay a straight path for the UNet's input, past everything it computes, to its output.

    It takes two channels for each latent channel, x and -x, because silu(x) - silu(-x) is x. They go over the last skip
    connection and through the shortcut of the last block; the norm before the output only scales them.
    """
    state = unet.state_dict()
    latents, width = state["conv_out.weight"].shape[0], state["conv_in.weight"].shape[0]
    state["conv_out.weight"].mul_(_PICTURE_GAIN)
    last = f"up_blocks.2.resnets.{_last_block(state)}"
    for channel in range(latents):
        for index, sign in ((2 * channel, 1.0), (2 * channel + 1, -1.0)):
            _only(state, "conv_in", index)[channel, 1, 1] = sign
            _only(state, f"{last}.conv2", index)
            _only(state, f"{last}.conv_shortcut", index)[width + index] = 1.0
            state["conv_out.weight"][:, index] = 0.0
            state["conv_out.weight"][channel, index, 1, 1] = sign * _NOISE_GAIN


def balance_colors(vae: torch.nn.Module) -> None:
    """Without a cast: what all features have in common adds nothing to red, green or blue."""
    weight = vae.state_dict()["decoder.conv_out.weight"]
    weight.sub_(weight.mean(dim=(1, 2, 3), keepdim=True))


def _only(state: dict[str, torch.Tensor], layer: str, index: int) -> torch.Tensor:
    """Clear what a layer adds up for one output channel; return its weights to set one of them."""
    state[f"{layer}.bias"][index] = 0.0
    return state[f"{layer}.weight"][index].zero_()


def _last_block(state: dict[str, torch.Tensor]) -> int:
    return max(int(key.split(".")[3]) for key in state if key.startswith("up_blocks.2.resnets."))


def _smooth_kernels(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """3x3 kernels of unit gain: a blur that mixes channels at random, and a little of everything."""
    mix = _uniform(f"{name}:mix", shape[:2])[:, :, None, None] * _BLUR
    rough = _uniform(name, shape) / np.float32(3)
    return mix * np.float32(_SMOOTHNESS * 2) + rough * np.float32(1 - _SMOOTHNESS)


def _uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform numbers of variance 1, in [-sqrt(3), sqrt(3))."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))
    # 24 bits: every value is exact in float32
    unit = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    return ((unit - np.float32(0.5)) * np.float32(math.sqrt(12))).reshape(shape)
