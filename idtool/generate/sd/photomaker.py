"""PhotoMaker (Li et al., CVPR 2024), versions 1 and 2, on SDXL: the class word of the prompt, marked by a trigger word
behind it, carries the features of the reference from the merge step on.

Version 1 conditions on CLIP-L of the whole reference, version 2 also on buffalo_l's recognition network, raw embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.errors import MissingError
from idtool.generate import diffusion
from idtool.generate.method import Made, MethodSettings, Request
from idtool.generate.sd.method import SdMethod, SdSettings, needs_width, switched
from idtool.models import torch_runtime

MARK = "<|id|>"


class PhotoMakerSettings(SdSettings):
    """Defaults are those of the authors' scripts."""

    width: int = Field(default=1024, ge=8, le=8192)
    height: int = Field(default=1024, ge=8, le=8192)
    merge_step: int = Field(default=10, ge=-1)
    """The last step with the plain prompt, counted from 0; -1: the reference from the first step on."""
    trigger: str = Field(default="img", pattern=r"^\w+$")
    """Stands behind the class word. A prompt without it gets it behind its first word for a person."""
    lora_scale: float = Field(default=1.0, ge=0)
    """Of the low-rank changes that come with the weights."""


class PhotoMaker(SdMethod):
    """Version 1."""

    summary = "PhotoMaker 1: features of the reference in the class word of the prompt, on SDXL"
    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    scheduler: ClassVar[str | None] = "EulerDiscreteScheduler"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "SDXL or a model made from it, a diffusers folder",
        "adapter": "photomaker-v1.bin (option `file`)",
    }
    Settings: ClassVar[type[MethodSettings]] = PhotoMakerSettings
    vram_gib: ClassVar[float | None] = 11.0
    with_face: ClassVar[bool] = False

    def components(self) -> dict[str, Any]:
        return {}

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.flux.lora import lora_of
        from idtool.generate.sd import checkpoint
        from idtool.generate.sd.clip_state import middle, without
        from idtool.generate.sd.id_encoder import IdEncoder
        from idtool.generate.sd.lora_names import natural

        super().prepare(pipe, context)
        path, what = self.file("adapter")
        state = checkpoint.sections(path, ("id_encoder", "lora_weights"), what)
        self.encoder = self.filled(IdEncoder.like, without(state["id_encoder"]), what)
        if (self.encoder.vector is not None) != self.with_face:
            version = 1 if self.with_face else 2
            raise MissingError(f"{what} is PhotoMaker {version}'s.", f"Use it with the kind of version {version}.")
        text = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
        needs_width(what, text, self.encoder.fuse_module.layer_norm.weight.shape[0], "base")
        self.lora = lora_of(natural(state["lora_weights"]), pipe.unet, what)
        self.lora.attach(pipe.unet)
        torch_runtime.ready(self.lora, self.device, self.precision)
        self.pictures = middle(self.encoder.side, context.threads)
        if self.encoder.vector is not None:
            self.face = self.model("face", "identity", context)
            needs_width(what, self.face.dim, self.encoder.vector, "face")

    def check(self, request: Request) -> None:
        from idtool.generate.sd.marks import marked

        super().check(request)
        try:
            prompt = told(request)
        except ValueError as error:
            raise Rejected("request.prompt", str(error)) from None
        with self.turn:
            row = marked(self.pipe.tokenizer, prompt, MARK, self.encoder.count)
        if not row.positions:
            raise Rejected(
                "request.prompt",
                f"the class word lies behind the {self.pipe.tokenizer.model_max_length} tokens that the text encoders "
                "read",
            )

    def make(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        from idtool.generate.flux.lora import switched_on

        torch = torch_runtime.import_torch()
        with torch.inference_mode():
            extra, facts = self.prompts(requests)
        with switched_on([self.lora], _settings(requests[0]).lora_scale):
            made = diffusion.call(self.pipe, requests, extra)
        return [Made(image, fact) for image, fact in zip(made, facts, strict=True)]

    def features(self, requests: Sequence[Request]) -> Any:
        """(B, copies, width) of the references."""
        import torch

        people = [request.people[0] for request in requests]
        dtype = torch_runtime.dtype_of(self.precision)
        pixels = self.pictures([one.image for one in people])["pixel_values"].to(self.device, dtype)
        if self.encoder.vector is None:
            return self.encoder(pixels)
        raw = self.face.embed(self.face.crops([one.image for one in people], [one.face for one in people]))
        return self.encoder(pixels, torch.from_numpy(np.asarray(raw, np.float32)).to(self.device, dtype))

    def prompts(self, requests: Sequence[Request]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Arguments of the pipeline in place of prompts, and what each prompt became."""
        import torch

        from idtool.generate.sd.marks import marked

        prompts = [told(request) for request in requests]
        guided = self.is_guided(requests)
        negatives = [request.negative or "" for request in requests] if requests[0].negative is not None else None
        plain, negative, plain_pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=[" ".join(prompt.replace(MARK, " ").split()) for prompt in prompts],
            device=self.pipe._execution_device,
            do_classifier_free_guidance=guided,
            negative_prompt=negatives,
        )
        embeddings, cut, positions = [], [dict[str, int]() for _ in requests], []
        for name in ("", "_2"):
            tokenizer, tower = getattr(self.pipe, f"tokenizer{name}"), getattr(self.pipe, f"text_encoder{name}")
            rows = [marked(tokenizer, prompt, MARK, self.encoder.count) for prompt in prompts]
            ids = torch.tensor([row.ids for row in rows], device=self.pipe._execution_device)
            out = tower(ids, output_hidden_states=True)
            embeddings.append(out.hidden_states[-2])
            for lost, row in zip(cut, rows, strict=True):
                lost |= {f"tokenizer{name}": row.cut} if row.cut else {}
            positions = [[k for at in row.positions for k in at] for row in rows]
        pooled, text = out[0], torch.cat(embeddings, dim=-1).to(plain.dtype)
        fused = self.encoder.fuse_module.into(text, positions, list(self.features(requests)))
        extra: dict[str, Any] = {"prompt": diffusion.LEFT_OUT, "negative_prompt": diffusion.LEFT_OUT}
        later = {"prompt_embeds": fused, "add_text_embeds": pooled.to(plain.dtype)}
        step = _settings(requests[0]).merge_step
        first = (fused, later["add_text_embeds"]) if step < 0 else (plain, plain_pooled)
        extra |= dict(zip(("prompt_embeds", "pooled_prompt_embeds"), first, strict=True))
        if guided:
            extra |= {"negative_prompt_embeds": negative, "negative_pooled_prompt_embeds": negative_pooled}
            others = {"prompt_embeds": negative, "add_text_embeds": negative_pooled}
            later = {name: torch.cat([others[name], tensor]) for name, tensor in later.items()}
        extra["callback_on_step_end"] = switched(step, later)
        facts: list[dict[str, Any]] = []
        for prompt, lost, request in zip(prompts, cut, requests, strict=True):
            shown = prompt.replace(MARK, _settings(request).trigger)
            facts.append({"marked_prompt": shown} | ({"prompt_cut": lost} if lost else {}))
        return extra, facts

    def preprocessing(self) -> Mapping[str, Any]:
        face = {"face": {**self.face.fingerprint(), "length": "raw"}} if self.with_face else {}
        return {**face, "vision": {"of": "adapter", "preprocessing": self.pictures.words}}


class PhotoMakerV2(PhotoMaker):
    """Version 2: with a face network."""

    summary = "PhotoMaker 2: features of a face network and of CLIP in the class word of the prompt, on SDXL"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "SDXL or a model made from it, a diffusers folder",
        "adapter": "photomaker-v2.bin (option `file`)",
        "face": "the identity network that it was trained with, InsightFace's buffalo_l",
    }
    needs_face = True
    with_face: ClassVar[bool] = True


def told(request: Request) -> str:
    """The prompt with `MARK` behind its class word. ValueError when there is no such word, or several triggers."""
    from idtool.generate.sd.marks import with_marks

    trigger = _settings(request).trigger
    prompt = with_marks(request.prompt, trigger, 1, word=True)
    found = re.search(rf"\b{re.escape(trigger)}\b", prompt)
    assert found is not None  # noqa: S101 - `with_marks` has seen to it
    if not prompt[: found.start()].strip():
        raise ValueError(f"{trigger} has no word before it")
    return prompt[: found.start()] + MARK + prompt[found.end() :]


def _settings(request: Request) -> PhotoMakerSettings:
    assert isinstance(request.settings, PhotoMakerSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
