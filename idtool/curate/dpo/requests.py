"""The `requests` step: from photos of known people to requests for images of them, each to be made several times.

`targets` (DMID, App. A.4.3: 188 identity images, 300 pairs of identity image and target image, 8 seeds): the prompt is
that of a photo of somebody else, so that it never describes the reference.

`groups` (IdGlow, section 3.4: portraits of two or three people as conditions, authentic group photos as the best
answers): the people of a group photo are recognised, and shown by other photos of them. The paper does not say how it
came by portraits of the people in its group photos; other photos are the one source that does not teach to copy. The
photo stays in the table as a candidate of its own request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from idtool.curate.dpo.columns import PHOTO, REQUEST, REQUESTS, TERMS
from idtool.curate.identify import same_person
from idtool.engine.operator import KEPT, OUTCOME, REJECTED, Row, build
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table

ROWS = 1024


class RequestsSettings(Settings):
    by: Literal["targets", "groups"] = "targets"
    prompt: str = "scene_prompt"
    """Column with the prompts."""
    seeds: int = Field(default=8, ge=1)
    """Images of each request. DMID makes 8."""
    count: int = Field(default=300, ge=1)
    """targets: requests, as far as there are pairs for them. DMID makes 300."""
    same_gender: bool = True
    """targets: people whom measure `attributes` takes for women are asked for by photos of such, and so on; where it
    was not made, by any. "A man in a suit" asks nothing fair of a woman's portrait."""
    people: tuple[int, ...] = (2, 3)
    """groups: numbers of people in a group photo."""
    threshold: float | None = Field(default=None, gt=-1, lt=1)
    """groups: least cosine of a face and the mean of a person's portraits; null: the calibrated `same_person`."""


@dataclass(frozen=True)
class Portrait:
    """A picture that can be a reference."""

    id: str
    media: str
    terms: Mapping[str, str | None]


@dataclass(frozen=True)
class Asked:
    """A request before its seeds are drawn."""

    prompt: str
    references: tuple[Portrait, ...]
    people: tuple[str, ...]
    parent: str
    """Id of the photo that the prompt is of."""
    terms: Mapping[str, str | None]
    """Of that photo."""
    boxes: Sequence[Sequence[float]] | None = None

    @property
    def group(self) -> str:
        told = [self.prompt, [one.id for one in self.references], list(self.people)]
        return hashlib.sha256(json.dumps(told, ensure_ascii=True).encode()).hexdigest()[:32]

    def columns(self) -> Row:
        """What its images and, in `groups`, the photo share."""
        shared = {}
        for name in TERMS.names:
            every = (self.terms, *(one.terms for one in self.references))
            said = dict.fromkeys(one.get(name) or "not stated" for one in every)
            shared[name] = "; ".join(said)
        return {
            "group": self.group,
            "identity": " + ".join(sorted(self.people)),
            "references": [one.media for one in self.references],
            "people": list(self.people),
            "boxes": self.boxes,
            "prompt": self.prompt,
            **shared,
        }

    def rows(self, seeds: int, seed: int) -> Iterator[Row]:
        """A row for each image. Seeds below 2^31, drawn from the group: what some services take at most."""
        for number in range(seeds):
            told = hashlib.sha256(f"{self.group} {seed} {number}".encode()).hexdigest()
            drawn = int(told[:8], 16) >> 1
            own = {
                "id": told[:32],
                "kind": REQUEST,
                "origin": REQUEST,
                "parent": self.parent,
                "generator_seed": drawn,
            }
            yield {**self.columns(), **own}


class Requests(TableStep):
    """Holds ids, paths and prompts of portraits and targets, and a mean embedding per person; photos are streamed.

    Rejects `requests.no_prompt`, `requests.alone` (targets: nobody else to ask for), `requests.people` (groups: neither
    a portrait nor a group of that size), `requests.stranger` (somebody of whom there is no portrait), `requests.twice`
    (two faces of one person)."""

    kind = "requests"
    Settings: ClassVar[type[Settings]] = RequestsSettings
    summary = "ask for images of known people"
    new_table = True

    settings: RequestsSettings

    def __init__(self, settings: RequestsSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def threshold(self) -> float | None:
        if self.settings.by != "groups":
            return None
        stated = self.settings.threshold
        return same_person(self.env.require("identity")) if stated is None else stated

    def config(self) -> dict[str, Any]:
        return {**super().config(), "threshold": self.threshold}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        names = ("id", "kind", "media", "identity", self.settings.prompt)
        groups = ("faces", "embedding", "people_boxes", "people_embeddings", "image_size")
        return (*names, *groups) if self.settings.by == "groups" else names

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return REQUESTS

    def models(self) -> list[Binding]:
        return list(self.env.all("identity")[:1]) if self.settings.by == "groups" else []

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        from idtool.curate.dpo.groups import groups
        from idtool.curate.dpo.targets import targets

        schema = pa.schema([*REQUESTS, *OUTCOME])
        found = (
            targets(table, self.settings, context)
            if self.threshold is None
            else groups(table, self.settings, self.threshold, context)
        )
        held: list[Row] = []
        asked: set[str] = set()
        for one in found:
            if isinstance(one, dict):
                held.append(one)
            elif one.group not in asked:  # two photos of one scene may ask for the same
                asked.add(one.group)
                held.extend(one.rows(self.settings.seeds, context.seed))
            if len(held) >= ROWS:
                yield build(held, schema)
                held = []
        yield build(held, schema)


def photo_row(row: Mapping[str, Any], asked: Asked) -> Row:
    """A group photo as a candidate of its own request."""
    own = {name: row.get(name) for name in ("id", "media", "format", "bytes", "width", "height", "short_side")}
    return {**asked.columns(), **own, "kind": "image", "origin": PHOTO, "status": KEPT}


def turned_down(row: Mapping[str, Any], reason: str, message: str, value: float | None = None, limit: str = "") -> Row:
    """A photo that no request is made of."""
    own = {name: row.get(name) for name in ("id", "kind", "media", "identity", *TERMS.names)}
    told = {"reason": f"requests.{reason}", "message": message, "value": value, "threshold": limit or None}
    return {**own, "status": REJECTED, **told}
