"""diffusers' FLUX transformer with additions: condition tokens, LoRAs for some tokens, attention masks, hooks.

It is loaded like, and from the same files as, `FluxTransformer2DModel`; without additions it is that class. Branches
stand in the order text, further texts, image, conditions. A condition is tokens of a picture (OminiControl, Tan et al.,
ICCV 2025) with its own time embedding, by default that of a clean picture: timestep 0, guidance 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from idtool.generate.flux.attention import Fold, Part, Site, View, attend
from idtool.generate.flux.blocks import Stream, double_block, merged, single_block
from idtool.generate.flux.lora import Lora, switched_on

TEXT, IMAGE = "text", "image"

KeyValues = dict[Site, dict[str, tuple[Tensor, Tensor]]]
"""Keys and values of branches, by block."""


@dataclass(frozen=True)
class Condition:
    """Tokens that the image may look at."""

    tokens: Tensor
    """(B, K, channels) packed latents."""
    ids: Tensor
    """(K, 3) positions."""
    grid: tuple[int, int]
    """Rows and columns of tokens; their product is K."""
    timestep: float = 0.0
    """[0, 1]."""
    guidance: float = 1.0
    loras: tuple[Lora, ...] = ()
    """What changes the layers for these tokens."""


@dataclass(frozen=True)
class Additions:
    """What a call of the transformer does besides the stock one."""

    conditions: Sequence[Condition] = ()
    """Branches `condition.0`, `condition.1`, …. They do not see each other."""
    loras: tuple[Lora, ...] = ()
    """What changes the layers for text and image."""
    texts: Mapping[str, Tensor] = field(default_factory=dict)
    """Further text branches: name -> (B, tokens, width of T5). They need `views`."""
    views: Callable[[Site], Sequence[View]] | None = None
    """Who looks at whom in a block; None: all at all, save conditions at each other."""
    bias: Callable[[Site, Mapping[str, Tensor]], Fold | None] | None = None
    """Additive bias of a block, from the queries of each branch (B, tokens, heads, width), normalised, unrotated."""
    explicit: bool = False
    """Biases as masks in full, in place of further dimensions of queries and keys."""
    hooks: Mapping[Site, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Block -> what is added to the image tokens after it, from these."""
    independent: bool = False
    """Conditions look at themselves alone; their keys and values are then the same at every step."""
    kept: KeyValues | None = None
    """With `independent`: filled by the first call, used in place of the conditions by those after it."""
    twin: str | None = None
    """Name of a branch that single blocks have besides: a copy of the image tokens as they leave the double blocks."""
    beside: Tensor | None = None
    """(B, N, channels) packed latents that a second embedder, `c_embedder`, adds to the image tokens (DSD)."""


def condition(number: int) -> str:
    """The name of a condition's branch."""
    return f"condition.{number}"


class BranchTransformer(FluxTransformer2DModel):
    """`FluxTransformer2DModel` whose `forward` also takes `additions`."""

    def forward(self, *args: Any, additions: Additions | None = None, **kwargs: Any) -> Any:
        """As diffusers' own; with `additions`, the arguments of its forward by name, and (sample,) comes back."""
        if additions is None:
            return super().forward(*args, **kwargs)
        if args:
            raise TypeError("with additions, the arguments are given by name")
        return (self._forward(additions, **kwargs),)

    def _forward(
        self,
        additions: Additions,
        *,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        controlnet_single_block_samples: Sequence[Tensor] | None = None,
        joint_attention_kwargs: Mapping[str, Any] | None = None,
        return_dict: bool = False,
    ) -> Tensor:
        if joint_attention_kwargs:
            raise ValueError(f"not taken together with additions: {', '.join(joint_attention_kwargs)}")
        with switched_on(additions.loras):
            image = self.x_embedder(hidden_states)
            temb = self._temb(timestep, guidance, pooled_projections, image.dtype)
            texts = {TEXT: encoder_hidden_states, **additions.texts}
            texts = {name: self.context_embedder(tensor) for name, tensor in texts.items()}
            if additions.beside is not None:
                image = image + self.c_embedder(additions.beside)
        streams = []
        for name, tensor in texts.items():
            ids = txt_ids if name == TEXT else txt_ids.new_zeros(tensor.shape[1], 3)
            streams.append(self._stream(name, tensor, temb, ids, additions.loras, text=True))
        streams.append(self._stream(IMAGE, image, temb, img_ids, additions.loras))
        if not additions.kept:
            for number, one in enumerate(additions.conditions):
                streams.append(self._condition(number, one, pooled_projections, image.dtype))
        streams = self._through(streams, additions, "double", controlnet_block_samples)
        if additions.twin is not None:
            image = replace(next(stream for stream in streams if IMAGE in stream.names), names=(additions.twin,))
            streams.insert(len(texts) + 1, image)
        streams = self._through(merged(streams), additions, "single", controlnet_single_block_samples)
        with switched_on(additions.loras):
            return self.proj_out(self.norm_out(_image(streams), temb))

    def _temb(self, timestep: Tensor, guidance: Tensor | None, pooled: Tensor, dtype: torch.dtype) -> Tensor:
        timestep = timestep.to(dtype) * 1000
        if guidance is None:
            return self.time_text_embed(timestep, pooled)
        return self.time_text_embed(timestep, guidance.to(dtype) * 1000, pooled)

    def _stream(
        self, name: str, hidden: Tensor, temb: Tensor, ids: Tensor, loras: tuple[Lora, ...], *, text: bool = False
    ) -> Stream:
        return Stream((name,), (hidden.shape[1],), hidden, temb, self.pos_embed(ids), loras, text)

    def _condition(self, number: int, one: Condition, pooled: Tensor, dtype: torch.dtype) -> Stream:
        with switched_on(one.loras):
            hidden = self.x_embedder(one.tokens)
            time = torch.full((len(pooled),), one.timestep, device=hidden.device)
            guidance = torch.full_like(time, one.guidance) if self.config.guidance_embeds else None
            temb = self._temb(time, guidance, pooled, dtype)
        return self._stream(condition(number), hidden, temb, one.ids, one.loras)

    def _through(
        self, streams: list[Stream], additions: Additions, kind: str, residuals: Sequence[Tensor] | None
    ) -> list[Stream]:
        """The streams after all double or all single blocks, hooks and ControlNet residuals included."""
        blocks = self.transformer_blocks if kind == "double" else self.single_transformer_blocks
        call = double_block if kind == "double" else single_block
        for index, block in enumerate(blocks):
            site = Site(kind, index)
            attention = self._attention(site, streams, additions, block.attn.processor)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(call, block, streams, attention)
            else:
                hidden = call(block, streams, attention)
            streams = [replace(one, hidden=new) for one, new in zip(streams, hidden, strict=True)]
            if site in additions.hooks:
                streams = _image_plus(streams, additions.hooks[site](_image(streams)))
            if residuals is not None:
                interval = math.ceil(len(blocks) / len(residuals))
                streams = _image_plus(streams, residuals[index // interval])
        return streams

    def _attention(self, site: Site, streams: Sequence[Stream], additions: Additions, processor: Any) -> Any:
        def attention(query: Sequence[Part], key: Sequence[Part], value: Sequence[Part]) -> dict[str, Tensor]:
            fold = None
            if additions.bias is not None:
                queries = {name: tensor for part in query for name, tensor in part.split().items()}
                fold = additions.bias(site, queries)
            query, key = (_rotated(parts, streams) for parts in (query, key))
            key, value = _with_kept(site, key, value, additions)
            views = additions.views(site) if additions.views else default_views(streams, key, additions.independent)
            return attend(
                query, key, value, views, fold, explicit=additions.explicit, backend=processor._attention_backend
            )

        return attention


def default_views(streams: Sequence[Stream], key: Sequence[Part], independent: bool) -> list[View]:
    """All look at all; several conditions do not look at each other, independent ones at themselves alone."""
    asking = [name for stream in streams for name in stream.names]
    there = tuple(name for part in key for name in part.names)
    conditions = [name for name in there if name.startswith("condition.")]
    main = tuple(name for name in there if name not in conditions)
    if len(conditions) < 2 and not independent:
        return [View(tuple(asking), there)]
    own = [name for name in conditions if name in asking]
    return [View(main, there), *(View((name,), (name,) if independent else (*main, name)) for name in own)]


def _rotated(parts: Sequence[Part], streams: Sequence[Stream]) -> list[Part]:
    return [
        replace(part, tensor=apply_rotary_emb(part.tensor, stream.rotary, sequence_dim=1))
        for part, stream in zip(parts, streams, strict=True)
    ]


def _with_kept(
    site: Site, key: Sequence[Part], value: Sequence[Part], additions: Additions
) -> tuple[Sequence[Part], Sequence[Part]]:
    """Keys and values, those of independent conditions put aside, or taken from where an earlier call put them."""
    if additions.kept is None or not additions.independent:
        return key, value
    computed = {part.names[0]: (part, other) for part, other in zip(key, value, strict=True)}
    new = {name: pair for name, pair in computed.items() if name.startswith("condition.")}
    if new:
        additions.kept[site] = {name: (one.tensor, other.tensor) for name, (one, other) in new.items()}
        return key, value
    stored = additions.kept[site].items()
    keys = [Part((name,), (pair[0].shape[1],), pair[0]) for name, pair in stored]
    values = [Part((name,), (pair[1].shape[1],), pair[1]) for name, pair in stored]
    return [*key, *keys], [*value, *values]


def _image(streams: Sequence[Stream]) -> Tensor:
    stream = next(stream for stream in streams if IMAGE in stream.names)
    if stream.names == (IMAGE,):
        return stream.hidden
    return Part(stream.names, stream.sizes, stream.hidden).split()[IMAGE]


def _image_plus(streams: Sequence[Stream], change: Tensor) -> list[Stream]:
    """The streams with `change` added to the image tokens."""
    out = []
    for stream in streams:
        if IMAGE in stream.names:
            parts = Part(stream.names, stream.sizes, stream.hidden).split()
            parts[IMAGE] = parts[IMAGE] + change
            hidden = parts[IMAGE] if len(parts) == 1 else torch.cat(list(parts.values()), dim=1)
            stream = replace(stream, hidden=hidden)
        out.append(stream)
    return out
