"""The shape of a suite's file."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _as(key: str) -> BeforeValidator:
    """Plain text where keys would be: the value of `key`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _listed(each: Any) -> BeforeValidator:
    """A list where names with values would be: every name with `each(name)`."""
    return BeforeValidator(lambda value: {one: each(one) for one in value} if isinstance(value, list) else value)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Level(_Model):
    """A value of an attribute, such as `elderly`: which labels and which numbers mean it."""

    labels: tuple[str, ...] = ()
    """Further words for it; upper and lower case are one."""
    min: float | None = None
    """For labels that are numbers: from here …"""
    max: float | None = None
    """… up to below here."""


class People(_Model):
    """Who the images are to show."""

    source: str | None = None
    """Folder, manifest, curated run, or `sample`; null: `--identities` says it."""
    count: int | None = Field(default=None, ge=1)
    """How many people; null: all that the source has, or as many as keep the cells equal."""
    cells: dict[str, Annotated[dict[str, Level], _listed(lambda name: {}), Field(min_length=1)]] = {}
    """Attribute -> its values. Every combination gets the same number of people."""
    per_person: int = Field(default=1, ge=1)
    """Reference pictures of each person; each is the only reference of requests of its own."""
    smallest_face: int = Field(default=48, ge=0)
    """Shorter side of the face in a reference, in pixels, at least."""
    attributes: Literal["labels", "measured"] = "labels"
    """`measured`: age and gender where no label says them, by the network of role `attributes`. Never ethnicity."""
    defaults: dict[str, str] = {}
    """What fills a placeholder for a person without that label, as in `class: person`."""


class Prompt(_Model):
    """One prompt."""

    text: str = Field(min_length=1)
    """May have placeholders: `{class}`, `{age}` … for one person, `{class_1}` for several, `{count}` in words."""
    category: str | None = None
    """A slice of the report."""
    template: str | None = None
    """In place of the suite's."""
    targets: dict[str, str | tuple[str, ...]] = {}
    """What the text demands of everybody, or of each in turn: `expression`, `orientation`. Metrics compare with it."""
    only: tuple[str, ...] = ()
    """Labels of the people that it is for; empty: everybody."""


class Captions(_Model):
    """Prompts out of the source: each person's is the caption of a picture of somebody else (DMID, section 4.1.3)."""

    same: tuple[str, ...] = ()
    """Attributes that the two must agree in. People without such a label form a group of their own."""


class Draw(_Model):
    """How people, prompts and factors are crossed."""

    kind: Literal["grid", "sample"] = "grid"
    """`grid`: every person with every prompt and every value of every factor. `sample`: `n` of them."""
    n: int | None = Field(default=None, ge=1)
    """Per person or group, before seeds: prompts and values come as equally often as can be."""


class Size(_Model):
    width: int = Field(ge=8, le=8192)
    height: int = Field(ge=8, le=8192)


class Primary(_Model):
    """The two families that the report sets against each other."""

    identity: str
    prompt: str


class Suite(_Model):
    """A benchmark's definition."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: int = Field(default=1, ge=1)
    """Raised whenever the requests change."""
    summary: str
    paper: str | None = None
    """Where the protocol comes from."""
    people: int = Field(default=1, ge=1, le=8)
    """How many in one image; with `groups`, at most."""
    groups: tuple[int, ...] = ()
    """Sizes of groups in turn, as [2, 3]; empty: `people` each. Nobody is in two groups."""
    subjects: Literal["faces", "any"] = "faces"
    """`any`: whatever the references show; nobody looks for a face in them."""
    identities: People = People()
    prompts: tuple[Annotated[Prompt, _as("text")], ...] = ()
    captions: Captions | None = None
    """In place of `prompts`."""
    template: str = "{prompt}"
    factors: dict[str, Annotated[dict[str, str], _listed(str), Field(min_length=1)]] = {}
    """Name -> value -> the words that the template says it with. Each person draws their own."""
    draw: Annotated[Draw, _as("kind")] = Draw()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """One image for each."""
    prompting: Literal["static", "dynamic", "both"] = "static"
    """`dynamic`: the profile's captioner looks at the references and rewrites each prompt (IdGlow, section 3.2)."""
    size: Size | None = None
    """Of the images, in pixels; null: each method's own."""
    metrics: tuple[str, ...] = Field(min_length=1)
    """Families."""
    primary: Primary
    baselines: tuple[str, ...] = ("copy", "other-identity", "text-only", "paste")
    """Methods that always come along."""
    real: str | None = "references"
    """What set-level metrics compare with: `references`, or a folder or manifest; null: nothing."""
    limits: tuple[str, ...] = ()
    """What the protocol leaves open and what stands here in its place; what the suite cannot show."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The different numbers of people in one image."""
        return tuple(sorted(set(self.groups))) or (self.people,)

    def group_sizes(self, people: int) -> list[int]:
        """Sizes of the groups that so many people make, in turn; those left over are in none."""
        sizes = self.groups or (self.people,)
        found: list[int] = []
        left = people
        while left >= (size := sizes[len(found) % len(sizes)]):
            found.append(size)
            left -= size
        return found

    @property
    def repeats(self) -> int:
        """Requests of one group in one scene: references, seeds, ways of prompting."""
        return self.identities.per_person * len(self.seeds) * (2 if self.prompting == "both" else 1)

    def scenes(self, size: int) -> int:
        """Combinations of prompts and factors for a group of `size`: all of the grid, or as many as are drawn."""
        values = prod(len(levels) for levels in self.factors.values())
        prompts = 1 if self.captions else len(self.prompts)
        return prompts * values**size if self.draw.n is None else min(self.draw.n, prompts * values)

    def requests(self, people: int | None = None) -> int | None:
        """Requests per method; None where that depends on who the people are."""
        count = self.identities.count if people is None else people
        if count is None or any(prompt.only for prompt in self.prompts):
            return None
        return sum(self.scenes(size) for size in self.group_sizes(count)) * self.repeats

    def with_count(self, count: int | None) -> Suite:
        """The suite for another number of people; another benchmark, with another hash."""
        return self.model_copy(update={"identities": self.identities.model_copy(update={"count": count})})

    def to_yaml(self) -> str:
        """The suite with every value written out, as `load_suite` reads it."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
        return text
