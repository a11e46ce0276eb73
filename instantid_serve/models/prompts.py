"""Prompts to SDXL's text conditioning. A prompt longer than one window is split, never cut.

Up to 75 tokens the result is what diffusers' SDXL pipelines compute. Longer prompts are encoded in windows of 75 tokens
whose embeddings are laid end to end and whose pooled embedding is the first window's, as AUTOMATIC1111's web UI does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

WINDOW = 77  # positions of a CLIP text encoder, begin and end tokens included


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TextConditioning:
    """``tokens``: (77 n, dim) of both encoders side by side. ``pooled``: (pooled dim,) of the second encoder."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class PromptEncoder:
    """SDXL's two text encoders."""

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[Any], *, zero_empty: bool) -> None:
        """With ``zero_empty`` an empty prompt is all zeros, as for one that is not given to diffusers' SDXL pipelines.

        SDXL calls it ``force_zeros_for_empty_prompt``.
        """
        self._tokenizers, self._encoders, self._zero_empty = tokenizers, encoders, zero_empty

    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        """Encode the prompts of one request, the shorter ones filled with empty windows to the longest one's count."""
        ids = [[self._token_ids(t, prompt) for t in self._tokenizers] for prompt in prompts]
        windows = max(-(-len(part) // (WINDOW - 2)) for pair in ids for part in pair) or 1
        return [self._encode_one(prompt, pair, windows) for prompt, pair in zip(prompts, ids, strict=True)]

    def _token_ids(self, tokenizer: Any, prompt: str) -> list[int]:  # noqa: ANN401 - transformers' own type is a union
        # verbose=False: the warning about more than 77 tokens is what the windows below are for.
        return list(tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    def _encode_one(self, prompt: str, ids: list[list[int]], windows: int) -> TextConditioning:
        hidden, pooled = [], None
        for tokenizer, encoder, token_ids in zip(self._tokenizers, self._encoders, ids, strict=True):
            batch = torch.tensor(_windows(tokenizer, token_ids, windows), device=encoder.device)
            out = encoder(batch, output_hidden_states=True)
            hidden.append(out.hidden_states[-2].flatten(0, 1))  # SDXL conditions on the last layer but one
            pooled = out[0][0]  # of the last encoder, the one with a projection: text_embeds of the first window
        tokens = torch.cat(hidden, dim=-1)
        if not isinstance(pooled, torch.Tensor):
            raise TypeError("there is no text encoder")
        if not prompt and self._zero_empty:
            return TextConditioning(torch.zeros_like(tokens), torch.zeros_like(pooled))
        return TextConditioning(tokens, pooled)


def _windows(tokenizer: Any, token_ids: list[int], count: int) -> list[list[int]]:  # noqa: ANN401
    size = WINDOW - 2
    out = []
    for start in range(0, count * size, size):
        body = token_ids[start : start + size]
        pad = [tokenizer.pad_token_id] * (size - len(body))
        out.append([tokenizer.bos_token_id, *body, tokenizer.eos_token_id, *pad])
    return out
