"""Editing of DynamicID's identity tokens: source and target motions described, encoded, and exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idtool.generate.method import Person
from idtool.generate.references import FaceRule, References
from idtool.generate.sd.editing import ORIENTATIONS, Motion, MotionReader
from idtool.generate.sd.imr import KeyPointEncoder, Reconfigurator
from idtool.media.paths import is_url, to_uri


class Editor:
    """Tokens of people with other expressions, orientations or landmarks."""

    def __init__(self, imr: Reconfigurator, key_points: KeyPointEncoder, reader: MotionReader, detector: Any) -> None:
        self.imr, self.key_points, self.reader = imr, key_points, reader
        self._drivers = References(detector, FaceRule("largest"))

    def __call__(
        self,
        pipe: Any,
        tokens: Tensor,
        people: Sequence[Person],
        expression: str | None,
        orientation: str | None,
        driver: str | None,
    ) -> Tensor:
        """`tokens` (B, T, width) of one person of each request, edited. Descriptions go through the pipeline's own text
        encoder. Rejected when the driver cannot be read or shows no face."""
        sources = self.reader([one.image for one in people], [_face(one) for one in people])
        targets = [replace(each) for each in sources]
        if driver is not None:
            person = self._drivers.person(driver if is_url(driver) else to_uri(driver), face=True)
            targets = self.reader([person.image], [_face(person)]) * len(people)
        changes = {"expression": expression, "orientation": orientation and ORIENTATIONS[orientation]}
        told: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
        targets = [replace(each, **told) for each in targets]
        source, target = (self._motion(pipe, each, tokens) for each in (sources, targets))
        edited: Tensor = self.imr(tokens, source, target)
        return edited

    def facts(self) -> Mapping[str, Any]:
        """For records."""
        pose, expression = self.reader.pose.fingerprint(), self.reader.expression.fingerprint()
        return {"pose": pose, "expression": expression, "landmarks": "106 points, whole frame squeezed to 96 px"}

    def _motion(self, pipe: Any, motions: Sequence[Motion], like: Tensor) -> Tensor:
        rasters = torch.from_numpy(np.stack([each.raster for each in motions])[:, None]).to(like.device, like.dtype)
        ids = pipe.tokenizer(
            [each.description for each in motions],
            padding="max_length",
            max_length=pipe.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        text = pipe.text_encoder(ids.to(like.device)).pooler_output.to(like.device, like.dtype)
        return self.imr.motion(self.key_points(rasters), text)


def _face(person: Person) -> Any:
    """The face of a reference; `DynamicId.needs_face` sees to it."""
    if person.face is None:
        raise ValueError("the reference comes without its face")
    return person.face
