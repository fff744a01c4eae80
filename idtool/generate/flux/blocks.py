"""The double and single blocks of diffusers' `FluxTransformer2DModel`, over streams of tokens.

A stream is tokens that share one time embedding and one set of LoRAs; text and image without additions are one stream
in single blocks, so that the numbers are diffusers' own to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from idtool.generate.flux.attention import Part
from idtool.generate.flux.lora import Lora, switched_on

Attention = Callable[[Sequence[Part], Sequence[Part], Sequence[Part]], dict[str, Tensor]]
"""Queries (normalised, before rotation), keys and values by stream -> (B, tokens, width) by branch."""


@dataclass(frozen=True)
class Stream:
    """Branches that are computed as one."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    hidden: Tensor
    """(B, tokens, width)."""
    temb: Tensor
    """(B, width) embedding of time, guidance and pooled text."""
    rotary: tuple[Tensor, Tensor]
    """Cosines and sines (tokens, width of a head)."""
    loras: tuple[Lora, ...] = ()
    text: bool = False
    """Whether double blocks use their text weights."""

    def gathered(self, out: dict[str, Tensor]) -> Tensor:
        """What attention gave to its tokens."""
        parts = [out[name] for name in self.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def merged(streams: Sequence[Stream]) -> list[Stream]:
    """Neighbours with the same time embedding and LoRAs as one stream: single blocks treat all tokens alike."""
    found: list[Stream] = []
    for stream in streams:
        last = found[-1] if found else None
        if last is not None and last.temb is stream.temb and last.loras == stream.loras:
            cosine, sine = (torch.cat(pair, dim=0) for pair in zip(last.rotary, stream.rotary, strict=True))
            found[-1] = replace(
                last,
                names=last.names + stream.names,
                sizes=last.sizes + stream.sizes,
                hidden=torch.cat([last.hidden, stream.hidden], dim=1),
                rotary=(cosine, sine),
                text=False,
            )
        else:
            found.append(replace(stream, text=False))
    return found


def double_block(block: Any, streams: Sequence[Stream], attention: Attention) -> list[Tensor]:
    """The hidden states of the streams after a `FluxTransformerBlock`."""
    states, parts = [], []
    for stream in streams:
        with switched_on(stream.loras):
            norm = block.norm1_context if stream.text else block.norm1
            state = norm(stream.hidden, emb=stream.temb)
            states.append(state)
            parts.append(_projected(block.attn, stream, state[0]))
    out = attention(*zip(*parts, strict=True))
    return [
        _after_attention(block, stream, state, stream.gathered(out))
        for stream, state in zip(streams, states, strict=True)
    ]


def single_block(block: Any, streams: Sequence[Stream], attention: Attention) -> list[Tensor]:
    """The hidden states of the streams after a `FluxSingleTransformerBlock`."""
    states, parts = [], []
    for stream in streams:
        with switched_on(stream.loras):
            normal, gate = block.norm(stream.hidden, emb=stream.temb)
            states.append((gate, block.act_mlp(block.proj_mlp(normal))))
            parts.append(_projected(block.attn, stream, normal))
    out = attention(*zip(*parts, strict=True))
    hidden = []
    for stream, (gate, mlp) in zip(streams, states, strict=True):
        with switched_on(stream.loras):
            change = block.proj_out(torch.cat([stream.gathered(out), mlp], dim=2))
        hidden.append(_within_half(stream.hidden + gate.unsqueeze(1) * change))
    return hidden


def _projected(attn: Any, stream: Stream, normal: Tensor) -> tuple[Part, Part, Part]:
    """Query, key and value (B, tokens, heads, width), query and key normalised."""
    if stream.text:
        layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        norms = (attn.norm_added_q, attn.norm_added_k, None)
    else:
        layers = (attn.to_q, attn.to_k, attn.to_v)
        norms = (attn.norm_q, attn.norm_k, None)
    tensors = []
    for layer, norm in zip(layers, norms, strict=True):
        heads = layer(normal).unflatten(-1, (-1, attn.head_dim))
        tensors.append(heads if norm is None else norm(heads))
    query, key, value = (Part(stream.names, stream.sizes, tensor) for tensor in tensors)
    return query, key, value


def _after_attention(block: Any, stream: Stream, state: Any, found: Tensor) -> Tensor:
    _, gate_attention, shift, scale, gate_mlp = state
    found = found.contiguous()
    with switched_on(stream.loras):
        if stream.text:
            found, norm, feed = block.attn.to_add_out(found), block.norm2_context, block.ff_context
        else:
            found, norm, feed = block.attn.to_out[1](block.attn.to_out[0](found)), block.norm2, block.ff
        hidden = stream.hidden + gate_attention.unsqueeze(1) * found
        normal = norm(hidden) * (1 + scale[:, None]) + shift[:, None]
        hidden = hidden + gate_mlp.unsqueeze(1) * feed(normal)
    return _within_half(hidden) if stream.text else hidden


def _within_half(hidden: Tensor) -> Tensor:
    return hidden.clip(-65504, 65504) if hidden.dtype == torch.float16 else hidden
