"""Driving pictures of step `reenact`: whose expression and pose portraits get. VariFace-10k takes them from KDEF: seven
expressions in five poses (DynamicID, App. 7.3)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from idtool.engine.operator import Rejected
from idtool.errors import UsageError

EXPRESSIONS = ("neutral", "happy", "anger", "disgust", "surprise", "sad", "fear")
"""As column `expression` names them, in the paper's order."""
POSES = ("full_left", "half_left", "straight", "half_right", "full_right")
"""From one profile to the other."""
_SAME = {
    "angry": "anger",
    "disgusted": "disgust",
    "surprised": "surprise",
    "afraid": "fear",
    "front": "straight",
    "af": "fear",
    "an": "anger",
    "di": "disgust",
    "ha": "happy",
    "ne": "neutral",
    "sa": "sad",
    "su": "surprise",
    "fl": "full_left",
    "hl": "half_left",
    "s": "straight",
    "hr": "half_right",
    "fr": "full_right",
}
"""Other words for them, and KDEF's codes."""
_ADJECTIVES = {"anger": "an angry", "disgust": "a disgusted", "surprise": "a surprised", "fear": "an afraid"}
_VIEWS = {"straight": "front", "half_left": "three-quarter", "half_right": "three-quarter"}
_KDEF = re.compile(r"[AB][FM]\d\d(AF|AN|DI|HA|NE|SA|SU)(FL|HL|S|HR|FR)\.\w+", re.IGNORECASE)


@dataclass(frozen=True)
class Driver:
    """One picture."""

    uri: str
    """Table text of its place (`idtool.media.paths`)."""
    name: str
    expression: str
    """One of `EXPRESSIONS`."""
    pose: str
    """One of `POSES`."""
    sha256: str | None
    """Of the file; None where it cannot be read."""


def drivers_in(place: str) -> tuple[Driver, ...]:
    """The pictures of a folder, or of a table with columns for path, `expression` and `pose`, in order of their cells.

    In a folder, names say what a picture shows: KDEF's (`AF01HAHL.JPG`), or `…happy_half_left.png`, also over folders
    (`happy/half_left/3.png`); others are left out. UsageError when none is left, or for a word of a table that is none.
    """
    from idtool.media.sources import list_sources

    found = []
    for row in list_sources([place]):
        told = json.loads(row["extra"]) if row["extra"] else {}
        if "expression" in told or "pose" in told:
            cell = _word(told, "expression", EXPRESSIONS, place), _word(told, "pose", POSES, place)
        elif (named := cell_of(f"{row['group'] or ''}/{row['name']}")) is not None:
            cell = named
        else:
            continue
        found.append(Driver(row["uri"], row["name"], *cell, _digest(row["uri"])))
    if not found:
        raise UsageError(
            f"No picture of {place} says which expression and pose it shows.",
            "Name files as KDEF does (AF01HAHL.JPG) or happy_half_left.png, or give a table with columns path, "
            "expression, pose.",
        )
    return tuple(sorted(found, key=lambda one: (*order(one), one.name, one.uri)))


def cell_of(path: str) -> tuple[str, str] | None:
    """Expression and pose that a file's path names; None: it does not say."""
    if kdef := _KDEF.fullmatch(path.rpartition("/")[2]):
        return _SAME[kdef[1].lower()], _SAME[kdef[2].lower()]
    words = "_" + re.sub(r"[^a-z]+", "_", path.rpartition(".")[0].lower()) + "_"
    told = [
        [known for known in names if any(f"_{word}_" in words for word in _words(known))]
        for names in (EXPRESSIONS, POSES)
    ]
    return (told[0][0], told[1][0]) if len(told[0]) == len(told[1]) == 1 else None


def order(driver: Driver) -> tuple[int, int]:
    """Place of a driver's expression and pose in their lists."""
    return EXPRESSIONS.index(driver.expression), POSES.index(driver.pose)


def drawn(drivers: Sequence[Driver], portrait: str, seed: int) -> list[Driver]:
    """One driver of each expression and pose for a portrait (its id), drawn where there are several."""
    cells: dict[tuple[int, int], list[Driver]] = {}
    for driver in drivers:
        cells.setdefault(order(driver), []).append(driver)

    def rank(one: Driver) -> bytes:
        return hashlib.sha256(f"{seed} {portrait} {one.name} {one.sha256}".encode()).digest()

    return [min(cells[cell], key=rank) for cell in sorted(cells)]


def absent(drivers: Sequence[Driver]) -> list[str]:
    """The expressions and poses that no driver shows."""
    there = {(one.expression, one.pose) for one in drivers}
    return [f"{one} {pose}" for one in EXPRESSIONS for pose in POSES if (one, pose) not in there]


def nearest(drivers: Sequence[Driver], k: int) -> list[int]:
    """Places in a set: that of driver `k`, then the nearest in pose, of these first those of its expression."""
    own = drivers[k]

    def distance(n: int) -> tuple[bool, int, bool, int]:
        other = drivers[n]
        turned = abs(POSES.index(other.pose) - POSES.index(own.pose))
        return n != k, turned, other.expression != own.expression, n

    return sorted(range(len(drivers)), key=distance)


def prompt_of(template: str, driver: Driver) -> str:
    """The text of a driver's expression and pose."""
    expression = _ADJECTIVES.get(driver.expression, f"a {driver.expression}")
    return template.format(expression=expression, view=_VIEWS.get(driver.pose, "side"))


def _words(known: str) -> list[str]:
    return [known, *(word for word, meant in _SAME.items() if meant == known and len(word) > 2)]


def _word(told: Mapping[str, object], column: str, known: Sequence[str], place: str) -> str:
    said = str(told.get(column, "")).strip().lower().replace(" ", "_").replace("-", "_")
    word = _SAME.get(said, said)
    if word not in known:
        raise UsageError(
            f"Drivers {place}: {told.get(column)!r} is no {column}.", f"Column {column} takes {', '.join(known)}."
        )
    return word


def _digest(uri: str) -> str | None:
    from idtool.media.store import open_bytes

    try:
        return hashlib.sha256(open_bytes(uri)).hexdigest()
    except (OSError, Rejected):
        return None
