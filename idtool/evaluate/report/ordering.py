"""What stands first: the suite's primary metrics, one metric of each axis in the headline, methods by their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

AXES = ("identity", "prompt", "editability", "quality", "copying", "cost", "other")
SECOND = ("prompt", "editability", "copying", "quality", "other", "cost")
"""Axes that identity is set against, the first one that there is."""
FEW = 8
"""Metrics that fit into one table."""


def in_order(metrics: Mapping[str, Mapping[str, Any]], primary: Mapping[str, str | None]) -> list[str]:
    """Names of metrics by axis; within an axis the primary one first, then as they come."""
    chosen = set(primaries(metrics, primary).values())
    places = {name: k for k, name in enumerate(metrics)}

    def key(name: str) -> tuple[int, bool, int]:
        axis = metrics[name]["axis"]
        return (AXES.index(axis) if axis in AXES else len(AXES), name not in chosen, places[name])

    return sorted(metrics, key=key)


def primaries(metrics: Mapping[str, Mapping[str, Any]], primary: Mapping[str, str | None]) -> dict[str, str]:
    """Axis -> the metric that the suite calls primary there, by its name or by its family (its first network). Axes
    whose metric the profile cannot make are left out."""
    found = {}
    for axis, wanted in (primary or {}).items():
        fitting = [name for name, one in metrics.items() if wanted in (name, one["family"])]
        if fitting:
            found[axis] = next((name for name in fitting if name == wanted), fitting[0])
    return found


def headline(metrics: Mapping[str, Mapping[str, Any]], order: Sequence[str], primary: Mapping[str, str]) -> list[str]:
    """The metrics that come first, in order: all where they are few; else the primary ones, the second network of the
    primary identity metric (the first may be one that a method conditions on), and one of every other axis."""
    if len(order) <= FEW:
        return list(order)
    chosen = set(primary.values())
    family = (
        [name for name in order if metrics[name]["family"] == metrics[primary["identity"]]["family"]]
        if ("identity" in primary)
        else []
    )
    chosen |= set(family[:2])
    for axis in AXES:
        mine = [name for name in order if metrics[name]["axis"] == axis]
        directed = [name for name in mine if metrics[name]["better"] != "neither"]
        if mine and not chosen & set(mine):
            chosen.add((directed or mine)[0])
    return [name for name in order if name in chosen]


def second_axis(
    metrics: Mapping[str, Mapping[str, Any]], order: Sequence[str], primary: Mapping[str, str]
) -> str | None:
    """The metric that identity is set against: the primary prompt metric, or else the first of the next best axis."""
    if "prompt" in primary:
        return primary["prompt"]
    for axis in SECOND:
        for name in order:
            if metrics[name]["axis"] == axis and metrics[name]["better"] != "neither":
                return name
    return None


def methods_in_order(
    methods: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    by: Iterable[str],
) -> list[str]:
    """Methods by the mean of their ranks in the metrics `by`, those without a rank after them, baselines last."""
    ranks: dict[str, list[int]] = {}
    for metric in by:
        for name, row in scores.get(metric, {}).items():
            if row["rank"] is not None:
                ranks.setdefault(name, []).append(row["rank"])
    places = {name: k for k, name in enumerate(methods)}

    def key(name: str) -> tuple[bool, bool, float, int]:
        mine = ranks.get(name, [])
        return (methods[name]["baseline"], not mine, sum(mine) / max(len(mine), 1), places[name])

    return sorted(methods, key=key)
