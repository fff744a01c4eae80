"""Looks at the pictures of pairs that the rules made: is a reference cut out of the chosen photo, what says a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from idtool.config import ConfigFile
from idtool.curate.prefer import judging
from idtool.curate.prefer.pairs import PHOTO
from idtool.engine.operator import ERROR, REJECTED, Rejected
from idtool.errors import MissingError

if TYPE_CHECKING:
    from idtool.generate.pipeline import Asked

Row = dict[str, Any]
Picture = npt.NDArray[np.uint8]
ROLE = "judge"
AT_ONCE = 8
"""Pairs that a judge is asked about in one call."""


@dataclass
class Judge:
    """A loaded judge."""

    model: Any
    name: str
    """Its address."""


def load_judge(file: ConfigFile | None, request: Asked) -> Judge:
    """The judge of the profile that a request asks for. MissingError when it binds none."""
    from idtool.generate.pipeline import surroundings
    from idtool.models import load

    if file is None:
        raise MissingError("A judge needs a configuration with profiles.", "Give --config.")
    env, _ = surroundings(file, request)
    binding = env.require(ROLE)
    return Judge(load(binding, device=env.device), binding.model)


class Inspector:
    """Adds flags and the judge's word to pairs, and drops some."""

    def __init__(self, crops: Literal["flag", "drop", "ignore"] = "flag", judge: Judge | None = None) -> None:
        self.crops, self.judge = crops, judge

    def describe(self) -> dict[str, Any] | None:
        """The judge, for the manifest."""
        if self.judge is None:
            return None
        return {"model": self.judge.name, "question": judging.wording(), "votes": judging.VOTES}

    def __call__(self, pairs: Sequence[Row]) -> Iterator[tuple[Row, Mapping[str, Any] | None]]:
        """(pair, None), or (pair, outcome columns) for one that is dropped; in order."""
        for k in range(0, len(pairs), AT_ONCE):
            told = [(row, self._references(row)) for row in pairs[k : k + AT_ONCE]]
            said = self._judged([row for row, outcome in told if outcome is None])
            for row, outcome in told:
                yield row, outcome if outcome is not None else said.get(row["id"])

    def _references(self, row: Row) -> Mapping[str, Any] | None:
        """Whether references of a photo are the photo itself, or cut out of it. Flags the row."""
        if not row["source"].startswith(f"{PHOTO}/"):
            return None
        if row["chosen"] in row["references"]:
            return _lost("reference.is_chosen", "a reference is the chosen photo itself")
        if self.crops == "ignore":
            return None
        from idtool.curate.prefer.crops import is_crop

        try:
            whole = picture(row["chosen"])
            cut = [number for number, uri in enumerate(row["references"], 1) if is_crop(picture(uri), whole)]
        except (Rejected, OSError, ValueError) as error:
            return _unreadable(error)
        if not cut:
            return None
        if self.crops == "drop":
            return _lost("reference.crop", f"reference {cut[0]} is cut out of the chosen photo")
        row["flags"] = [*row["flags"], "reference_crop"]
        return None

    def _judged(self, rows: Sequence[Row]) -> dict[str, Mapping[str, Any]]:
        """Pair -> outcome of those that the judge drops; what it says of the others is put into them."""
        if self.judge is None or not rows:
            return {}
        lost: dict[str, Mapping[str, Any]] = {}
        asks = {}
        for row in rows:
            try:
                shown = [picture(uri) for uri in (*row["references"], row["chosen"], row["rejected"])]
            except (Rejected, OSError, ValueError) as error:
                lost[row["id"]] = _unreadable(error)
                continue
            asks[row["id"]] = judging.ask(row["id"], shown[:-2], shown[-2], shown[-1], row["prompt"])
        said = judging.judge(self.judge.model, asks) if asks else {}
        for row in rows:
            if one := said.get(row["id"]):
                row |= {"judge_score": one.score, "judge_reason": one.text}
                if not one.kept:
                    status = ERROR if one.lost else REJECTED
                    lost[row["id"]] = {**_lost(one.reason, one.text, one.score, "> 0"), "status": status}
        return lost


def picture(uri: str) -> Picture:
    """RGB uint8 (H, W, 3). Raises Rejected or OSError."""
    from idtool.media import images, store

    return images.decode(store.open_bytes(uri))


def _lost(reason: str, message: str, value: float | None = None, threshold: str | None = None) -> dict[str, Any]:
    return {"status": REJECTED, "reason": reason, "message": message, "value": value, "threshold": threshold}


def _unreadable(error: Exception) -> dict[str, Any]:
    reason = error.reason if isinstance(error, Rejected) else "unreadable"
    return _lost(f"picture.{reason}", str(error))
