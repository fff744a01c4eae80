"""Numbers as text: as many decimals as the intervals leave sense in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

THIN = "\u2009"
MINUS = "\u2212"


def decimals(cells: Iterable[Mapping[str, Any]]) -> int:
    """Decimals for the means of one metric: two digits of the middle half-width of their intervals, or three digits of
    the values where there are no intervals."""
    found = list(cells)
    widths = sorted((one["ci_high"] - one["ci_low"]) / 2 for one in found if has_interval(one))
    positive = [width for width in widths if width > 0]
    if positive:
        return min(4, max(0, math.ceil(-math.log10(positive[len(positive) // 2])) + 1))
    sizes = [abs(one["mean"]) for one in found if one.get("mean")]
    return min(4, max(0, 2 - math.floor(math.log10(max(sizes))))) if sizes else 2


def has_interval(cell: Mapping[str, Any]) -> bool:
    return cell.get("ci_low") is not None and cell.get("ci_high") is not None


def number(value: float | int | None, places: int | None = None) -> str:
    """`1234.5` -> `1 234` (thin spaces) for counts; with `places` decimals otherwise; a true minus; None as a dash."""
    if value is None:
        return "–"
    if places is None:
        places = 0 if float(value).is_integer() or abs(value) >= 1e3 else 3
    text = f"{value:,.{places}f}".replace(",", THIN)
    return text.lstrip("-") if not float(value) or set(text) <= set("-0.") else text.replace("-", MINUS)


def interval(cell: Mapping[str, Any], places: int) -> str:
    """`0.48–0.54`; `± 0.002` where only a spread over subsets is known; empty where nothing is."""
    if has_interval(cell):
        low, high = number(cell["ci_low"], places), number(cell["ci_high"], places)
        return f"{low} to {high}" if MINUS in low + high else f"{low}–{high}"
    return ""


def count(amount: int, noun: str, plural: str = "") -> str:
    """`1 person`, `12 people`."""
    return f"{number(amount)} {noun if amount == 1 else plural or noun + 's'}"


def probability(value: float | None) -> str:
    """`0.032`; `< 0.001`."""
    if value is None:
        return "–"
    return "<\u200a0.001" if value < 0.001 else f"{value:.3f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.0f}{THIN}%"


def seconds(value: float | None) -> str:
    """`75.2` -> `1 min 15 s`."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    hours, minutes, rest = round(value) // 3600, round(value) // 60 % 60, round(value) % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
