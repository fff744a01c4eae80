"""The threshold of a face network, found on labelled photos: from which cosine on two faces are one person.

A threshold belongs to one network with one alignment, and to the kind of photos that it was found on. What is found
goes into `thresholds` of the binding in pipelines.yaml (`Calibration.as_yaml`), and into a file under the network's
hash (`Calibration.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.engine.operator import Rejected
from idtool.engine.step import Binding
from idtool.errors import UsageError
from idtool.media import images
from idtool.models import labelled, load, verification
from idtool.models.calibration import NO_FACE, Calibration, Threshold
from idtool.models.labelled import Labelled
from idtool.models.verification import Pairs

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

FMRS = (1e-1, 1e-2, 1e-3, 1e-4)
_TOGETHER = 16
"""Photos that are held at once."""


def calibrate(
    faces: Binding,
    identity: Binding,
    source: Path,
    *,
    fmr: Sequence[float] = FMRS,
    device: str = "cpu",
    threads: int = 1,
    progress: Progress | None = None,
) -> Calibration:
    """Compare labelled photos (`labelled.read`) by an identity model, on the largest face that a faces model finds.

    Photos that cannot be read or show no face are named in the result and take part in no pair. `progress` is told
    the photos done and all of them. UsageError for rates that are none, labels that make no pairs of both kinds, or
    when too many photos are left out for that.
    """
    if not fmr or not all(0 < rate < 1 for rate in fmr):
        raise UsageError(f"False match rates are between 0 and 1. Got {list(fmr)}.", "For example 0.001.")
    found = labelled.read(source)
    detector = load(faces, device=device, threads=threads)
    network = load(identity, device=device, threads=threads)
    several: list[str] = []
    left_out: dict[str, str] = {}
    embeddings = _embeddings(found, detector, network, several, left_out, progress)
    pairs, used = _similarities(found, embeddings)
    genuine, impostor = pairs.genuine, pairs.impostor
    if not len(genuine) or not len(impostor):
        first = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        raise UsageError(
            f"{len(left_out)} of {len(found.files)} photos of {source} could not be compared ({first}); "
            f"{len(genuine)} pairs of one person and {len(impostor)} of two are left.",
            "Check the photos, or bind role faces to another model.",
        )
    eer, eer_threshold = verification.equal_error(genuine, impostor)
    fingerprints = {"faces": detector.fingerprint(), "identity": network.fingerprint()}
    return Calibration(
        source=str(source),
        model=identity.model,
        sha256=str(fingerprints["identity"]["sha256"]),
        faces=faces.model,
        photos=len(used),
        people=len(np.unique(found.people[used])),
        genuine=len(genuine),
        impostor=len(impostor),
        auc=verification.auc(genuine, impostor),
        eer=eer,
        eer_threshold=eer_threshold,
        thresholds=_thresholds(pairs, sorted(set(fmr), reverse=True)),
        cosines={kind: _spread(values) for kind, values in (("genuine", genuine), ("impostor", impostor))},
        roc=tuple(verification.roc(genuine, impostor)),
        several_faces=tuple(several),
        left_out=left_out,
        fingerprints=fingerprints,
    )


def _embeddings(
    found: Labelled,
    detector: Any,
    network: Any,
    several: list[str],
    left_out: dict[str, str],
    progress: Progress | None,
) -> dict[int, Floats]:
    """Unit embedding by index of the photo; the names of the others, with the reason, into `left_out`."""
    embeddings: dict[int, Floats] = {}
    for start in range(0, len(found.files), _TOGETHER):
        crops: dict[int, Any] = {}
        for index in range(start, min(start + _TOGETHER, len(found.files))):
            name = found.names[index]
            try:
                image = images.decode(found.files[index].read_bytes())
                [seen] = detector.detect([image])
                if not seen:
                    left_out[name] = NO_FACE
                    continue
                [crops[index]] = network.crops([image], seen[:1])
            except Rejected as error:
                left_out[name] = error.message or error.reason
            except OSError as error:
                left_out[name] = error.strerror or str(error)
            except ValueError as error:
                left_out[name] = str(error)
            else:
                several.extend([name] if len(seen) > 1 else [])
        for index, raw in _embed(network, crops):
            length = 0.0 if isinstance(raw, str) else float(np.linalg.norm(raw))
            if isinstance(raw, str) or length == 0:
                left_out[found.names[index]] = raw if isinstance(raw, str) else "its embedding has no length"
            else:
                embeddings[index] = raw / length
        if progress:
            progress(min(start + _TOGETHER, len(found.files)), len(found.files))
    return embeddings


def _embed(network: Any, crops: Mapping[int, Any]) -> Iterator[tuple[int, Floats | str]]:
    """Raw embeddings by index, in one call; one by one, and a reason for those that fail, when that call fails."""
    try:
        yield from zip(crops, network.embed(list(crops.values())), strict=True)
    except ValueError:
        for index, crop in crops.items():
            try:
                yield index, network.embed([crop])[0]
            except ValueError as error:
                yield index, str(error)


def _similarities(found: Labelled, embeddings: Mapping[int, Floats]) -> tuple[Pairs, list[int]]:
    """Cosines of the pairs whose photos both have an embedding, and the photos that are in one."""
    has = np.zeros(len(found.files), np.bool_)
    has[list(embeddings)] = True
    usable = has[found.pairs].all(axis=1)
    pairs, same = found.pairs[usable], found.same[usable]
    width = len(next(iter(embeddings.values()))) if embeddings else 0
    matrix = np.zeros((len(found.files), width), np.float32)
    for index, embedding in embeddings.items():
        matrix[index] = embedding
    cosines = np.empty(len(pairs), np.float64)
    for start in range(0, len(pairs), 100_000):
        part = slice(start, start + 100_000)
        cosines[part] = np.einsum("nd,nd->n", matrix[pairs[part, 0]], matrix[pairs[part, 1]])
    return Pairs(cosines, same, found.people[pairs]), sorted({int(index) for index in np.unique(pairs)})


def _thresholds(pairs: Pairs, fmrs: Sequence[float]) -> tuple[Threshold, ...]:
    genuine, impostor = pairs.genuine, pairs.impostor
    possible = [fmr for fmr in fmrs if fmr * len(impostor) >= 1 - 1e-9]
    between = verification.intervals(pairs, possible) if possible else None
    found = []
    for fmr in fmrs:
        if fmr not in possible:
            need = f"it needs {int(np.ceil(1 / fmr - 1e-9)):,} pairs of two people; there are {len(impostor):,}"
            found.append(Threshold(fmr, reason=need))
            continue
        at = verification.threshold_at(impostor, fmr)
        (false_matches,), (misses,) = verification.rates(genuine, impostor, [at])
        low, high = between[possible.index(fmr)] if between else (None, None)
        found.append(Threshold(fmr, at, float(false_matches), float(misses), low, high))
    return tuple(found)


def _spread(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {"mean": float(values.mean()), "least": float(values.min()), "most": float(values.max())}
