"""What a calibration found: the thresholds of a face network, to be read, pasted into pipelines.yaml, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.engine.step import Binding
from idtool.errors import IdtoolError, UsageError
from idtool.models import addresses, sources, verification, weights

USUAL = 1e-3
"""The FMR that `as_yaml` takes, where there are pairs enough."""
NO_FACE = "no face"


@dataclass(frozen=True)
class Threshold:
    """What an FMR comes to. Without enough pairs of two people all but `fmr` and `reason` are None."""

    fmr: float
    """What was asked for: at most this share of pairs of two people matches."""
    threshold: float | None = None
    """Lowest cosine that keeps it."""
    measured_fmr: float | None = None
    fnmr: float | None = None
    """Share of pairs of one person that do not match at the threshold."""
    low: float | None = None
    """95 % interval of the threshold, by a bootstrap over people (`verification.intervals`)."""
    high: float | None = None
    reason: str = ""
    """Why there is no threshold: how many pairs it would take."""


@dataclass(frozen=True)
class Calibration:
    """What labelled photos say of a face network."""

    source: str
    model: str
    sha256: str
    """Of the network: what the thresholds belong to."""
    faces: str
    """The model that found the faces."""
    photos: int
    """With a face and an embedding."""
    people: int
    genuine: int
    """Pairs of one person."""
    impostor: int
    """Pairs of two people."""
    auc: float
    eer: float
    """Equal error rate."""
    eer_threshold: float
    thresholds: tuple[Threshold, ...]
    cosines: Mapping[str, Mapping[str, float]]
    """Mean, least and most cosine of the two kinds of pairs."""
    roc: tuple[tuple[float, float, float], ...]
    """(threshold, FMR, FNMR)"""
    several_faces: tuple[str, ...]
    """Photos with more than one face, of which the largest was taken."""
    left_out: Mapping[str, str]
    """Photos that could not be compared -> why: `no face`, or why they could not be read."""
    fingerprints: Mapping[str, Any]
    """Of the two models."""

    @property
    def no_face(self) -> tuple[str, ...]:
        """Photos without a face."""
        return tuple(name for name, why in self.left_out.items() if why == NO_FACE)

    def at(self, fmr: float = USUAL) -> Threshold:
        """The threshold for an FMR; where there are too few pairs for it, that of the strictest FMR that has one.
        UsageError when none has."""
        found = [one for one in self.thresholds if one.threshold is not None]
        if not found:
            raise UsageError(
                f"{self.impostor} pairs of two people are too few for any of the false match rates.",
                "Calibrate on more people, or ask for a higher rate.",
            )
        return next((one for one in found if one.fmr == fmr), min(found, key=lambda one: one.fmr))

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**dataclasses.asdict(self), "no_face": list(self.no_face)}

    def as_yaml(self, fmr: float = USUAL) -> str:
        """The line for the binding in pipelines.yaml, with what it rests on as a comment."""
        one = self.at(fmr)
        rests_on = (
            f"FMR {one.measured_fmr:.2g} ({self.impostor:,} pairs), FNMR {one.fnmr:.2g} ({self.genuine:,} pairs), "
            f"{self.photos:,} photos of {self.people:,} people; network {self.sha256[:12]}"
        )
        return f"thresholds: {{same_person: {one.threshold:.{verification.DECIMALS}f}}}   # {rests_on}"

    def store(self, path: Path | None = None) -> Path:
        """Write `as_dict` to `path`, by default to the cache under the network's hash (`stored`). Returns the path."""
        target = path or _place(self.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_text(json.dumps(self.as_dict(), indent=2), "utf-8")
        partial.replace(target)
        return target


def stored(sha256: str) -> dict[str, Any] | None:
    """What `Calibration.store` kept for the network with this hash; None when there is nothing."""
    try:
        found: dict[str, Any] = json.loads(_place(sha256).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found


def threshold_of(binding: Binding, fmr: float = USUAL) -> float | None:
    """The stored threshold of the network that a binding names, as `Calibration.at` picks it; None when nothing is
    stored for it, or its weights are not here. Loads no network."""
    with contextlib.suppress(IdtoolError):
        digest = _network_hash(binding)
        found = None if digest is None else stored(digest)
        usable = [one for one in (found or {}).get("thresholds", ()) if one["threshold"] is not None]
        if usable:
            chosen = next((one for one in usable if one["fmr"] == fmr), min(usable, key=lambda one: float(one["fmr"])))
            return float(chosen["threshold"])
    return None


def _network_hash(binding: Binding) -> str | None:
    """The hash that the fingerprint of a binding's network states, without loading the network."""
    if addresses.is_offline_name(binding.model):
        return weights.sha256(binding.model)
    path = sources.find(addresses.of_binding(binding)[0])
    if path is not None and binding.model.startswith("insightface:"):
        from idtool.models.pack_files import tasks

        path = next((file for file, task in tasks(path).items() if task == "recognition"), None)
    return None if path is None else sources.digest(path)


def _place(sha256: str) -> Path:
    return weights.cache_dir() / "calibration" / f"{sha256}.json"
