"""FastComposer (Xiao et al., 2023) on Stable Diffusion 1.5: one or two people, whose CLIP embeddings are fused into the
words that name them from the merge step on.

Conditions on CLIP-L of the whole reference, padded to a square; no face network. UNet, text encoder and image encoder
are the checkpoint's; the VAE stays the base model's, as the authors have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.generate import diffusion
from idtool.generate.method import Made, MethodSettings, Request
from idtool.generate.sd.method import SdMethod, SdSettings, needs_width, switched
from idtool.models import torch_runtime

MARK = "<|image|>"
SECTIONS = ("unet", "text_encoder", "image_encoder", "postfuse_module", "vae")


class FastComposerSettings(SdSettings):
    """Defaults are those of the authors' script."""

    merge_step: int = Field(default=10, ge=-1)
    """The last step with the plain prompt, counted from 0; -1: the references from the first step on."""


class FastComposer(SdMethod):
    """Embeddings of references in the words for them."""

    summary = "FastComposer: CLIP embeddings of one or two references in the words for them, on Stable Diffusion 1.5"
    slots: ClassVar[Mapping[str, str]] = {
        **SdMethod.slots,
        "adapter": "pytorch_model.bin (option `file`)",
    }
    Settings: ClassVar[type[MethodSettings]] = FastComposerSettings
    people: ClassVar[tuple[int, int]] = (1, 2)

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.sd import checkpoint
        from idtool.generate.sd.clip_state import LEGACY, Vision, squared, without
        from idtool.generate.sd.fuse import Fuse

        super().prepare(pipe, context)
        path, what = self.file("adapter")
        state = checkpoint.sections(path, SECTIONS, what)
        where = f"{what} on {self.spec.bindings['base'].model}"
        torch_runtime.fill(pipe.unet, state["unet"], f"{where}: UNet")
        # The authors' text encoder has the layers of CLIP's text model at its top, as transformers has them now.
        torch_runtime.fill(pipe.text_encoder, state["text_encoder"], f"{where}: text encoder", ignore=LEGACY)
        self.vision = self.filled(Vision.like, without(state["image_encoder"]), f"{what}: image encoder")
        self.fuse = self.filled(Fuse.like, state["postfuse_module"], f"{what}: fusion")
        width = self.fuse.layer_norm.weight.shape[0]
        needs_width(what, self.vision.visual_projection.out_features, width, "adapter")
        needs_width(what, pipe.text_encoder.config.hidden_size, width, "base")
        self.pictures = squared(self.vision.side, context.threads)

    def check(self, request: Request) -> None:
        from idtool.generate.sd.marks import marked, with_marks

        super().check(request)
        try:
            prompt = with_marks(request.prompt, MARK, len(request.people))
            with self.turn:
                row = marked(self.pipe.tokenizer, prompt, MARK)
        except ValueError as error:
            raise Rejected("request.prompt", str(error)) from None
        if len(row.positions) < len(request.people):
            raise Rejected(
                "request.prompt",
                f"a {MARK} lies behind the {self.pipe.tokenizer.model_max_length} tokens that the text encoder reads",
            )

    def make(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        torch = torch_runtime.import_torch()
        with torch.inference_mode():
            extra, facts = self.prompts(requests)
        made = diffusion.call(self.pipe, requests, extra)
        return [Made(image, fact) for image, fact in zip(made, facts, strict=True)]

    def prompts(self, requests: Sequence[Request]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Arguments of the pipeline in place of prompts, and what each prompt became."""
        import torch

        from idtool.generate.sd.marks import encoded, marked, with_marks

        prompts = [with_marks(request.prompt, MARK, len(request.people)) for request in requests]
        told = [marked(self.pipe.tokenizer, prompt, MARK) for prompt in prompts]
        images = [person.image for request in requests for person in request.people]
        pixels = self.pictures(images)["pixel_values"].to(self.device, torch_runtime.dtype_of(self.precision))
        features = self.vision(pixels).split([len(request.people) for request in requests])
        plain = encoded(self.pipe, [one.ids for one in told])
        fused = self.fuse.into(plain, [[at[-1] for at in one.positions] for one in told], features)
        step = self._step(requests)
        extra: dict[str, Any] = {"prompt": diffusion.LEFT_OUT, "negative_prompt": diffusion.LEFT_OUT}
        extra["prompt_embeds"] = fused if step < 0 else plain
        if self.is_guided(requests):
            rows = [marked(self.pipe.tokenizer, request.negative or "", MARK).ids for request in requests]
            extra["negative_prompt_embeds"] = encoded(self.pipe, rows)
            fused = torch.cat([extra["negative_prompt_embeds"], fused])
        extra["callback_on_step_end"] = switched(step, {"prompt_embeds": fused})
        facts: list[dict[str, Any]] = []
        for prompt, one in zip(prompts, told, strict=True):
            facts.append({"marked_prompt": prompt} | ({"prompt_cut": {"tokenizer": one.cut}} if one.cut else {}))
        return extra, facts

    def _step(self, requests: Sequence[Request]) -> int:
        settings = requests[0].settings
        assert isinstance(settings, FastComposerSettings)  # noqa: S101 - the registry pairs class and settings
        return settings.merge_step

    def preprocessing(self) -> Mapping[str, Any]:
        return {"vision": {"of": "adapter", "preprocessing": self.pictures.words}}
