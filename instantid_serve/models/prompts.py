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
class EncodedPrompt:
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

    def windows(self, prompt: str) -> int:
        """How many windows the prompt fills, at least one."""
        longest = max(len(self._token_ids(tokenizer, prompt)) for tokenizer in self._tokenizers)
        return max(1, -(-longest // (WINDOW - 2)))

    def encode(self, prompt: str, windows: int) -> EncodedPrompt:
        """Encode a prompt to ``windows`` windows; those it does not fill are empty ones."""
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            ids = _windows(tokenizer, self._token_ids(tokenizer, prompt), windows)
            out = encoder(torch.tensor(ids, device=encoder.device), output_hidden_states=True)
            hidden.append(out.hidden_states[-2].flatten(0, 1))  # SDXL conditions on the last layer but one
            pooled = out[0][0]  # of the last encoder, the one with a projection: text_embeds of the first window
        tokens = torch.cat(hidden, dim=-1)
        if not isinstance(pooled, torch.Tensor):
            raise TypeError("there is no text encoder")
        if not prompt and self._zero_empty:
            return EncodedPrompt(torch.zeros_like(tokens), torch.zeros_like(pooled))
        return EncodedPrompt(tokens, pooled)

    def _token_ids(self, tokenizer: Any, prompt: str) -> list[int]:  # noqa: ANN401 - transformers' own type is a union
        # verbose=False: the warning about more than 77 tokens is what the windows below are for.
        return list(tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _windows(tokenizer: Any, token_ids: list[int], count: int) -> list[list[int]]:  # noqa: ANN401
    size = WINDOW - 2
    out = []
    for start in range(0, count * size, size):
        body = token_ids[start : start + size]
        pad = [tokenizer.pad_token_id] * (size - len(body))
        out.append([tokenizer.bos_token_id, *body, tokenizer.eos_token_id, *pad])
    return out
