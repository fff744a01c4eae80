"""How strongly references speak at each step (IdGlow, paper 003, section 3.3): the operators Omega(t), and a gate by
them on the reference tokens of Qwen-Image-Edit's transformer.

t runs from 1 (noise) to 0 (image). In the paper's equations 1, 4 and 5 and its algorithm 1, Omega(t) weighs the
identity loss in training and nothing else; figure 2 shows a gate on the reference tokens inside the network. Both are
here: the operators as plain functions, and the gate for networks that were trained with one.

The figure gives no formula for the gate. Ours is a count: with gate g, every reference token has g times its weight in
the softmax of the text and image tokens, which is log g on its logit. g = 1 is the network as it is, g = 0 the network
without references. What references take in themselves is never gated, and neither is what the text encoder saw of the
pictures: both belong to the semantic stream and the identity sequence, not to its injection.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Omega = Callable[[float], float]
Schedule = Literal["constant", "anneal", "gate", "reverse"]
WINDOW = (0.3, 0.6)
"""The semantic window of equation 5."""


def anneal(t: float, tau: float) -> float:
    """Equation 4, for group photos: 1 at t = 1, down a straight line to 0 at t = tau < 1, and 0 below."""
    return max(0.0, (t - tau) / (1 - tau))


def gate(t: float, low: float = WINDOW[0], high: float = WINDOW[1]) -> float:
    """Equation 5, for changes of age: 1 from `low` to `high`, both included, else 0."""
    return 1.0 if low <= t <= high else 0.0


def reverse(t: float, tau: float) -> float:
    """`anneal` backwards in time: 0 down to t = 1 - tau, then up to 1 at t = 0. Ours, to compare with: the identity of
    an estimated image can be told best where t is small."""
    return anneal(1 - t, tau)


def omega(schedule: Schedule, tau: float, window: tuple[float, float] = WINDOW) -> Omega:
    """The operator of a schedule; `tau` in [0, 1) for anneal and reverse, `window` for gate."""
    if schedule == "anneal":
        return lambda t: anneal(t, tau)
    if schedule == "reverse":
        return lambda t: reverse(t, tau)
    if schedule == "gate":
        return lambda t: gate(t, *window)
    return lambda t: 1.0


@dataclass
class State:
    """What the attention layers of one call of the transformer have to know."""

    gate: float = 1.0
    """In [0, 1]."""
    target: int = 0
    """Image tokens before those of the references."""
    steps: list[tuple[float, float]] = field(default_factory=list)
    """t and gate of the steps so far, in their order."""


@contextlib.contextmanager
def gated(pipe: Any, operator: Omega) -> Iterator[State]:
    """A QwenImageEditPlusPipeline whose reference tokens are gated by `operator`, for the length of the block."""
    transformer, state = pipe.transformer, State()
    stock = dict(transformer.attn_processors)

    def before(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        # The pipeline's own step: the network's copy of it is rounded to the network's precision.
        step = float(pipe.current_timestep) / 1000
        state.gate = min(1.0, max(0.0, operator(step)))
        state.target = math.prod(named["img_shapes"][0][0])
        if not state.steps or state.steps[-1][0] != step:
            state.steps.append((step, state.gate))

    transformer.set_attn_processor({name: GatedAttention(one, state) for name, one in stock.items()})
    handle = transformer.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield state
    finally:
        handle.remove()
        transformer.set_attn_processor(stock)


class GatedAttention:
    """Joint attention of text and image tokens in which reference keys count `state.gate` times for all others.

    At gate 1 it is the stock processor. Else queries fall into two groups: text and target, which see reference keys
    by the gate (not at all at 0), and the references, which see everything. A mask over keys is enough for each, so
    none of the size of queries times keys is ever made.
    """

    def __init__(self, stock: Any, state: State) -> None:
        self.stock, self.state = stock, state

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any,
        encoder_hidden_states_mask: Any = None,
        attention_mask: Any = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Any, Any]:
        """Image tokens (B, N, D), target first, and text tokens (B, M, D), `encoder_hidden_states_mask` (B, M) bool:
        attention output for both."""
        if self.state.gate == 1 or self.state.target >= hidden_states.shape[1]:
            return self.stock(  # type: ignore[no-any-return]
                attn,
                hidden_states,
                encoder_hidden_states,
                encoder_hidden_states_mask,
                attention_mask,
                image_rotary_emb,
            )
        import torch

        text = _heads(attn, encoder_hidden_states, "add_{}_proj", "norm_added_{}")
        image = _heads(attn, hidden_states, "to_{}", "norm_{}")
        if image_rotary_emb is not None:
            image = (*(_turned(part, image_rotary_emb[0]) for part in image[:2]), image[2])
            text = (*(_turned(part, image_rotary_emb[1]) for part in text[:2]), text[2])
        query, key, value = (torch.cat(pair, dim=1) for pair in zip(text, image, strict=True))
        words = encoder_hidden_states.shape[1]
        own = words + self.state.target
        bias = self._bias(query, words, own, encoder_hidden_states_mask)
        seen = own if self.state.gate == 0 else key.shape[1]
        first = self._attend(query[:, :own], key[:, :seen], value[:, :seen], bias[..., :seen])
        ungated = bias.clone()
        ungated[..., own:] = 0
        joined = torch.cat([first, self._attend(query[:, own:], key, value, ungated)], dim=1).flatten(2)
        out = attn.to_out[0](joined[:, words:].contiguous())
        for layer in attn.to_out[1:]:
            out = layer(out)
        return out, attn.to_add_out(joined[:, :words].contiguous())

    def _bias(self, query: Any, words: int, own: int, mask: Any) -> Any:
        """(B, 1, 1, keys): log of the gate on reference keys, -inf on padded words."""
        bias = query.new_zeros((query.shape[0], 1, 1, query.shape[1]))
        bias[..., own:] = math.log(self.state.gate) if self.state.gate > 0 else -math.inf
        if mask is not None:
            bias[..., :words].masked_fill_(~mask.bool()[:, None, None, :], -math.inf)
        return bias

    def _attend(self, query: Any, key: Any, value: Any, bias: Any) -> Any:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        backend = getattr(self.stock, "_attention_backend", None)
        return dispatch_attention_fn(query, key, value, attn_mask=bias, backend=backend).to(query.dtype)


def _heads(attn: Any, tokens: Any, layer: str, norm: str) -> tuple[Any, ...]:
    """Queries, keys and values (B, S, H, D), the first two normalised."""
    width = attn.inner_dim // attn.heads
    parts = []
    for name in "qkv":
        part = getattr(attn, layer.format(name))(tokens).unflatten(-1, (-1, width))
        scale = None if name == "v" else getattr(attn, norm.format(name), None)
        parts.append(part if scale is None else scale(part))
    return tuple(parts)


def _turned(part: Any, frequencies: Any) -> Any:
    """Rotary positions (S, D/2 complex) on (B, S, H, D)."""
    from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

    return apply_rotary_emb_qwen(part, frequencies, use_real=False)
