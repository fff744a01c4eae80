"""Captions from a template: what was measured, and nothing else. It names expression, direction of the head, eyes,
mouth, framing and light, guesses no age, gender or origin, and says that the background was not described."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from idtool.engine.operator import Operator, Row, map_rows, with_column

SIDES = ("a", "b")
USED = ("expression", "expression_p", "yaw", "pitch", "eyes_open", "mouth_open", "face_share", "brightness", "extra")

MOODS = {
    "happy": ("a happy expression", "a smile"),
    "surprise": ("a surprised expression", "a look of surprise"),
    "neutral": ("a neutral expression", "a neutral look"),
}
"""Expressions that a caption may name. The offline network's sad, anger, disgust and fear are often false calls
(`idtool.models.expression`), and a wrong word in a caption is worse than none."""
LEVEL_PITCH = -7.5
"""Degrees that portraits at eye level read (see measure `landmarks`: -5 to -10)."""
OPENINGS = (
    "A {framing} of a person{mood}",
    "A person{mood}, in a {framing}",
    "Photo of a person{mood}, {framing}",
)


class TemplateCaptions(Operator):
    """Captions from measured columns. The wording varies with the id of the pair, never the content."""

    version = 2
    reads = ("id",)

    def __init__(self, writes: pa.Schema, *, expression_p: float, from_column: bool) -> None:
        self.writes = writes
        self.expression_p, self.from_column = expression_p, from_column

    def config(self) -> dict[str, Any]:
        return {"expression_p": self.expression_p, "from_column": self.from_column}

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = ["id", *(f"{side}_{name}" for side in SIDES for name in USED)]
        narrow = batch.select([name for name in names if name in batch.column_names])
        return joined(batch, map_rows(narrow, self._row, self.writes), self.writes)

    def _row(self, row: Row) -> Row:
        out: Row = {}
        sources = []
        for side in SIDES:
            facts = {name: row.get(f"{side}_{name}") for name in USED}
            given = given_caption(facts["extra"]) if self.from_column else None
            sources.append("column" if given else "template")
            out[f"{side}_caption"] = given or person(facts, f"{row['id']}/{side}", self.expression_p)
            out[f"{side}_background"] = background(facts)
        out["caption_by"] = "+".join(sorted(set(sources)))
        return out


def joined(batch: pa.Table, made: pa.Table, writes: pa.Schema) -> pa.Table:
    """The batch with the columns `writes` and the outcome of `made`, which has its rows in its order."""
    for name in (*writes.names, *(n for n in made.column_names if n not in batch.column_names)):
        batch = with_column(batch, made.schema.field(name), made[name])
    return batch


def given_caption(extra: str | None) -> str | None:
    """`caption` or `text` among the further columns of the manifest (a JSON object), or None."""
    try:
        columns = json.loads(extra or "{}")
    except ValueError:
        return None
    if not isinstance(columns, dict):
        return None
    found = next((columns[key] for key in ("caption", "text") if isinstance(columns.get(key), str)), "")
    return " ".join(found.split()) or None


def person(facts: Mapping[str, Any], seed: str, least: float) -> str:
    """One sentence or two on the person. `facts`: the measured columns of one image, None where not known."""
    draw = hashlib.sha256(seed.encode()).digest()
    mood = MOODS.get(facts.get("expression") or "")
    sure = mood is not None and (facts.get("expression_p") or 0.0) >= least
    opening = OPENINGS[draw[0] % len(OPENINGS)].format(
        framing=_framing(facts.get("face_share")),
        mood=f" with {mood[draw[1] % len(mood)]}" if mood is not None and sure else "",
    )
    details = [part for part in (_direction(facts.get("yaw"), facts.get("pitch")), _eyes(facts), _mouth(facts)) if part]
    return f"{opening}; {', '.join(details)}." if details else f"{opening}."


def background(facts: Mapping[str, Any]) -> str:
    """What is known of the background: the light of the picture, and that nothing else was described."""
    light = _light(facts.get("brightness"))
    return (
        f"{light}; background not described (template caption)."
        if light
        else "Background not described (template caption)."
    )


def _framing(share: float | None) -> str:
    """From the share of the frame that the face box takes."""
    if share is None:
        return "portrait"
    if share >= 0.3:
        return "close-up portrait"
    if share >= 0.1:
        return "head-and-shoulders portrait"
    return "half-length portrait" if share >= 0.03 else "wide shot"


def _direction(yaw: float | None, pitch: float | None) -> str:
    """Positive yaw: turned to the right of the picture; positive pitch: up. Degrees."""
    words = []
    if yaw is not None:
        amount = abs(yaw)
        side = "right" if yaw > 0 else "left"
        if amount >= 45:
            words.append(f"head turned far to the {side} of the picture")
        elif amount >= 12:
            words.append(f"head turned {'slightly ' if amount < 25 else ''}to the {side} of the picture")
    if pitch is not None and abs(pitch - LEVEL_PITCH) >= 15:
        words.append("chin raised" if pitch > LEVEL_PITCH else "head lowered")
    if yaw is not None and pitch is not None and not words:
        return "facing the camera"
    return " and ".join(words)


def _eyes(facts: Mapping[str, Any]) -> str:
    value = facts.get("eyes_open")
    return "eyes closed" if value is not None and value < 0.2 else ""


def _mouth(facts: Mapping[str, Any]) -> str:
    value = facts.get("mouth_open")
    return "mouth open" if value is not None and value > 0.4 else ""


def _light(brightness: float | None) -> str:
    """From mean luma in [0, 1]."""
    if brightness is None:
        return ""
    if brightness < 0.25:
        return "Dark picture"
    return "Bright picture" if brightness > 0.7 else "Picture of medium brightness"
