"""Regional prompting (Chen et al., "Training-Free Regional Prompting for Diffusion Transformers", 2024) on FLUX.1-dev.

For the first steps, every region of the frame sees its own prompt alone: the texts of all regions stand side by side,
and a mask lets a text look at itself and at its region, and a token of the image at the texts and tokens of its region.
What the base prompt makes of the whole frame is mixed in by `base_ratio`, in every block: in double blocks both share
the image tokens, in single blocks the base prompt has a copy of them, as in the authors' code. No weights of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Settings
from idtool.generate.flux.checkpoint import Card, check_base, check_ranks, read_card
from idtool.generate.flux.method import LORA_SLOT, FluxMethod, FluxSettings
from idtool.generate.method import MethodSettings, Request
from idtool.models import torch_runtime

Box = tuple[float, float, float, float]
Bools = npt.NDArray[np.bool_]
BASE, TWIN = "base", "image.base"
"""Branches of the base prompt: its text, and the image tokens that see it alone."""


class Region(Settings):
    """A part of the frame with a prompt of its own."""

    prompt: str = Field(min_length=1)
    box: Box | None = None
    """Left, top, right, bottom as shares of the frame; null: the box of the person at the same place of the request."""

    @model_validator(mode="after")
    def _inside(self) -> Region:
        if self.box is not None and not (0 <= self.box[0] < self.box[2] <= 1 and 0 <= self.box[1] < self.box[3] <= 1):
            raise ValueError(f"a box is left, top, right, bottom as shares of the frame, got {list(self.box)}")
        return self


class RegionalSettings(FluxSettings):
    """Defaults are those of the authors' demonstration."""

    width: int = Field(default=1280, ge=8, le=8192)
    height: int = Field(default=768, ge=8, le=8192)
    steps: int = Field(default=24, ge=1, le=1000)
    regions: tuple[Region, ...] = ()
    """What stands where; a request names its own."""
    background: str | None = None
    """Prompt of what no box covers; null: the request's own prompt."""
    inject_steps: int = Field(default=10, ge=0)
    """Steps with regions, from the first on."""
    base_ratio: float = Field(default=0.3, ge=0, le=1)
    """Share of the base prompt in the image tokens of these steps."""
    double_interval: int = Field(default=1, ge=1)
    """Every so many double blocks have the mask."""
    single_interval: int = Field(default=1, ge=1)


class Regional(FluxMethod):
    """A prompt for each person or part of the frame."""

    summary = "regional prompting: FLUX.1-dev with a prompt for every box; knows no faces"
    Settings: ClassVar[type[MethodSettings]] = RegionalSettings
    optional: ClassVar[Mapping[str, str]] = {"adapter": f"what step `refine` made, for every token: {LORA_SLOT}"}
    people = (0, 8)
    takes_boxes = True

    def look(self) -> None:
        if "adapter" in self.spec.bindings:
            path, what = self.file("adapter")
            self.card = read_card(path, "refine", what, Card)
            check_base(self.card, self.spec.bindings["base"], what)

    def prepare(self, pipe: Any, context: Context) -> None:
        if "adapter" in self.spec.bindings:
            path, what = self.file("adapter")
            [lora] = self.lora(torch_runtime.read_tensors(path), pipe, what, self.card.alpha)
            check_ranks(self.card, lora.ranks, what)
            # It is part of the network: on for regions, base prompt and all steps alike.
            lora.mask = 1.0

    def check(self, request: Request) -> None:
        super().check(request)
        regions = _settings(request).regions
        if not regions:
            raise Rejected("request.regions", f"{self.spec.name} needs regions: a prompt and a box for each")
        for k, region in enumerate(regions):
            if region.box is None and (k >= len(request.people) or request.people[k].box is None):
                raise Rejected(
                    "request.regions", f"region {k + 1} ({region.prompt!r}) has no box, nor has person {k + 1}"
                )

    def alike(self, request: Request) -> Hashable:
        return len(self._shares(request)[0])

    def _shares(self, request: Request) -> tuple[list[str], Bools]:
        """Prompts of the regions, and which tokens they cover: (regions, rows · columns)."""
        settings = _settings(request)
        boxes = [region.box or request.people[k].box for k, region in enumerate(settings.regions)]
        covers = np.stack([covered(box, request.height // 16, request.width // 16) for box in boxes if box])
        prompts = [region.prompt for region in settings.regions]
        if not covers.any(axis=0).all():
            covers = np.concatenate([covers, ~covers.any(axis=0, keepdims=True)])
            prompts.append(settings.background or request.prompt)
        return prompts, covers

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        import torch

        from idtool.generate.flux import sampling
        from idtool.generate.flux.attention import Site, View
        from idtool.generate.flux.transformer import IMAGE, TEXT, Additions

        settings = _settings(requests[0])
        shares = [self._shares(request) for request in requests]
        texts = [
            sampling.encode(self.pipe, prompts, settings.text_length)
            for prompts in zip(*(prompts for prompts, _ in shares), strict=True)
        ]
        tokens = torch.cat([text.tokens for text in texts], dim=1)
        ids = torch.cat([text.ids for text in texts])
        masks = [region_mask(covers, settings.text_length) for _, covers in shares]
        mask = torch.from_numpy(np.stack(masks))[:, None].to(tokens.device)
        ratio = settings.base_ratio

        def views(site: Site) -> list[View]:
            interval = settings.double_interval if site.kind == "double" else settings.single_interval
            chosen = mask if site.number % interval == 0 else None
            own = View((TEXT, IMAGE), (TEXT, IMAGE), chosen, {IMAGE: 1 - ratio})
            if ratio == 0:
                return [own]
            if site.kind == "double":
                return [own, View((BASE, IMAGE), (BASE, IMAGE), weights={IMAGE: ratio})]
            return [own, View((BASE, TWIN), (BASE, TWIN), lent={TWIN: (IMAGE, ratio)})]

        def changes(step: Any) -> Mapping[str, Any]:
            if step.negative or step.number >= settings.inject_steps:
                return {}
            base = {BASE: step.text.tokens} if ratio > 0 else {}
            additions = Additions(texts=base, views=views, twin=TWIN if ratio > 0 else None)
            return {"encoder_hidden_states": tokens, "txt_ids": ids, "additions": additions}

        return changes

    def facts(self, request: Request) -> Mapping[str, Any]:
        return {"regions": [region.prompt for region in _settings(request).regions]}


def covered(box: Box, rows: int, columns: int) -> Bools:
    """(rows · columns,) tokens whose middle lies inside a box. ValueError when there is none."""
    across, down = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    inside = ((box[1] <= down) & (down < box[3]))[:, None] & ((box[0] <= across) & (across < box[2]))[None, :]
    if not inside.any():
        raise ValueError(f"the box {list(box)} covers no token of the frame, which has {columns} x {rows}")
    return np.asarray(inside.reshape(-1), np.bool_)


def region_mask(covers: Bools, text: int) -> Bools:
    """Who may look at whom, (S, S) with S = regions · text + tokens: texts of the regions one after the other, then the
    image. `covers`: (regions, tokens)."""
    of_text = np.repeat(np.eye(len(covers), dtype=np.bool_), text, axis=0)
    members = np.concatenate([of_text, covers.T])
    return np.asarray((members.astype(np.float32) @ members.astype(np.float32).T) > 0)


def _settings(request: Request) -> RegionalSettings:
    assert isinstance(request.settings, RegionalSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
