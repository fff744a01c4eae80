"""Attention among branches of tokens (text, image, conditions): who looks at whom, and with which additive bias.

All tensors are in the layout of diffusers' FLUX, (B, tokens, heads, width of a head).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

PAD = 8
"""Fused kernels take head widths that are multiples of it."""


class Site(NamedTuple):
    """A block of the transformer."""

    kind: str
    """`double` or `single`."""
    number: int


@dataclass(frozen=True)
class Part:
    """Tokens of one branch, or of several that lie one after the other in one tensor."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    tensor: Tensor
    """(B, sum of sizes, …)."""

    def split(self) -> dict[str, Tensor]:
        """The tokens of each branch."""
        return dict(zip(self.names, self.tensor.split(list(self.sizes), dim=1), strict=True))


@dataclass(frozen=True)
class View:
    """One attention call."""

    queries: tuple[str, ...]
    """Branches that look."""
    keys: tuple[str, ...]
    """Branches that are looked at; softmax runs over all their tokens."""
    mask: Tensor | None = None
    """Bool (True: may look) or additive, broadcastable to (B, heads, queries, keys), tokens in the order above."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of this call in what a branch gets, where several calls answer it; 1 where not named."""
    lent: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Branch that looks -> another of as many tokens that gets a share of its result too."""


@dataclass(frozen=True)
class Fold:
    """An additive bias of low rank, the same for all heads: bias[i, j] = rows[i] · columns[j]."""

    rows: Mapping[str, Tensor]
    """Branch -> (B or 1, tokens, rank)."""
    columns: Mapping[str, Tensor]

    def matrix(self, queries: Sequence[str], keys: Sequence[str]) -> Tensor:
        """The bias written out, (B or 1, 1, tokens of queries, tokens of keys)."""
        rows, columns = (torch.cat(parts, dim=1) for parts in self._parts(queries, keys))
        return (rows @ columns.transpose(1, 2))[:, None]

    def into(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Sequence[str], keys: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key with the bias as further dimensions, and a value of the same width (zeros at the end), so that
        kernels that want equal widths run. Attention must keep its scale, 1 / sqrt(width before)."""
        rows, columns = (torch.cat(parts, dim=1) for parts in self._parts(queries, keys))
        extra = -(-rows.shape[-1] // PAD) * PAD
        scale = math.sqrt(query.shape[-1])
        return _widened(query, rows * scale, extra), _widened(key, columns, extra), _widened(value, None, extra)

    def _parts(self, queries: Sequence[str], keys: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.rows[name] for name in queries], [self.columns[name] for name in keys]


def added(folds: Iterable[Fold | None]) -> Fold | None:
    """The sum of biases: their ranks one after the other. None when there is none."""
    there = [fold for fold in folds if fold is not None]
    if not there:
        return None

    def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        batch = {name: max(len(part[name]) for part in parts) for name in parts[0]}
        return {
            name: torch.cat([part[name].expand(batch[name], -1, -1) for part in parts], dim=-1) for name in parts[0]
        }

    return Fold(joined([fold.rows for fold in there]), joined([fold.columns for fold in there]))


def between(value: float, one: Sequence[str], other: Sequence[str], like: Mapping[str, Tensor]) -> Fold:
    """The bias `value` wherever a branch of `one` looks at a branch of `other` or the other way round; rank 2.

    `like`: any tensor (B, tokens, …) of every branch.
    """

    def filled(first: float, second: float, tensor: Tensor) -> Tensor:
        return tensor.new_tensor([first, second]).expand(1, tensor.shape[1], 2)

    rows = {name: filled(float(name in one), float(name in other), tensor) for name, tensor in like.items()}
    columns = {name: filled(value * (name in other), value * (name in one), tensor) for name, tensor in like.items()}
    return Fold(rows, columns)


def attend(
    query: Sequence[Part],
    key: Sequence[Part],
    value: Sequence[Part],
    views: Sequence[View],
    fold: Fold | None = None,
    *,
    explicit: bool = False,
    backend: object = None,
) -> dict[str, Tensor]:
    """What every branch gets, (B, tokens, heads · width).

    `fold` is added to the logits of every view, inside queries and keys; `explicit`: as a mask in full. Both are the
    same up to rounding. With one view over everything and no fold this is the attention of diffusers.
    """
    out: dict[str, Tensor] = {}
    for view in views:
        q, k, v = joined(query, view.queries), joined(key, view.keys), joined(value, view.keys)
        width, dtype = q.shape[-1], q.dtype
        mask = view.mask
        if fold is not None and explicit:
            mask = _sum(mask, fold.matrix(view.queries, view.keys).to(dtype))
        elif fold is not None:
            q, k, v = fold.into(q, k, v, view.queries, view.keys)
        scale = None if q.shape[-1] == width else 1 / math.sqrt(width)
        mixed = dispatch_attention_fn(q, k, v, attn_mask=mask, scale=scale, backend=backend)
        mixed = mixed[..., :width].flatten(2, 3).to(dtype)
        sizes = _sizes(query)
        for name, part in zip(view.queries, mixed.split([sizes[name] for name in view.queries], dim=1), strict=True):
            _add(out, name, part, view.weights.get(name, 1.0))
            if name in view.lent:
                other, share = view.lent[name]
                _add(out, other, part, share)
    return out


def joined(parts: Sequence[Part], names: Sequence[str]) -> Tensor:
    """The tokens of some branches one after the other; not copied where they already lie so."""
    left, found = tuple(names), []
    while left:
        part = next(part for part in parts if left[0] in part.names)
        if left[: len(part.names)] == part.names:
            found.append(part.tensor)
            left = left[len(part.names) :]
        else:
            found.append(part.split()[left[0]])
            left = left[1:]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def share_of_keys(query: Tensor, key: Tensor, start: int, bias: Tensor | None = None) -> Tensor:
    """[0, 1] share of the attention that goes to the keys from `start` on: exp(lse of those - lse of all).

    `query` (B, Q, heads, width) and `key` (B, K, heads, width); returns (B, heads, Q). DMID, equation 8.
    """
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    logits = logits if bias is None else logits + bias
    return torch.exp(torch.logsumexp(logits[..., start:], -1) - torch.logsumexp(logits, -1))


def _widened(tensor: Tensor, extra: Tensor | None, width: int) -> Tensor:
    """(B, S, heads, D) with `width` further columns: `extra` (B or 1, S, at most width) for every head, then zeros."""
    wide = torch.nn.functional.pad(tensor, (0, width))
    if extra is not None:
        inner = tensor.shape[-1]
        wide[..., inner : inner + extra.shape[-1]] = extra[:, :, None].to(tensor.dtype)
    return wide


def _add(out: dict[str, Tensor], name: str, part: Tensor, share: float) -> None:
    part = part if share == 1 else part * share
    out[name] = out[name] + part if name in out else part


def _sum(mask: Tensor | None, bias: Tensor) -> Tensor:
    if mask is None:
        return bias
    return torch.where(mask, bias, -math.inf) if mask.dtype == torch.bool else mask + bias


def _sizes(parts: Sequence[Part]) -> dict[str, int]:
    return {name: size for part in parts for name, size in zip(part.names, part.sizes, strict=True)}
