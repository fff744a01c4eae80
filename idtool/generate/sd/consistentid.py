"""ConsistentID (Huang et al., 2024) on Stable Diffusion 1.5: identity tokens as IP-Adapter-FaceID-Plus has them, and
features of the regions of the face fused into a sentence about them from the merge step on.

Conditions on buffalo_l's recognition network, on CLIP-H of the whole reference and of its regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate import diffusion
from idtool.generate.method import Made, MethodSettings, Request
from idtool.generate.sd.method import SdMethod, SdSettings, needs_width, switched
from idtool.models import torch_runtime


class ConsistentIdSettings(SdSettings):
    """Defaults are those of the authors' demonstration."""

    height: int = Field(default=768, ge=8, le=8192)
    merge_step: int = Field(default=30, ge=-1)
    """The last step with the plain prompt, counted from 0; -1: regions from the first step on. The higher, the more the
    prompt has its way."""
    id_scale: float = Field(default=1.0, ge=0)
    """Of what the identity tokens add."""
    lora_scale: float = Field(default=1.0, ge=0)
    """Of the low-rank changes that come with the weights."""


class ConsistentId(SdMethod):
    """Facial encoder and identity branch."""

    summary = "ConsistentID: identity tokens, and regions of the face in the prompt, on Stable Diffusion 1.5"
    scheduler: ClassVar[str | None] = "EulerDiscreteScheduler"
    slots: ClassVar[Mapping[str, str]] = {
        **SdMethod.slots,
        "adapter": "ConsistentID-v1.bin (option `file`)",
        "face": "the identity network that it was trained with, InsightFace's buffalo_l",
        "vision": "CLIP-ViT-H-14 (laion2B-s32B-b79K)",
        "parser": "a face parser, BiSeNet",
    }
    Settings: ClassVar[type[MethodSettings]] = ConsistentIdSettings
    needs_face = True

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.sd import attention, checkpoint
        from idtool.generate.sd.facial import FacialEncoder
        from idtool.generate.sd.projection import FaceProjection
        from idtool.generate.sd.vision import ClipTower

        super().prepare(pipe, context)
        path, what = self.file("adapter")
        names = ("FacialEncoder", "image_proj", "adapter_modules")
        state = checkpoint.sections(path, names, what, other_names={"image_proj_model": "image_proj"})
        self.projection = self.filled(FaceProjection.like, state["image_proj"], what)
        self.facial = self.filled(FacialEncoder.like, state["FacialEncoder"], what)
        self.conditions = attention.Conditions()
        processors = attention.install(pipe.unet, self.conditions, attention.rank_of(state["adapter_modules"]))
        torch_runtime.fill(processors, state["adapter_modules"], f"{what} on {self.spec.bindings['base'].model}")
        torch_runtime.ready(processors, "cpu", self.precision)
        self.face = self.model("face", "identity", context)
        self.parser = self.model("parser", "parser", context)
        self.tower = ClipTower(self.weights("vision"), self.device, self.precision, context.threads)
        width = pipe.unet.config.cross_attention_dim
        needs_width(what, self.face.dim, self.projection.vector, "face")
        needs_width(what, self.tower.width, self.projection.features, "vision")
        needs_width(what, self.tower.width, self.facial.features, "vision")
        if width != self.projection.width:
            raise MissingError(
                f"{what} is for text {self.projection.width} wide, the base has {width}.", "Bind SD 1.5."
            )
        torch = torch_runtime.import_torch()
        with torch.inference_mode():
            self.nothing = self.tower.nothing()
            zero = torch.zeros(1, self.projection.vector, device=self.device, dtype=self.nothing.dtype)
            self.nobody = self.projection(zero, self.nothing)

    def make(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        settings = _settings(requests[0])
        torch = torch_runtime.import_torch()
        with torch.inference_mode():
            images = [request.people[0].image for request in requests]
            tokens = self.projection(self.vectors(requests, 0), self.tower.hidden(images))
            if self.is_guided(requests):
                tokens = torch.cat([self.nobody.repeat(len(requests), 1, 1), tokens])
            extra, facts = self.prompts(requests)
        with self.conditions.of(tokens, scale=settings.id_scale, lora_scale=settings.lora_scale):
            made = diffusion.call(self.pipe, requests, extra)
        return [Made(image, fact) for image, fact in zip(made, facts, strict=True)]

    def prompts(self, requests: Sequence[Request]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Arguments of the pipeline in place of prompts, and what each prompt became."""
        import torch

        from idtool.generate.sd.facial import MARK, prompt_with, regions
        from idtool.generate.sd.marks import encoded, marked

        people: list[Any] = [request.people[0] for request in requests]
        parsed = self.parser([one.image for one in people], [one.face for one in people])
        pictures = [regions(one.image, parts) for one, parts in zip(people, parsed, strict=True)]
        told = [
            marked(self.pipe.tokenizer, prompt_with(request.prompt, list(seen)), MARK)
            for request, seen in zip(requests, pictures, strict=True)
        ]
        for k, (request, seen) in enumerate(zip(requests, pictures, strict=True)):
            if told[k].cut:
                text = prompt_with(request.prompt, list(seen), detail_first=True)
                told[k] = marked(self.pipe.tokenizer, text, MARK)
        positions = [[at[-1] for at in one.positions] for one in told]
        kept = [list(seen)[: len(at)] for seen, at in zip(pictures, positions, strict=True)]
        features = [
            self.tower.hidden([seen[name] for name in names]) if names else self.nothing[:0]
            for seen, names in zip(pictures, kept, strict=True)
        ]
        text = encoded(self.pipe, [one.ids for one in told])
        rows = [text, self.facial(text, positions, features)]
        extra: dict[str, Any] = {"prompt": diffusion.LEFT_OUT, "negative_prompt": diffusion.LEFT_OUT}
        if self.is_guided(requests):
            negative = encoded(
                self.pipe, [marked(self.pipe.tokenizer, one.negative or "", MARK).ids for one in requests]
            )
            # The authors fuse the features of nothing into the negative prompt, at the places of the prompt's words.
            empty = [self.nothing.expand(len(at), -1, -1) for at in positions]
            extra["negative_prompt_embeds"] = self.facial(negative, positions, empty)
            rows = [torch.cat([extra["negative_prompt_embeds"], row]) for row in rows]
        plain, fused = rows
        step = _settings(requests[0]).merge_step
        extra["prompt_embeds"] = (fused if step < 0 else plain)[-len(requests) :]
        extra["callback_on_step_end"] = switched(step, {"prompt_embeds": fused})
        facts: list[dict[str, Any]] = [{"regions": names} for names in kept]
        for fact, one in zip(facts, told, strict=True):
            fact |= {"prompt_cut": {"tokenizer": one.cut}} if one.cut else {}
        return extra, facts

    def preprocessing(self) -> Mapping[str, Any]:
        return {
            "face": {**self.face.fingerprint(), "length": "one"},
            "vision": self.tower.facts(),
            "parser": self.parser.fingerprint(),
            "regions": "both of a pair; the whole frame, black outside",
        }


def _settings(request: Request) -> ConsistentIdSettings:
    assert isinstance(request.settings, ConsistentIdSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
