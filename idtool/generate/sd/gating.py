"""How much each place of the image looks at each person: DynamicID's Semantic-Activated Attention (Hu et al., ICCV
2025, section 3.1, equations 1 to 3), on tensors alone.

`R` counts rows of the UNet's batch, `P` people, `T` tokens of a person, `L` places (h * w, row by row), `H` heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the frame."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Gate:
    """The settings of one call."""

    boxes: Sequence[Sequence[Box] | None]
    """For each row of the UNet's batch a box for every person, or None: nobody is placed."""
    grid: tuple[int, int]
    """Height and width of the latents."""
    until: int
    """Steps, from the first on, in which boxes also strengthen and weaken."""
    strength: float
    """Beta of equation 3."""
    threshold: float = 0.0
    """Weights below it are nought."""
    together: bool = False
    """One weight and one softmax over the tokens of all people, as the released code has it. Otherwise each person is
    added with a weight of their own, as in the paper."""


def slices(people: int) -> list[Box]:
    """Where people stand unless told: upright strips of one width, from left to right."""
    return [(k / people, 0.0, (k + 1) / people, 1.0) for k in range(people)]


def grid_of(length: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a feature map of `length` places in a UNet on latents of (height, width).

    Every level of the UNet halves both sides, rounded up. ValueError when no level has that many places.
    """
    h, w = height, width
    while h * w > length:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != length:
        raise ValueError(f"no level of a UNet on latents of {height} x {width} has {length} places")
    return h, w


def inside(boxes: Sequence[Sequence[Box] | None], people: int, h: int, w: int) -> Tensor:
    """(R, P, L) bool: the places of each person's box. Edges fall to the place that they lie in, as in the released
    code, so that boxes that touch do not overlap; a box keeps one place at least."""
    masks = torch.zeros(len(boxes), people, h, w, dtype=torch.bool)
    for row, placed in enumerate(boxes):
        for person, (left, top, right, bottom) in enumerate(placed or ()):
            x, y = min(int(left * w + _EDGE), w - 1), min(int(top * h + _EDGE), h - 1)
            masks[row, person, y : max(int(bottom * h + _EDGE), y + 1), x : max(int(right * w + _EDGE), x + 1)] = True
    return masks.flatten(2)


_EDGE = 1e-4
"""So that 0.7 of 160 places are 112, though boxes come as float32 and 0.7 is then a little less."""


def activation(scores: Tensor) -> Tensor:
    """Equation 2: scores (R, H, L, K) summed over heads and tokens, then from 0 at the least to 1 at the most of the
    places; (R, L) float32. Where all places score the same, none stands out: 0."""
    total = scores.float().sum(dim=(1, 3))
    low, high = total.amin(dim=1, keepdim=True), total.amax(dim=1, keepdim=True)
    spread = high - low
    weight = (total - low) / spread.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(spread > 0, weight, torch.zeros_like(weight))


def placed(weight: Tensor, mask: Tensor, strength: float) -> Tensor:
    """Equation 3: weight + strength inside, weight / (strength + 1) outside."""
    return torch.where(mask, weight + strength, weight / (strength + 1))


def allowed(masks: Tensor) -> Tensor:
    """(R, P, L) bool: who may be looked at from where. Inside of boxes only those whose boxes they are; where boxes
    overlap, all of these; outside of all boxes everybody. So every place has somebody to look at."""
    return masks | ~masks.any(dim=1, keepdim=True)


def gated(query: Tensor, key: Tensor, value: Tensor, people: int, gate: Gate, step: int) -> Tensor:
    """What people add to the image: query (R, H, L, d), key and value (R, H, P * T, d), person by person; (R, H, L, d).

    ValueError when the boxes are not those of the batch.
    """
    if len(gate.boxes) != len(query):
        raise ValueError(f"{len(gate.boxes)} rows of boxes for a batch of {len(query)}")
    h, w = grid_of(query.shape[2], *gate.grid)
    masks = inside(gate.boxes, people, h, w).to(query.device)
    is_placed = torch.tensor([row is not None for row in gate.boxes], device=query.device)[:, None]
    scores = (query.float() @ key.float().transpose(-2, -1)) * query.shape[-1] ** -0.5
    own = scores.unflatten(-1, (people, -1))
    free = allowed(masks)

    def weigh(some: Tensor, mask: Tensor) -> Tensor:
        weight = activation(some)
        weight = torch.where(weight < gate.threshold, torch.zeros_like(weight), weight)
        return torch.where(is_placed, placed(weight, mask, gate.strength), weight) if step < gate.until else weight

    if gate.together:
        weight = weigh(scores, masks.any(dim=1))[:, None, :, None]
        barred = ~free.transpose(1, 2)[:, None, :, :, None]
        shares = own.masked_fill(barred, float("-inf")).flatten(3).softmax(dim=-1)
        return (weight * (shares @ value.float())).to(query.dtype)
    values = value.float().unflatten(2, (people, -1))
    out = torch.zeros_like(query, dtype=torch.float32)
    for person in range(people):
        weight = weigh(own[..., person, :], masks[:, person]) * free[:, person]
        out = out + weight[:, None, :, None] * (own[..., person, :].softmax(dim=-1) @ values[:, :, person])
    return out.to(query.dtype)
