"""What methods on unchanged diffusers pipelines share: the base told by its model_index.json before anything of it is
read, requests that cannot go through one call made apart, and negative prompts refused where they would be ignored."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from idtool.engine.operator import Rejected
from idtool.errors import MissingError
from idtool.generate import diffusion
from idtool.generate.diffusion import DiffusionMethod
from idtool.generate.method import Image, Made, Request
from idtool.models import sources


class StockMethod(DiffusionMethod):
    """A method on a pipeline of diffusers as it is. Families name its class or classes and say how requests become its
    arguments (`arguments`)."""

    pipeline: ClassVar[str] = ""
    """Class that is loaded; empty: the one that the base names."""
    bases: ClassVar[tuple[str, ...]] = ()
    """Classes that the base may name; empty: `pipeline` alone."""

    def pipeline_class(self) -> str:
        found = base_class(self.weights("base"), self.bases or (self.pipeline,))
        return self.pipeline or found

    def alike(self, request: Request) -> Hashable:
        """Requests that differ in it go into different calls."""
        return None

    def unheeded(self, request: Request) -> str | None:
        """Why the negative prompt of a request would be ignored; None when it would not."""
        return None

    def facts(self, request: Request) -> Mapping[str, Any]:
        """What the record of an image should say: tokens of the prompt that were cut off, and the like."""
        return diffusion.prompt_facts(self.pipe, request.prompt)

    def finished(self, image: Image, request: Request) -> Image:
        """The picture that is given back, from what the pipeline made."""
        return image

    def check(self, request: Request) -> None:
        super().check(request)
        if request.negative and request.negative.strip() and (why := self.unheeded(request)):
            raise Rejected("request.negative_prompt", f"{self.spec.name} would not heed a negative prompt: {why}")

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        groups: dict[Hashable, list[int]] = {}
        for k, request in enumerate(requests):
            groups.setdefault(self.alike(request), []).append(k)
        made: dict[int, Made | Exception] = {}
        for rows in groups.values():
            some = [requests[k] for k in rows]
            # What adapters are shown is put where the pipeline finds it, so arguments and call belong together.
            with self.turn:
                images = diffusion.call(self.pipe, some, self.arguments(some))
            for k, request, image in zip(rows, some, images, strict=True):
                made[k] = Made(self.finished(image, request), dict(self.facts(request)))
        return [made[k] for k in range(len(requests))]


def base_class(weights: sources.Weights, known: Sequence[str]) -> str:
    """The class of pipeline that a diffusers folder names. MissingError unless it is one of `known`."""
    what = f"Model {weights.model} ({weights.path})"
    hint = f"Bind a {' or '.join(known)} to slot `base`."
    index = weights.path / "model_index.json"
    if not index.is_file():
        raise MissingError(f"{what} is no diffusers pipeline: it has no model_index.json.", hint)
    try:
        found = json.loads(index.read_text("utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise MissingError(f"{index} cannot be read: {error}.", "Fetch it again.") from error
    if found not in known:
        raise MissingError(f"{what} is a {found}, and this method runs on {' or '.join(known)}.", hint)
    return str(found)
