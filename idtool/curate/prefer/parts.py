"""Which stored metric stands for which part of a reward: named by the user, or the first of its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idtool.errors import MissingError, UsageError
from idtool.registry import did_you_mean

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "id": ("facesim",),
    "obj": ("dino", "colorscore", "clip_i"),
    "sem": ("clip_t",),
    "aes": ("aesthetic",),
}
"""Part -> families that can stand for it, the first that is there. IdGlow, section 3.4: identity, objects such as
clothing, semantics, aesthetics; DMID, Eq. 10, has the first (CosSim) and the third (CLIP)."""


@dataclass(frozen=True)
class Part:
    """A part of a reward."""

    name: str
    metric: str
    """Name of the metric in the benchmark."""
    family: str
    how: str
    """How it came to be this metric, in words."""
    unit: str = "1"
    fingerprint: str | None = None


def choose(manifest: Mapping[str, Any], wanted: Sequence[str], named: Mapping[str, str]) -> dict[str, Part]:
    """The metric of each part. `manifest`: bench.json. `named`: part -> name of a metric, or of a family.

    UsageError for unknown parts and metrics; MissingError where the benchmark has no metric for a part.
    """
    metrics: Mapping[str, Mapping[str, Any]] = manifest.get("metrics", {})
    for part in (*wanted, *named):
        if part not in FAMILIES:
            raise UsageError(f"There is no part {part!r} of a reward.", did_you_mean(part, FAMILIES, "Parts"))
    for part in named:
        if part not in wanted:
            raise UsageError(f"--metric {part}=… names a metric for a part that is not used.", "Add it to --use.")
    return {part: _part(part, named.get(part), metrics, manifest.get("skipped", {})) for part in wanted}


def _part(part: str, name: str | None, metrics: Mapping[str, Mapping[str, Any]], skipped: Mapping[str, str]) -> Part:
    families = (name,) if name else FAMILIES[part]
    if name in metrics:
        return _usable(part, str(name), metrics, "named")
    for family in families:
        found = [key for key, entry in metrics.items() if entry["family"] == family and entry["per"] == "sample"]
        if found:
            how = "the only one of its family" if len(found) == 1 else f"the first of {len(found)} of its family"
            return _usable(part, found[0], metrics, how)
    if name:
        raise UsageError(f"The benchmark has no metric {name!r}.", did_you_mean(name, metrics, "It has"))
    why = next((skipped[family] for family in families if family in skipped), "it was not asked for")
    raise MissingError(
        f"The benchmark has no metric for part {part!r} ({' or '.join(families)}): {why}.",
        f"Score it with --metrics {families[0]}, name another by --metric {part}=NAME, or go without it, by saying so.",
    )


def _usable(part: str, name: str, metrics: Mapping[str, Mapping[str, Any]], how: str) -> Part:
    entry = metrics[name]
    if entry["per"] != "sample":
        raise UsageError(f"Metric {name!r} is of a whole {entry['per']}.", "Pairs need one number for each image.")
    if entry["better"] != "higher":
        raise UsageError(f"In metric {name!r} more is not better.", "Choose one in which it is.")
    return Part(part, name, entry["family"], how, entry.get("unit", "1"), entry.get("fingerprint"))
