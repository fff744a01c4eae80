"""IP-Adapter-FaceID (Ye et al., 2023, and the model card of h94/IP-Adapter-FaceID) on Stable Diffusion 1.5 and XL:
face vectors as tokens that the UNet looks at beside the text.

faceid: 4 tokens of the vector; plus: of the vector and of CLIP's view of the face; plusv2: both added; portrait: 16
tokens of each of five vectors, no LoRA. The first three come with a LoRA on all attention.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding
from idtool.errors import MissingError
from idtool.generate.diffusion import DiffusionSettings
from idtool.generate.faces_for import SLOT, FaceVectors
from idtool.generate.method import MethodSettings, Person, Request, Spec
from idtool.generate.stable import SD, SDXL, StableMethod
from idtool.models import torch_runtime
from idtool.models.sources import Weights

FACES = 5
"""Vectors that the portrait adapter takes."""
FRAMED = 224
"""Pixels of the aligned face that CLIP is shown."""
TOKENS = {"faceid": 4, "plus": 4, "plusv2": 4, "portrait": 16}


class FaceIdSettings(DiffusionSettings):
    """Defaults are those of the authors' code and demonstrations for SD1.5."""

    width: int = Field(default=512, ge=8, le=8192)
    height: int = Field(default=768, ge=8, le=8192)
    steps: int = Field(default=30, ge=1, le=1000)
    guidance: float = Field(default=7.5, ge=0)
    negative_prompt: str | None = "monochrome, lowres, bad anatomy, worst quality, low quality"
    variant: Literal["faceid", "plus", "plusv2", "portrait"] = "faceid"
    """Which of the adapters slot `adapter` holds. Files of plus and plusv2 look alike: it has to be said."""
    scale: float = Field(default=1.0, ge=0)
    """Of what the face adds to the attention."""
    structure: float = Field(default=1.0, ge=0)
    """plusv2: of what CLIP's view adds to the vector's tokens."""
    scheduler: Literal["ddim", "base"] = "ddim"
    """ddim: the authors'; base: the one that comes with the base model."""


class IpAdapterFaceId(StableMethod):
    """FaceID, Plus, PlusV2 and Portrait.

    With several people, each needs a box: its tokens are looked at there alone, and where boxes overlap, those of both
    are added. Portrait takes up to five pictures of one person in place of several people.
    """

    summary = "IP-Adapter-FaceID: a face's vector as tokens of SD1.5 or SDXL"
    bases: ClassVar[tuple[str, ...]] = (SD, SDXL)
    slots: ClassVar[Mapping[str, str]] = {
        "base": "SD1.5 or SDXL, a diffusers folder",
        "adapter": "a FaceID file for that base (option `file`)",
        "face": f"{SLOT}, InsightFace's buffalo_l",
    }
    optional: ClassVar[Mapping[str, str]] = {
        "vision": "CLIP-H, for plus and plusv2",
        "vae": "a better VAE than the base's own, a diffusers folder",
    }
    Settings: ClassVar[type[MethodSettings]] = FaceIdSettings
    fixed: ClassVar[tuple[str, ...]] = (*StableMethod.fixed, "variant", "scheduler")
    people = (1, FACES)
    needs_face = True
    takes_boxes = True
    vram_gib = 12.0

    @classmethod
    def why_not(cls, spec: Spec, roles: Mapping[str, Sequence[Binding]]) -> str | None:
        variant = getattr(spec.settings, "variant", "")
        if variant in ("plus", "plusv2") and "vision" not in spec.bindings:
            return f"variant {variant} needs model slot 'vision' (CLIP-H), which is not bound"
        return super().why_not(spec, roles)

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate import ip_adapter_files as files
        from idtool.generate.flux.lora import lora_of

        settings = _settings(self.spec.settings)
        weights = self.weights("adapter")
        path = torch_runtime.file_of(weights)
        file = files.read(path, f"Model {weights.model} ({path})")
        files.fits(file, pipe.unet)
        self._check_variant(file)
        self.face = FaceVectors(self.spec.bindings["face"], context)
        self.face.must_give(file.width, file.what)
        # Before the projection is there, which has attention of its own.
        layers = files.lora_layers(file, pipe.unet) if file.lora else {}
        self.projection = files.put_on(pipe, file)
        self.faces = files.OwnFaces(pipe.unet)
        if layers:
            lora = lora_of(layers, pipe.unet, file.what)
            lora.attach(pipe.unet)
            lora.mask = 1.0
            self.lora = torch_runtime.ready(lora, self.device, self.precision)
        self.tower = None
        if file.kind == "plus":
            self.tower = tower(self.weights("vision"), self.device, self.precision, self.projection, file.what)
            self.projection.shortcut = settings.variant == "plusv2"
        if settings.scheduler == "ddim":
            pipe.scheduler = ddim()

    def _check_variant(self, file: Any) -> None:
        variant = _settings(self.spec.settings).variant
        kind = "plus" if variant in ("plus", "plusv2") else "mlp"
        if file.kind != kind or file.tokens != TOKENS[variant]:
            found = f"makes {file.tokens} tokens of a face and is of kind {file.kind!r}"
            raise MissingError(f"{file.what} {found}: it is not variant {variant!r}.", "Correct setting `variant`.")

    def check(self, request: Request) -> None:
        super().check(request)
        count = len(request.people)
        if _settings(request.settings).variant == "portrait":
            if len({person.label for person in request.people if person.label}) > 1:
                raise Rejected("request.people", "the portrait adapter takes pictures of one person alone")
            if any(person.box for person in request.people):
                raise Rejected("request.boxes", "the portrait adapter takes no boxes")
        elif count > 1 and any(person.box is None for person in request.people):
            raise Rejected("request.boxes", "for several people, say where each is to stand (boxes)")

    def alike(self, request: Request) -> Hashable:
        # Masks are shared by a whole call.
        return tuple(person.box for person in request.people) if self._apart(request) else None

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        import torch

        settings = _settings(requests[0].settings)
        self.pipe.set_ip_adapter_scale(settings.scale)
        people = [self._shown(request) for request in requests]
        flat = [person for row in people for person in row]
        vectors = torch.from_numpy(self.face.unit(flat)).unflatten(0, (len(requests), -1))
        parts = self._guided(torch.zeros_like(vectors), vectors, settings)
        if self.tower is not None:
            with torch.inference_mode():
                faces = self.tower.hidden(self.face.crops(flat, FRAMED)).unflatten(0, (len(requests), -1))
                nobody = self.tower.nothing().expand_as(faces)
            self.projection.clip_embeds = torch.cat(self._guided(nobody, faces, settings))
            self.projection.shortcut_scale = settings.structure
        found: dict[str, Any] = {"ip_adapter_image_embeds": self.faces.shown(parts)}
        if self._apart(requests[0]):
            found["cross_attention_kwargs"] = {"ip_adapter_masks": [self._masks(requests[0]).to(parts[0])]}
        return found

    def facts(self, request: Request) -> Mapping[str, Any]:
        found = dict(super().facts(request))
        if _settings(request.settings).variant == "portrait":
            found["faces"] = {"pictures": len(request.people), "vectors": len(self._shown(request))}
        return found

    def preprocessing(self) -> Mapping[str, Any]:
        told: dict[str, Any] = {"face": self.face.told("divided by its length")}
        if _settings(self.spec.settings).variant == "portrait":
            told["portrait"] = f"{FACES} vectors; fewer pictures are taken again in turn"
        if self.tower is not None:
            told["vision"] = {"face": f"5 points to the ArcFace template of {FRAMED} px", **self.tower.facts()}
        return told

    def _apart(self, request: Request) -> bool:
        """Whether the people of a request keep to their boxes."""
        portrait = _settings(request.settings).variant == "portrait"
        return not portrait and any(person.box for person in request.people)

    def _shown(self, request: Request) -> list[Person]:
        """The people whose vectors are shown, in order."""
        people = list(request.people)
        if _settings(request.settings).variant != "portrait":
            return people
        return [people[k % len(people)] for k in range(FACES)]

    def _guided(self, nobody: Any, somebody: Any, settings: FaceIdSettings) -> list[Any]:
        """What is shown to the negative prompts, where there is guidance, and to the prompts."""
        dtype = torch_runtime.dtype_of(self.precision)
        return [part.to(self.device, dtype) for part in ([nobody, somebody] if settings.guidance > 1 else [somebody])]

    def _masks(self, request: Request) -> Any:
        """(1, people, H, W): 1 in each one's box."""
        import torch

        masks = torch.zeros(1, len(request.people), request.height, request.width)
        for k, person in enumerate(request.people):
            left, top, right, bottom = person.box or (0.0, 0.0, 1.0, 1.0)
            rows = slice(round(top * request.height), round(bottom * request.height))
            masks[0, k, rows, round(left * request.width) : round(right * request.width)] = 1
        return masks


def tower(weights: Weights, device: Any, dtype: str, projection: Any, what: str) -> Any:
    """CLIP's vision tower. MissingError when it is not as wide as the adapter `what` takes."""
    from idtool.generate.sd.vision import ClipTower

    found = ClipTower(weights, device, dtype)
    if found.width != projection.proj_in.in_features:
        raise MissingError(
            f"{weights.model} is {found.width} wide; {what} takes {projection.proj_in.in_features}.",
            "Bind hf:laion/CLIP-ViT-H-14-laion2B-s32B-b79K to slot `vision`.",
        )
    return found


def ddim() -> Any:
    """The scheduler of the authors' demonstrations."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _settings(settings: Any) -> FaceIdSettings:
    assert isinstance(settings, FaceIdSettings)  # noqa: S101 - the registry pairs class and settings
    return settings
