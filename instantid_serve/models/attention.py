"""The attention layers the engine runs instead of diffusers': rows of many requests, keys and values made beforehand.

Text and identity do not change over a request's steps, so neither do the keys and values that cross-attention makes of
them. They are projected once per request, for all layers at once (:class:`KeyValues`), and each layer is handed the
packed result in place of the tokens and takes its own part.

diffusers' `Attention` would also look at its processor's signature on every call, a tenth of a small step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class KeyValues(nn.Module):
    """Keys and values of several layers in one matrix product."""

    def __init__(self, pairs: Sequence[tuple[nn.Linear, nn.Linear]]) -> None:
        """``pairs``: a layer's key and value projection, without biases (SDXL's and InstantID's have none)."""
        super().__init__()
        weight = torch.cat([linear.weight for pair in pairs for linear in pair])
        self.projection = _linear(weight)
        self.widths = [key.out_features for key, _ in pairs]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, dim) to (rows, tokens, packed): layer after layer, the keys and then the values."""
        packed: torch.Tensor = self.projection(tokens)
        return packed

    def part(self, layer: int) -> Part:
        """Where a layer's keys and values lie in the packed width."""
        return Part(2 * sum(self.widths[:layer]), self.widths[layer])


class Part:
    """One layer's part of packed keys and values."""

    def __init__(self, start: int, width: int) -> None:
        self._start, self._width = start, width

    def take(self, packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the keys and of the values, (rows, tokens, width) each: nothing is copied."""
        middle = self._start + self._width
        return packed[..., self._start : middle], packed[..., middle : middle + self._width]


class SelfAttention(nn.Module):
    """Every row attends to itself. Queries, keys and values are one matrix product."""

    def __init__(self, original: Any) -> None:  # noqa: ANN401 - diffusers' Attention has no types
        super().__init__()
        self.heads = int(original.heads)
        linears = (original.to_q, original.to_k, original.to_v)
        self.to_qkv = _linear(torch.cat([linear.weight for linear in linears]))
        self.to_out = original.to_out[0]

    def forward(self, hidden_states: torch.Tensor, **_conditioning: object) -> torch.Tensor:
        """(rows, pixels, dim) to the same. What cross-attention is given comes along and is not looked at."""
        query, key, value = self.to_qkv(hidden_states).chunk(3, dim=-1)
        out: torch.Tensor = self.to_out(_attend(query, key, value, None, self.heads))
        return out


class CrossAttention(nn.Module):
    """Rows attend to their own text and, where the layer has an identity adapter, to their own identity.

    ``SDPA(q, k_text, v_text) + strength * SDPA(q, k_identity, v_identity)`` (instantid-contract, IP attention).
    """

    def __init__(self, original: Any, text: Part, identity: Part | None) -> None:  # noqa: ANN401
        super().__init__()
        self.heads = int(original.heads)
        self.to_q, self.to_out = original.to_q, original.to_out[0]
        self._text, self._identity = text, identity

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        identity: torch.Tensor | None = None,
        identity_strength: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``encoder_hidden_states`` and ``identity`` are packed keys and values; ``identity_strength`` (rows, 1, 1)."""
        if attention_mask is not None:
            # (rows, 1, tokens) bias to (rows, heads, 1, tokens)
            attention_mask = attention_mask.unsqueeze(1).expand(-1, self.heads, -1, -1)
        query = self.to_q(hidden_states)
        mixed = _attend(query, *self._text.take(encoder_hidden_states), attention_mask, self.heads)
        if self._identity is not None and identity is not None and identity_strength is not None:
            mixed = mixed + identity_strength * _attend(query, *self._identity.take(identity), None, self.heads)
        out: torch.Tensor = self.to_out(mixed)
        return out


def install(model: Any) -> tuple[KeyValues, KeyValues | None]:  # noqa: ANN401 - diffusers ships no types
    """Replace a UNet's or ControlNet's attention; return what makes its packed keys and values of text and of identity.

    The second is None for a model without an identity adapter (IdentityNet attends to identity in the text's place).
    """
    blocks = [module for module in model.modules() if hasattr(module, "attn1") and hasattr(module, "attn2")]
    crosses = [block.attn2 for block in blocks]
    text = KeyValues([(cross.to_k, cross.to_v) for cross in crosses])
    adapters = [cross.processor for cross in crosses if hasattr(cross.processor, "to_k_ip")]
    identity = KeyValues([(a.to_k_ip[0], a.to_v_ip[0]) for a in adapters]) if adapters else None
    for layer, block in enumerate(blocks):
        block.attn1 = SelfAttention(block.attn1)
        block.attn2 = CrossAttention(block.attn2, text.part(layer), identity.part(layer) if identity else None)
    return text, identity


def _linear(weight: torch.Tensor) -> nn.Linear:
    """A linear layer of given weights; a real nn.Linear, so that quantisers find it."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, heads: int
) -> torch.Tensor:
    out = functional.scaled_dot_product_attention(
        _heads(query, heads), _heads(key, heads), _heads(value, heads), attn_mask=mask
    )
    return out.transpose(1, 2).flatten(2)
