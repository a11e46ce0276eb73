"""Attention with a per-row identity strength, which diffusers' own IP-Adapter processor cannot take."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class RowAttention(torch.nn.Module):
    """Self- or cross-attention of the UNet, where every batch row is a request's own.

    On cross-attention layers it adds the identity adapter's decoupled attention, with the row's tokens and strength:
    ``SDPA(q, k_text, v_text) + strength * SDPA(q, k_identity, v_identity)`` (instantid-contract, IP attention).
    """

    def __init__(self, to_k_ip: torch.nn.Module | None = None, to_v_ip: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = to_k_ip, to_v_ip

    def __call__(  # diffusers calls processors, not their forward
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        identity_tokens: torch.Tensor | None = None,
        identity_strength: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``identity_tokens``: (rows, tokens, dim). ``identity_strength``: (rows, 1, 1)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is not None:
            # (rows, 1, context) bias to (rows, heads, 1, context)
            attention_mask = attention_mask.unsqueeze(1).expand(-1, attn.heads, -1, -1)
        query = _heads(attn.to_q(hidden_states), attn.heads)
        mixed = _attend(query, attn.to_k(context), attn.to_v(context), attention_mask)
        if self.to_k_ip is not None and self.to_v_ip is not None and identity_strength is not None:
            identity = _attend(query, self.to_k_ip(identity_tokens), self.to_v_ip(identity_tokens), None)
            mixed = mixed + identity_strength * identity
        out: torch.Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return out


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    heads = query.shape[1]
    out = functional.scaled_dot_product_attention(query, _heads(key, heads), _heads(value, heads), attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def install(unet: Any) -> None:  # noqa: ANN401 - diffusers ships no types
    """Replace the processors diffusers made when it loaded the adapter; their weights are kept."""
    ours: dict[str, RowAttention] = {}
    for name, processor in unet.attn_processors.items():
        if hasattr(processor, "to_k_ip"):
            ours[name] = RowAttention(processor.to_k_ip[0], processor.to_v_ip[0])
        else:
            ours[name] = RowAttention()
    unet.set_attn_processor(ours)
