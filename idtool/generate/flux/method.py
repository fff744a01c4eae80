"""What methods on the FLUX runtime share: the transformer with additions, a batch through the loop, an outcome each."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.errors import MissingError
from idtool.generate import diffusion
from idtool.generate.diffusion import DiffusionMethod, DiffusionSettings
from idtool.generate.method import Made, MethodSettings, Request
from idtool.models import sources, torch_runtime

LORA_SLOT = "the LoRA, one .safetensors file (option `file`)"


class FluxSettings(DiffusionSettings):
    """Settings of every method on FLUX.1."""

    text_length: int = Field(default=512, ge=16, le=512)
    """Tokens of the prompt for T5; what is longer is cut and noted in the image's facts."""
    true_guidance: float = Field(default=1.0, ge=1)
    """Classifier-free guidance with the negative prompt, where above 1: twice the work."""


class FluxMethod(DiffusionMethod):
    """A method on `BranchTransformer`. Families say what changes at a step (`changes`)."""

    pipeline: ClassVar[str] = "FluxPipeline"
    slots: ClassVar[Mapping[str, str]] = {"base": "FLUX.1, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = FluxSettings
    stretch: ClassVar[int] = 1
    """Width of the canvas that is sampled, over that of the image."""
    seen: ClassVar[int] = 1
    """Image tokens that the transformer sees, over those that are sampled."""

    def load(self, context: Context) -> None:
        self.turn = threading.Lock()
        self.look()
        super().load(context)

    def look(self) -> None:
        """Refuse what can be refused before gigabytes are read: cards of checkpoints and the like."""

    def components(self) -> dict[str, Any]:
        return {"transformer": load_transformer(self.weights("base"), self.precision)}

    def check(self, request: Request) -> None:
        super().check(request)
        settings = request.settings
        if request.negative and isinstance(settings, FluxSettings) and settings.true_guidance <= 1:
            raise Rejected(
                "request.negative_prompt",
                f"{self.spec.name} heeds a negative prompt only where setting true_guidance is above 1",
                value=settings.true_guidance,
                threshold="> 1",
            )

    def file(self, slot: str) -> tuple[Path, str]:
        """The one file that a slot is bound to, and its name for errors."""
        weights = self.weights(slot)
        path = torch_runtime.file_of(weights)
        return path, f"Model {weights.model} ({path})"

    def lora(self, state: Mapping[str, Any], pipe: Any, what: str, alpha: float | None = None) -> tuple[Any, ...]:
        """A LoRA on the pipeline's transformer, off until a call switches it on; every key accounted for."""
        from idtool.generate.flux.lora import lora_of

        lora = lora_of(state, pipe.transformer, what, alpha=alpha)
        lora.attach(pipe.transformer)
        return (torch_runtime.ready(lora, self.device, self.precision),)

    def alike(self, request: Request) -> Hashable:
        """Requests that differ in it are sampled apart: the sizes of references that become tokens."""
        return None

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        """Arguments of the transformer that are this method's own, for a `sampling.Step`; called once a batch, under
        inference mode, before the prompts are encoded."""
        return None

    def finished(self, images: Sequence[Any], request: Request) -> Sequence[Any]:
        """Decoded canvases (H, stretch · W, 3) to the images that are given back."""
        return images

    def facts(self, request: Request) -> Mapping[str, Any]:
        """What the record of an image should say besides the prompt's cut."""
        return {}

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        groups: dict[Hashable, list[int]] = {}
        for k, request in enumerate(requests):
            groups.setdefault(self.alike(request), []).append(k)
        made: dict[int, Made | Exception] = {}
        for rows in groups.values():
            made |= zip(rows, self._sampled([requests[k] for k in rows]), strict=True)
        return [made[k] for k in range(len(requests))]

    def job(self, requests: Sequence[Request]) -> Any:
        """The `sampling.Job` of requests that are alike."""
        from idtool.generate.flux.sampling import Job

        first, settings = requests[0], requests[0].settings
        assert isinstance(settings, FluxSettings)  # noqa: S101 - the registry pairs class and settings
        return Job(
            prompts=[request.prompt for request in requests],
            generators=diffusion.generators(requests),
            width=first.width * self.stretch,
            height=first.height,
            steps=settings.steps,
            guidance=settings.guidance,
            text_length=settings.text_length,
            negatives=[request.negative or "" for request in requests] if first.negative is not None else None,
            true_guidance=settings.true_guidance,
            seen=self.seen,
        )

    def _sampled(self, requests: Sequence[Request]) -> list[Made | Exception]:
        from idtool.generate.flux import sampling

        job = self.job(requests)
        # Worker threads share the pipeline, whose scheduler and LoRA masks hold the state of one batch.
        with self.turn, torch_runtime.import_torch().inference_mode():
            latents = sampling.sample(self.pipe, job, self.changes(requests))
            canvases = sampling.decode(self.pipe, latents, job.width, job.height)
            self.pipe.maybe_free_model_hooks()
        images = self.finished(canvases, requests[0])
        return [self._made(*one) for one in zip(images, requests, latents.cpu(), strict=True)]

    def _made(self, image: Any, request: Request, latents: Any) -> Made | Exception:
        limit = getattr(request.settings, "text_length", None)
        try:
            return Made(
                diffusion.as_uint8(image),
                {**diffusion.prompt_facts(self.pipe, request.prompt, limit), **self.facts(request)},
                latents,
            )
        except ValueError as error:
            return error


def load_transformer(weights: sources.Weights, dtype: str) -> Any:
    """The transformer of a FLUX.1 folder as `BranchTransformer`, every weight accounted for.

    MissingError when the folder holds no FLUX.1 that makes images from noise (Fill, for one, takes more channels).
    """
    from idtool.generate.flux.transformer import BranchTransformer

    what = f"Model {weights.model} ({weights.path})"
    config = weights.path / "transformer" / "config.json"
    kind = json.loads(config.read_text("utf-8")).get("_class_name") if config.is_file() else None
    if kind != "FluxTransformer2DModel":
        held = f"its transformer is a {kind}" if kind else "it has no transformer/config.json"
        raise MissingError(f"{what} is no FLUX.1 pipeline: {held}.", "Bind FLUX.1-dev or -schnell to slot `base`.")
    transformer = loaded(BranchTransformer, weights, dtype, subfolder="transformer")
    if transformer.config.in_channels != transformer.out_channels:
        raise MissingError(
            f"{what} takes {transformer.config.in_channels} channels a token and gives {transformer.out_channels}: it "
            "is made for filling or control.",
            "Bind FLUX.1-dev or -schnell to slot `base`.",
        )
    return transformer


def loaded(cls: Any, weights: sources.Weights, dtype: str, *, subfolder: str = "") -> Any:
    """A diffusers model of a folder. MissingError for names that are missing, unexpected or of another shape."""
    what = f"Model {weights.model} ({weights.path / subfolder})"
    with torch_runtime.as_missing(what):
        network, report = cls.from_pretrained(
            weights.path,
            subfolder=subfolder or None,
            dtype=torch_runtime.dtype_of(dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    torch_runtime.checked_report({**report, "error_msgs": [*report["error_msgs"], *report["unexpected_keys"]]}, what)
    return network.eval().requires_grad_(False)
