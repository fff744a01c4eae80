"""InfiniteYou (Jiang et al., ICCV 2025) on FLUX.1-dev: InfuseNet, a ControlNet whose text is eight identity tokens.

The tokens come from facexlib's IR-SE-50 ArcFace vector through a resampler; the control image is black, as where the
authors are given none. FLUX itself sees the real prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate.flux.method import FluxMethod, FluxSettings, loaded
from idtool.generate.method import MethodSettings, Request
from idtool.models import sources, torch_runtime
from idtool.models.identity import aligned


class InfiniteYouSettings(FluxSettings):
    """Defaults are the authors'."""

    width: int = Field(default=864, ge=8, le=8192)
    height: int = Field(default=1152, ge=8, le=8192)
    steps: int = Field(default=30, ge=1, le=1000)
    variant: Literal["aes_stage2", "sim_stage1"] = "aes_stage2"
    """aes_stage2: follows the prompt better; sim_stage1: more like the reference."""
    conditioning_scale: float = Field(default=1.0, ge=0)
    """Of what InfuseNet adds."""
    start: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps before the first with InfuseNet."""
    end: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps after which there is none."""


class InfiniteYou(FluxMethod):
    """Identity through residuals of a ControlNet."""

    summary = "InfiniteYou: FLUX.1-dev with InfuseNet, a ControlNet that reads identity tokens in place of text"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-dev, a diffusers folder",
        "adapter": "the folder of ByteDance/InfiniteYou",
        "face": "facexlib's recognition_arcface_ir_se50.pth (option `file`, or local:)",
    }
    Settings: ClassVar[type[MethodSettings]] = InfiniteYouSettings
    fixed: ClassVar[tuple[str, ...]] = (*FluxMethod.fixed, "variant")
    needs_face = True
    vram_gib = 43.0

    def prepare(self, pipe: Any, context: Context) -> None:
        from diffusers import FluxControlNetModel

        from idtool.generate.flux.irse import FaceNetwork
        from idtool.generate.flux.perceiver import Resampler

        settings = self.spec.settings
        assert isinstance(settings, InfiniteYouSettings)  # noqa: S101 - the registry pairs class and settings
        weights = self.weights("adapter")
        folder = folder_of(weights.path, settings.variant)
        what = f"Model {weights.model} ({folder})"
        if folder is None:
            raise MissingError(
                f"Model {weights.model} ({weights.path}) has no infu_flux_v1.0/{settings.variant} with InfuseNetModel "
                "and image_proj_model.bin.",
                "Bind hf:ByteDance/InfiniteYou to slot `adapter`.",
            )
        inside = sources.Weights(weights.model, folder, weights.revision, weights.licence)
        controlnet = loaded(FluxControlNetModel, inside, self.precision, subfolder="InfuseNetModel")
        self.controlnet = controlnet.to(self.device)
        state = read_projection(folder / "image_proj_model.bin")
        try:
            resampler = Resampler.like(state)
        except KeyError as error:
            raise MissingError(f"{what} has no image projection: {error} is missing.", "Fetch it again.") from None
        torch_runtime.fill(resampler, state, f"image_proj_model.bin of {what}")
        self.resampler = torch_runtime.ready(resampler, self.device, self.precision)
        self.face = FaceNetwork(self.weights("face"), self.device)

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        import torch

        from idtool.generate.flux.latents import encode_images, pack

        settings = requests[0].settings
        assert isinstance(settings, InfiniteYouSettings)  # noqa: S101 - the registry pairs class and settings
        images = [request.people[0].image for request in requests]
        faces: list[Any] = [request.people[0].face for request in requests]
        vectors = self.face.embed(aligned(images, faces))
        tokens = self.resampler(vectors[:, None].to(self.resampler.latents.dtype))
        black = np.zeros((requests[0].height, requests[0].width, 3), np.uint8)
        control = pack(self.pipe, encode_images(self.pipe, [black])).expand(len(requests), -1, -1)
        guided = self.controlnet.config.guidance_embeds
        guidance = torch.ones(len(requests), device=control.device) if guided else None

        def changes(step: Any) -> Mapping[str, Any]:
            inside = settings.start <= step.number / step.of and (step.number + 1) / step.of <= settings.end
            if step.negative or not inside or settings.conditioning_scale == 0:
                return {}
            doubles, singles = self.controlnet(
                hidden_states=step.latents,
                controlnet_cond=control,
                conditioning_scale=settings.conditioning_scale,
                timestep=step.timestep,
                guidance=guidance,
                pooled_projections=step.text.pooled,
                encoder_hidden_states=tokens,
                txt_ids=step.text.ids.new_zeros(tokens.shape[1], 3),
                img_ids=step.ids,
                return_dict=False,
            )
            return {"controlnet_block_samples": doubles, "controlnet_single_block_samples": singles}

        return changes

    def preprocessing(self) -> Mapping[str, Any]:
        return {
            "face": {
                **self.weights("face").facts(),
                "preprocessing": "5 points, least squares to the ArcFace template of 112 px, BGR, x / 127.5 - 1",
            },
            "control": "black",
        }


def folder_of(path: Path, variant: str) -> Path | None:
    """Where InfuseNet and the projection lie: the repository's folder of the variant, or `path` itself."""
    for folder in (path / "infu_flux_v1.0" / variant, path / variant, path):
        if (folder / "InfuseNetModel").is_dir() and (folder / "image_proj_model.bin").is_file():
            return folder
    return None


def read_projection(path: Path) -> dict[str, Any]:
    """The tensors of `image_proj_model.bin`, under its entry `image_proj`."""
    return torch_runtime.read_tensors(path, inside="image_proj")
