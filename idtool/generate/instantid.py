"""InstantID (Wang et al., 2024) on SDXL: a face vector becomes 16 tokens, which the UNet looks at beside the text and
the ControlNet ("IdentityNet") in place of it; the ControlNet's picture shows the face's five points."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate import keypoints
from idtool.generate.diffusion import DiffusionSettings
from idtool.generate.faces_for import SLOT, FaceVectors, face_of
from idtool.generate.method import Image, MethodSettings, Request
from idtool.generate.stable import SDXL, StableMethod
from idtool.models import sources, torch_runtime

FOLDER = "ControlNetModel"
"""Of the ControlNet in the authors' repository."""


class InstantIdSettings(DiffusionSettings):
    """Defaults are the authors'."""

    width: int = Field(default=1024, ge=8, le=8192)
    height: int = Field(default=1024, ge=8, le=8192)
    steps: int = Field(default=30, ge=1, le=1000)
    guidance: float = Field(default=5.0, ge=0)
    scale: float = Field(default=0.8, ge=0)
    """Of what the face's tokens add to the UNet's attention."""
    controlnet_scale: float = Field(default=0.8, ge=0)
    """Of what the ControlNet adds."""
    frame: Literal["request", "reference"] = "request"
    """request: the image has the size that was asked for, the face about its place in the reference; reference: the
    authors' rule, the reference's shape with the longer side 1280, and the face exactly where it is there."""


class InstantId(StableMethod):
    """IdentityNet and the adapter."""

    summary = "InstantID: a face's vector and its five points on SDXL, by a ControlNet and an adapter"
    pipeline = "StableDiffusionXLControlNetPipeline"
    bases: ClassVar[tuple[str, ...]] = (SDXL,)
    slots: ClassVar[Mapping[str, str]] = {
        "base": "SDXL, a diffusers folder",
        "controlnet": "IdentityNet: the folder of InstantX/InstantID, or ControlNetModel in it",
        "adapter": "ip-adapter.bin of InstantX/InstantID (option `file`)",
        "face": f"{SLOT}, InsightFace's antelopev2",
    }
    optional: ClassVar[Mapping[str, str]] = {"vae": "a VAE in place of the base's own, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = InstantIdSettings
    needs_face = True
    vram_gib = 20.0

    def components(self) -> dict[str, Any]:
        from diffusers import ControlNetModel

        from idtool.generate.flux.method import loaded

        weights = self.weights("controlnet")
        inner = weights.path / FOLDER
        if not inner.is_dir():
            inner = weights.path
        if not (inner / "config.json").is_file():
            raise MissingError(
                f"Model {weights.model} ({weights.path}) has no {FOLDER}.",
                "Bind hf:InstantX/InstantID to slot `controlnet`.",
            )
        place = sources.Weights(weights.model, inner, weights.revision, weights.licence)
        return {**super().components(), "controlnet": loaded(ControlNetModel, place, self.precision)}

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate import ip_adapter_files as files

        weights = self.weights("adapter")
        path = torch_runtime.file_of(weights)
        file = files.read(path, f"Model {weights.model} ({path})")
        if file.kind != "resampler" or file.lora:
            raise MissingError(f"{file.what} is an IP-Adapter of another kind.", "Bind InstantID's ip-adapter.bin.")
        files.fits(file, pipe.unet)
        width = pipe.controlnet.config.cross_attention_dim
        if width != file.context:
            raise MissingError(
                f"{file.what} makes tokens {file.context} wide; the ControlNet takes {width}.",
                "Bind files of one release to `controlnet` and `adapter`.",
            )
        self.face = FaceVectors(self.spec.bindings["face"], context)
        self.face.must_give(file.width, file.what)
        self.projection = files.put_on(pipe, file)
        self.faces = files.OwnFaces(pipe.unet)
        self.tokens: Any = None
        pipe.controlnet.register_forward_pre_hook(self._instead_of_text, with_kwargs=True)

    def _instead_of_text(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The ControlNet reads the face's tokens where the pipeline shows it the prompt's."""
        if self.tokens is None:
            raise ValueError("the ControlNet was called before there were tokens of a face")
        return args, {**kwargs, "encoder_hidden_states": self.tokens}

    def alike(self, request: Request) -> Hashable:
        return self.size(request)

    def size(self, request: Request) -> tuple[int, int]:
        """Width and height of the image."""
        if _settings(request).frame == "request":
            return request.width, request.height
        height, width = request.people[0].image.shape[:2]
        return keypoints.authors_size((width, height))

    def control(self, request: Request) -> Image:
        """The ControlNet's picture."""
        person, size = request.people[0], self.size(request)
        face = face_of(person)
        picture = (person.image.shape[1], person.image.shape[0])
        if _settings(request).frame == "request":
            points = keypoints.framed(face.kps, face.box, picture, size)
        else:
            points = keypoints.stretched(face.kps, picture, size)
        return keypoints.drawn(points, size)

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        import torch
        from PIL import Image as Pillow

        settings = _settings(requests[0])
        self.pipe.set_ip_adapter_scale(settings.scale)
        vectors = torch.from_numpy(self.face.raw([request.people[0] for request in requests]))
        # One picture of one vector for each image.
        vectors = vectors[:, None, None].to(self.device, torch_runtime.dtype_of(self.precision))
        parts = [torch.zeros_like(vectors), vectors] if settings.guidance > 1 else [vectors]
        with torch.inference_mode():
            shown = torch.cat(parts)[:, 0].to(held_on(self.projection, self.device))
            self.tokens = self.projection(shown).to(self.device)
        width, height = self.size(requests[0])
        return {
            "image": [Pillow.fromarray(self.control(request)) for request in requests],
            "ip_adapter_image_embeds": self.faces.shown(parts),
            "controlnet_conditioning_scale": settings.controlnet_scale,
            "width": width,
            "height": height,
        }

    def facts(self, request: Request) -> Mapping[str, Any]:
        return {**super().facts(request), "size": list(self.size(request))}

    def preprocessing(self) -> Mapping[str, Any]:
        return {"face": self.face.told("as the network gives it"), "control": "the face's five points, as drawn by us"}


def held_on(module: Any, device: Any) -> Any:
    """Where a part of the UNet is between calls: in main memory where models are offloaded as a whole."""
    place = next(module.parameters()).device
    return device if place.type == "meta" else place


def _settings(request: Request) -> InstantIdSettings:
    assert isinstance(request.settings, InstantIdSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
