"""Measure `color_score`: colours of the subject's parts against the reference, by ColorScore-v1 (CHARIS)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa

from idtool.engine.operator import Context
from idtool.engine.step import Env
from idtool.evaluate.charis import color_score, regions
from idtool.evaluate.charis.color_score import Colours
from idtool.evaluate.charis.questions import question
from idtool.evaluate.charis.regions import Labels, Outline, Part
from idtool.evaluate.measures.base import Image, Item, Measure, SampleItem, Values, column
from idtool.evaluate.measures.judge import LONG_SIDE as JUDGED_SIDE
from idtool.models.ask import Answer
from idtool.models.asking import reduced
from idtool.models.caption_checks import MACHINE, Unavailable

LONG_SIDE = 1024
"""Pixels of the longer side of the pictures, at most: masks and their edges are then of one scale."""


class ColorScore(Measure):
    """By the networks of roles `segmenter`, `grounder` (unless the segmenter takes phrases) and `features`. Where role
    `judge` is bound, it names the subject and its parts in each reference; else lists of ours do, as they do where
    the judge will not answer. Of several references, the regions are pooled."""

    name = "color_score"
    kind: ClassVar[Literal["image", "text", "sample"]] = "sample"
    role = "segmenter"
    also = ("features",)
    summary = "colours of the subject's parts against the reference's"
    writes = pa.schema(
        [
            column("color_score", pa.float32(), "1: all parts of the same colours; null: no part in both", "[0, 1]"),
            column("color_score_median", pa.float32(), "the same by median in place of mean colours", "[0, 1]"),
            column("color_score_grey", pa.float32(), "the same after a grey-world white balance", "[0, 1]"),
            column("color_coverage", pa.float32(), "share of the reference's subject that was compared", "[0, 1]"),
            column("color_pairs", pa.int32(), "parts that were found in both"),
            column("color_labels", pa.list_(pa.string()), "the parts that were looked for"),
            column("color_labels_from", pa.string(), "who named them, reference by reference"),
            column("color_details", pa.string(), "label, cosine, and terms per colour space of each pair: JSON"),
            column("color_why", pa.string(), "why there is no score; null where there is one"),
        ]
    )

    @classmethod
    def made(cls, env: Env) -> Measure:
        needed = [
            "features",
            *(["grounder"] if cls._takes_boxes(env) else []),
            *(["judge"] if env.has("judge") else []),
        ]
        return cls(cls.bound(env), {role: env.require(role) for role in needed})

    @classmethod
    def why_not(cls, env: Env) -> str | None:
        if cls.bound(env) is not None and cls._takes_boxes(env) and not env.has("grounder"):
            return f"needs role grounder beside this segmenter; profile {env.profile} binds none"
        return super().why_not(env)

    @classmethod
    def _takes_boxes(cls, env: Env) -> bool:
        """Whether the segmenter outlines what is in boxes, so that a grounder must find these."""
        from idtool.models import WRAPPERS, format_of

        binding = cls.bound(env)
        named = format_of(binding) if binding else None
        return named is None or named not in WRAPPERS or not hasattr(WRAPPERS.get(named), "regions")

    def config(self) -> dict[str, Any]:
        asked = {"question": question("parts").hash} if "judge" in self.further else {}
        lists = {name: [phrase, list(parts)] for name, (phrase, parts) in regions.FIXED.items()}
        limits = [regions.MIN_SCORE, regions.ACCEPT, color_score.EROSION, LONG_SIDE]
        return {**super().config(), "score": color_score.NAME, "lists": lists, "limits": limits, **asked}

    def load(self, context: Context) -> None:
        from idtool.models.grounded import Grounded

        super().load(context)
        self.grounded = Grounded(self.models.get("grounder"), self.model)

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        samples = cast(Sequence[SampleItem], items)
        # Samples of one call share the arrays of their references.
        pictures = {id(one): one for sample in samples for one in (*sample.references, sample.image)}
        small = {key: reduced(one, LONG_SIDE) for key, one in pictures.items()}
        answers = self._asked({id(one): small[id(one)] for sample in samples for one in sample.references})
        wanted = [_wanted(sample, answers) for sample in samples]
        outlined = self._outlined(samples, wanted, small)
        return [
            self._values(sample, labels, outlined) if not isinstance(labels, Exception) else labels
            for sample, labels in zip(samples, wanted, strict=True)
        ]

    def _asked(self, references: Mapping[int, Image]) -> dict[int, Answer]:
        """What the judge says of each reference; nothing where none is bound."""
        if "judge" not in self.models:
            return {}
        asks = [question("parts").ask([reduced(image, JUDGED_SIDE)]) for image in references.values()]
        return dict(zip(references, self.models["judge"].ask(asks), strict=True))

    def _outlined(
        self, samples: Sequence[SampleItem], wanted: Sequence[list[Labels] | Exception], small: Mapping[int, Image]
    ) -> dict[Any, Outline | None]:
        """Every picture with what is looked for in it -> what was found; each only once."""
        jobs: dict[Any, tuple[Image, list[Labels]]] = {}
        for sample, labels in zip(samples, wanted, strict=True):
            if not isinstance(labels, Exception) and labels:
                jobs |= {
                    _job(image, [one]): (image, [one]) for image, one in zip(sample.references, labels, strict=True)
                }
                jobs[_job(sample.image, labels)] = (sample.image, labels)
        images = [small[id(image)] for image, _ in jobs.values()]
        subjects = [_subjects(labels) for _, labels in jobs.values()]
        parts = [_parts(labels) for _, labels in jobs.values()]
        return dict(zip(jobs, regions.outlines(self.grounded, images, subjects, parts), strict=True))

    def _values(self, sample: SampleItem, labels: list[Labels], outlined: Mapping[Any, Outline | None]) -> Values:
        if not labels:
            return {"color_why": "no reference to compare with"}
        told = {"color_labels": _parts(labels), "color_labels_from": "; ".join(one.source for one in labels)}
        sought = zip(sample.references, labels, strict=True)
        references = [outlined[_job(image, [one])] for image, one in sought]
        generated = outlined[_job(sample.image, labels)]
        for number, (one, label) in enumerate(zip(references, labels, strict=True), 1):
            if one is None:
                return {**told, "color_why": f"no {label.subject} found in reference {number}"}
        if generated is None:
            return {**told, "color_why": f"no {' or '.join(_subjects(labels))} found in the image"}
        subjects = [one for one in references if one is not None]
        return {**told, **self._compared(subjects, generated)}

    def _compared(self, references: Sequence[Outline], generated: Outline) -> Values:
        first = [part for one in references for part in one.parts]
        second = list(generated.parts)
        cosines = self._cosines(first, second)
        pairs = regions.matched([one.label for one in first], [one.label for one in second], cosines)
        if not pairs:
            return {"color_pairs": 0, "color_coverage": 0.0, "color_why": "no part is found in both pictures"}
        plain, grey = ([_colours(first[a], second[b], white) for a, b in pairs] for white in (False, True))
        terms = [color_score.terms(*pair) for pair in plain]
        details = [
            {"label": first[a].label, "cosine": round(float(cosines[a, b]), 4), **_rounded(found)}
            for (a, b), found in zip(pairs, terms, strict=True)
        ]
        return {
            "color_score": color_score.mean_of(terms),
            "color_score_median": color_score.mean_of([color_score.terms(*pair, "median") for pair in plain]),
            "color_score_grey": color_score.mean_of([color_score.terms(*pair) for pair in grey]),
            "color_coverage": _coverage(references, [first[a] for a, _ in pairs]),
            "color_pairs": len(pairs),
            "color_details": json.dumps(details),
        }

    def _cosines(self, first: Sequence[Part], second: Sequence[Part]) -> Any:
        """(N, M) of the features of the parts' crops."""
        if not first or not second:
            return np.zeros((len(first), len(second)))
        rows = np.asarray(self.models["features"].images([one.crop() for one in (*first, *second)]), np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows[: len(first)] @ rows[len(first) :].T


def _wanted(sample: SampleItem, answers: Mapping[int, Answer]) -> list[Labels] | Exception:
    """What is looked for in each reference; an exception where the judge could not be asked."""
    out = []
    for image in sample.references:
        answer = answers.get(id(image))
        if answer is not None and answer.reason in MACHINE:
            return Unavailable(answer.detail or f"the judge gave no answer: {answer.reason}")
        own = regions.named(answer.data) if answer is not None and answer.ok else None
        if own is None:
            own = regions.fixed(sample.row.get("slices"))
            if answer is not None:
                why = f"the judge: {answer.reason}" if answer.reason else "the judge named no part"
                own = Labels(own.subject, own.parts, f"{own.source} ({why})")
        out.append(own)
    return out


def _subjects(labels: Sequence[Labels]) -> dict[str, int]:
    return dict(Counter(one.subject for one in labels))


def _parts(labels: Sequence[Labels]) -> list[str]:
    return list(dict.fromkeys(part for one in labels for part in one.parts))


def _job(image: Image, labels: Sequence[Labels]) -> tuple[Any, ...]:
    return (id(image), *_subjects(labels).items(), *_parts(labels))


def _colours(one: Part, other: Part, grey_world: bool) -> tuple[Mapping[str, Colours], Mapping[str, Colours]]:
    first, second = (color_score.colours(part.area, grey_world=grey_world) for part in (one, other))
    return first, second


def _coverage(references: Sequence[Outline], parts: Sequence[Part]) -> float:
    """Share of the subjects' area that the parts cover together."""
    covered = 0
    for one in references:
        masks = [part.area[1] for part in parts if any(part is mine for mine in one.parts)]
        covered += int(np.logical_or.reduce(masks).sum()) if masks else 0
    return covered / sum(int(one.subject.sum()) for one in references)


def _rounded(terms: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {space: [round(value, 4) for value in pair] for space, pair in terms.items()}
