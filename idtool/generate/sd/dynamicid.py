"""DynamicID (Hu et al., ICCV 2025): one to three people in an image, each in a box, with expressions and orientations
of their own, on Stable Diffusion 1.5.

Conditions on buffalo_l's recognition network and on CLIP-H of the whole reference. The paper and the released code
differ; setting `profile` says whose rules hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.errors import MissingError
from idtool.generate import diffusion
from idtool.generate.method import Made, MethodSettings, Request
from idtool.generate.sd.method import SdMethod, SdSettings, needs_width
from idtool.models import torch_runtime

EDITING = ("imr", "key_points", "pose", "expression")
"""The slots of editing: all or none of them."""


class DynamicIdSettings(SdSettings):
    """Defaults are the paper's; those that only `profile: code` looks at are the released code's."""

    profile: Literal["paper", "code"] = "paper"
    """paper: each person is added with a weight of their own (equations 1 to 3). code: one weight and one softmax over
    the tokens of all people, weights below `threshold` nought, boxes always in force."""
    id_scale: float = Field(default=1.0, ge=0)
    """Of what people add."""
    lora_scale: float = Field(default=1.0, ge=0)
    """Of the low-rank changes that come with the weights."""
    alpha: float = Field(default=0.24, ge=0, le=1)
    """Share of the steps in which boxes strengthen and weaken (`profile: paper`)."""
    beta: float = Field(default=2.0, ge=0)
    """How much they do (`profile: paper`)."""
    infer_end: int = Field(default=3, ge=0)
    """As `alpha`, in steps (`profile: code`)."""
    infer_scale: float = Field(default=4.0, ge=0)
    """As `beta` (`profile: code`)."""
    threshold: float = Field(default=0.3, ge=0, le=1)
    """Weights below it are nought (`profile: code`)."""
    expressions: list[Literal["happy", "surprise", "sad", "anger", "disgust", "fear", "neutral"]] = Field(default=[])
    """Of the people, in the order of the references; one for all; none: as they are."""
    orientations: list[Literal["front", "side", "up", "down"]] = Field(default=[])
    """As `expressions`."""
    drivers: list[str] = Field(default=[])
    """Paths or uris of pictures whose faces lend their landmarks, and what is not said of expression and orientation.
    The content of the pictures is not part of a request's id."""


class DynamicId(SdMethod):
    """Semantic-activated attention, and the reconfigurator where faces are edited."""

    summary = "DynamicID: one to three people in boxes, with expression and orientation, on Stable Diffusion 1.5"
    scheduler: ClassVar[str | None] = "DDIMScheduler"
    slots: ClassVar[Mapping[str, str]] = {
        **SdMethod.slots,
        "adapter": "SAA.bin (option `file`)",
        "face": "the identity network that it was trained with, InsightFace's buffalo_l",
        "vision": "CLIP-ViT-H-14 (laion2B-s32B-b79K)",
    }
    optional: ClassVar[Mapping[str, str]] = {
        "imr": "IMR_*.bin, for editing (option `file`)",
        "key_points": "key_point_encoder_*.bin, for editing (option `file`)",
        "pose": "angles and 106 points of faces, InsightFace's buffalo_l, for editing",
        "expression": "expressions of faces, ResEmoteNet, for editing",
    }
    roles: ClassVar[tuple[str, ...]] = ("faces",)
    Settings: ClassVar[type[MethodSettings]] = DynamicIdSettings
    multiple: ClassVar[int] = 64
    people: ClassVar[tuple[int, int]] = (1, 3)
    needs_face = True
    takes_boxes = True

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.sd import attention, checkpoint
        from idtool.generate.sd.projection import FaceProjection
        from idtool.generate.sd.vision import ClipTower

        super().prepare(pipe, context)
        path, what = self.file("adapter")
        state = checkpoint.sections(path, ("proj_module", "SAA_module"), what)
        self.projection = self.filled(FaceProjection.like, state["proj_module"], what)
        self.conditions = attention.Conditions()
        processors = attention.install(pipe.unet, self.conditions, attention.rank_of(state["SAA_module"]))
        torch_runtime.fill(processors, state["SAA_module"], f"{what} on {self.spec.bindings['base'].model}")
        torch_runtime.ready(processors, "cpu", self.precision)
        self.face = self.model("face", "identity", context)
        self.tower = ClipTower(self.weights("vision"), self.device, self.precision, context.threads)
        needs_width(what, self.face.dim, self.projection.vector, "face")
        needs_width(what, self.tower.width, self.projection.features, "vision")
        needs_width(what, pipe.unet.config.cross_attention_dim, self.projection.width, "base")
        torch = torch_runtime.import_torch()
        with torch.inference_mode():
            nobody = torch.zeros(1, self.projection.vector, device=self.device, dtype=self.tower.nothing().dtype)
            self.nobody = self.projection(nobody, self.tower.nothing())
        self.editor = self._editor(context)

    def _editor(self, context: Context) -> Any:
        """What edits tokens, or None where no slot of it is bound."""
        bound = [slot for slot in EDITING if slot in self.spec.bindings]
        if not bound:
            return None
        if absent := [slot for slot in EDITING if slot not in bound]:
            raise MissingError(
                f"Method {self.spec.name!r} binds {', '.join(bound)} for editing faces, but not {', '.join(absent)}.",
                "Bind all of them, or none.",
            )
        from idtool.generate.sd.dynamicid_editor import Editor
        from idtool.generate.sd.editing import MotionReader
        from idtool.generate.sd.imr import KeyPointEncoder, Reconfigurator
        from idtool.models import load

        networks = {}
        for slot, like in (("imr", Reconfigurator.like), ("key_points", KeyPointEncoder.like)):
            path, what = self.file(slot)
            networks[slot] = self.filled(like, torch_runtime.read_tensors(path), what)
        reader = MotionReader(self.model("pose", "pose", context), self.model("expression", "expression", context))
        detector = load(self.bound["faces"][0], device=context.device, threads=context.threads)
        return Editor(networks["imr"], networks["key_points"], reader, detector)

    def check(self, request: Request) -> None:
        super().check(request)
        settings, people = _settings(request), len(request.people)
        for name in ("expressions", "orientations", "drivers"):
            given = getattr(settings, name)
            if given and self.editor is None:
                raise Rejected(
                    f"request.{name}", f"{self.spec.name} edits faces only where {', '.join(EDITING)} are bound"
                )
            if len(given) not in (0, 1, people):
                raise Rejected(
                    f"request.{name}",
                    f"{len(given)} {name} for {people} people",
                    value=float(len(given)),
                    threshold=f"0, 1 or {people}",
                )

    def make(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        settings, people = _settings(requests[0]), len(requests[0].people)
        torch = torch_runtime.import_torch()
        with torch.inference_mode():
            tokens = torch.cat([self.tokens(requests, person) for person in range(people)], dim=1)
            if self.is_guided(requests):
                tokens = torch.cat([self.nobody.repeat(len(requests), people, 1), tokens])
        gate = self.gate(requests)
        scales = {"scale": settings.id_scale, "lora_scale": settings.lora_scale}
        with self.conditions.of(tokens, people=people, gate=gate, **scales):
            images = diffusion.call(self.pipe, requests, {"callback_on_step_end": self._count})
        facts = [diffusion.prompt_facts(self.pipe, request.prompt) for request in requests]
        for fact, boxes in zip(facts, gate.boxes, strict=False):  # those of the negative prompts are the same
            fact |= {"boxes": [[round(edge, 4) for edge in box] for box in boxes]} if boxes else {}
        return [Made(image, fact) for image, fact in zip(images, facts, strict=True)]

    def tokens(self, requests: Sequence[Request], person: int) -> Any:
        """Identity tokens (B, T, width) of one person of each request, edited where it asks for it."""
        images = [request.people[person].image for request in requests]
        found = self.projection(self.vectors(requests, person), self.tower.hidden(images))
        settings = _settings(requests[0])
        if self.editor is None or not (settings.expressions or settings.orientations or settings.drivers):
            return found
        people = [request.people[person] for request in requests]
        wanted = [_nth(each, person) for each in (settings.expressions, settings.orientations, settings.drivers)]
        return self.editor(self.pipe, found, people, *wanted)

    def gate(self, requests: Sequence[Request]) -> Any:
        """Boxes and their rules for the rows of the UNet's batch. Several people stand in strips unless told; alone,
        one is placed nowhere in the paper, and on the whole frame in the code."""
        from idtool.generate.sd.gating import Gate, slices

        settings = _settings(requests[0])
        is_code = settings.profile == "code"
        rows: list[Any] = []
        for request in requests:
            boxes: Any = [person.box for person in request.people]
            if None in boxes:
                boxes = slices(len(boxes)) if len(boxes) > 1 or is_code else None
            rows.append(boxes)
        factor = self.pipe.vae_scale_factor
        return Gate(
            boxes=rows * (2 if self.is_guided(requests) else 1),
            grid=(requests[0].height // factor, requests[0].width // factor),
            until=settings.infer_end if is_code else round(settings.alpha * settings.steps),
            strength=settings.infer_scale if is_code else settings.beta,
            threshold=settings.threshold if is_code else 0.0,
            together=is_code,
        )

    def _count(self, _: Any, step: int, __: Any, ___: Any) -> dict[str, Any]:
        """`callback_on_step_end`: the processors learn which step comes next."""
        self.conditions.step = step + 1
        return {}

    def preprocessing(self) -> Mapping[str, Any]:
        told = {"face": {**self.face.fingerprint(), "length": "one"}, "vision": self.tower.facts()}
        if self.editor is not None:
            told |= self.editor.facts()
        return told


def _settings(request: Request) -> DynamicIdSettings:
    assert isinstance(request.settings, DynamicIdSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings


def _nth(given: Sequence[str], person: int) -> str | None:
    """What is said of a person: their own entry, the one for all, or None."""
    return (given[0] if len(given) == 1 else given[person]) if given else None
