"""Attention of a UNet that also looks at people: a second pair of key and value layers for identity tokens beside those
for the text (decoupled cross-attention, Ye et al., "IP-Adapter", 2023), with low-rank changes of all layers.

Names are those of the published files of ConsistentID and DynamicID: a module list over `unet.attn_processors`, with
`to_{q,k,v,out}_lora.{down,up}.weight` in every item and `to_{k,v}_ip.weight` in those of cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from idtool.generate.sd.gating import Gate, gated

_PARTS = ("q", "k", "v", "out")


@dataclass(eq=False)
class Conditions:
    """What the processors of one UNet look at; the same object for all of them."""

    tokens: Tensor | None = None
    """(R, P * T, width) identity tokens of the rows of the UNet's batch, person by person. None: the base model."""
    people: int = 1
    scale: float = 1.0
    """Of what the tokens add."""
    lora_scale: float = 1.0
    """Of the low-rank changes, which are in force only where there are tokens."""
    gate: Gate | None = None
    """None: every place looks at all tokens alike."""
    step: int = 0
    """Of the sampler, counted from 0."""

    @property
    def is_neutral(self) -> bool:
        """Whether the UNet is to be the base model's, bit for bit."""
        return self.tokens is None or (self.scale == 0 and self.lora_scale == 0)

    @contextmanager
    def of(self, tokens: Tensor, **values: Any) -> Iterator[None]:
        """Conditions for the length of the block; the base model after it."""
        self.tokens, self.step = tokens, 0
        for name, value in values.items():
            setattr(self, name, value)
        try:
            yield
        finally:
            self.tokens, self.gate = None, None


class LowRank(nn.Module):
    """x -> up(down(x))."""

    def __init__(self, inner: int, rank: int, outer: int) -> None:
        super().__init__()
        self.down = nn.Linear(inner, rank, bias=False)
        self.up = nn.Linear(rank, outer, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.down(x))
        return out


class Decoupled(nn.Module):
    """A processor of diffusers' `Attention`. While its conditions are neutral, the processor that it replaces runs."""

    def __init__(self, attention: Any, conditions: Conditions, *, rank: int | None, looks: bool) -> None:
        """`rank`: of the low-rank changes, None: none; `looks`: whether it has layers for identity tokens."""
        super().__init__()
        self.conditions, self.stock, self.looks = conditions, attention.processor, looks
        self.rank = rank
        layers = {part: getattr(attention, f"to_{part}") for part in _PARTS[:3]} | {"out": attention.to_out[0]}
        for part, layer in layers.items() if rank else ():
            self.add_module(f"to_{part}_lora", LowRank(layer.in_features, rank or 0, layer.out_features))
        if looks:
            width, inner = attention.to_k.in_features, attention.to_k.out_features
            self.to_k_ip = nn.Linear(width, inner, bias=False)
            self.to_v_ip = nn.Linear(width, inner, bias=False)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """As `Attention.forward`; names of arguments are diffusers'."""
        if self.conditions.is_neutral:
            stock: Tensor = self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return stock
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        planes = hidden_states.shape[2:] if hidden_states.ndim == 4 else None
        image = hidden_states.flatten(2).transpose(1, 2) if planes else hidden_states
        if attn.group_norm is not None:
            image = attn.group_norm(image.transpose(1, 2)).transpose(1, 2)
        text = image if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(image))
            attention_mask = mask.view(len(image), attn.heads, -1, mask.shape[-1])

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(image) + self._change("q", image))
        key = heads(attn.to_k(text) + self._change("k", text))
        value = heads(attn.to_v(text) + self._change("v", text))
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        if self.looks and self.conditions.scale != 0:
            out = out + self.conditions.scale * self._people(query, heads)
        joined = out.transpose(1, 2).flatten(2)
        joined = attn.to_out[1](attn.to_out[0](joined) + self._change("out", joined))
        if planes:
            joined = joined.transpose(1, 2).unflatten(2, planes)
        if attn.residual_connection:
            joined = joined + residual
        final: Tensor = joined / attn.rescale_output_factor
        return final

    def _change(self, part: str, x: Tensor) -> Tensor | float:
        if self.rank is None or self.conditions.lora_scale == 0:
            return 0.0
        change: Tensor = self.conditions.lora_scale * getattr(self, f"to_{part}_lora")(x)
        return change

    def _people(self, query: Tensor, heads: Any) -> Tensor:
        """What the identity tokens add, (R, H, L, d). ValueError when they are not those of the batch."""
        tokens = self.conditions.tokens
        if tokens is None or len(tokens) != len(query):
            raise ValueError(f"identity tokens of {0 if tokens is None else len(tokens)} rows for {len(query)}")
        key, value = heads(self.to_k_ip(tokens)), heads(self.to_v_ip(tokens))
        gate = self.conditions.gate
        if gate is None:
            return nn.functional.scaled_dot_product_attention(query, key, value)
        return gated(query, key, value, self.conditions.people, gate, self.conditions.step)


def install(unet: Any, conditions: Conditions, rank: int | None) -> nn.ModuleList:
    """Put `Decoupled` processors on a UNet; the list of them, in the order and under the names of published files."""
    processors = {}
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        processors[name] = Decoupled(attention, conditions, rank=rank, looks=name.endswith("attn2.processor"))
    unet.set_attn_processor(dict(processors))
    return nn.ModuleList(processors.values())


def rank_of(state: Mapping[str, Tensor]) -> int | None:
    """The rank of the low-rank changes in a state dict of processors; None when it has none."""
    ranks = [int(tensor.shape[0]) for name, tensor in state.items() if name.endswith("to_q_lora.down.weight")]
    return ranks[0] if ranks else None
