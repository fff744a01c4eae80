"""What methods on diffusers pipelines share: loading, precision, offloading, one generator per image, and images as
arrays. Families subclass `DiffusionMethod`, name their pipeline and say how a batch becomes its arguments."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import UsageError
from idtool.generate.method import Image, Made, Method, MethodSettings, Request
from idtool.models import sources, torch_runtime
from idtool.models.diffusion import PACKAGES, automatic, load_pipeline, placed


class DiffusionSettings(MethodSettings):
    """Settings of every diffusion method."""

    steps: int = Field(default=28, ge=1, le=1000)
    """Denoising steps."""
    guidance: float = Field(default=3.5, ge=0)
    """Guidance scale: classifier-free, or the distilled models' own input."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on CUDA, float32 elsewhere."""
    offload: Literal["none", "model", "sequential"] = "none"
    """Parts in main memory until they are needed: less accelerator memory, more time."""


class DiffusionMethod(Method):
    """A method on one diffusers pipeline, loaded from model slot `base`."""

    pipeline: ClassVar[str]
    """Name of the class in diffusers."""
    slots: ClassVar[Mapping[str, str]] = {"base": "the diffusers pipeline"}
    packages: ClassVar[tuple[str, ...]] = PACKAGES
    multiple: ClassVar[int] = 16
    fixed: ClassVar[tuple[str, ...]] = ("dtype", "offload")
    Settings: ClassVar[type[MethodSettings]] = DiffusionSettings

    def load(self, context: Context) -> None:
        settings = self.spec.settings
        assert isinstance(settings, DiffusionSettings)  # noqa: S101 - the registry pairs class and settings
        self.device = torch_runtime.device_of(context.device, context.threads)
        self.precision = settings.dtype if settings.dtype != "auto" else automatic(context.device)
        name = self.pipeline_class()
        self.pipe = load_pipeline(name, self.weights("base"), self.precision, **self.components())
        self.prepare(self.pipe, context)
        self.pipe = placed(self.pipe, self.device, settings.offload)
        self.turn = threading.Lock()
        """One call at a time: workers of one process share the pipeline, its scheduler counts the steps of one, and its
        tokenizers are not for several threads."""

    def weights(self, slot: str) -> sources.Weights:
        """The weights bound to a slot, fetched when they are not here."""
        return sources.bound(self.spec.bindings[slot])

    def pipeline_class(self) -> str:
        """Name of the pipeline's class in diffusers; called before anything is loaded."""
        return self.pipeline

    def components(self) -> dict[str, Any]:
        """Parts of the pipeline that are not the base's own, such as a ControlNet."""
        return {}

    def prepare(self, pipe: Any, context: Context) -> None:
        """Adapters, schedulers and the like, before the pipeline goes to its device."""

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Arguments of the pipeline's call besides prompt, size, steps, guidance and generators."""
        return {}

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        extra = self.arguments(requests)
        with self.turn:
            images = call(self.pipe, requests, extra)
            facts = [prompt_facts(self.pipe, request.prompt, extra.get("max_sequence_length")) for request in requests]
        return [Made(image, fact) for image, fact in zip(images, facts, strict=True)]

    def dtype(self) -> str:
        return self.precision


def generators(requests: Sequence[Request]) -> list[Any]:
    """One generator for each image, seeded by its request; on the CPU, so that every device draws the same noise."""
    torch = torch_runtime.import_torch()
    return [torch.Generator("cpu").manual_seed(request.seed) for request in requests]


def call(pipe: Any, requests: Sequence[Request], extra: Mapping[str, Any]) -> list[Image]:
    """Run a pipeline on a batch; RGB uint8 images. What the pipeline does not take is not passed, save what a request
    asks for by name: a negative prompt that would be ignored is a UsageError."""
    torch = torch_runtime.import_torch()
    settings = requests[0].settings
    takes = set(inspect.signature(type(pipe).__call__).parameters)
    arguments: dict[str, Any] = {
        "prompt": [request.prompt for request in requests],
        "width": requests[0].width,
        "height": requests[0].height,
        "num_inference_steps": getattr(settings, "steps", None),
        "guidance_scale": getattr(settings, "guidance", None),
        "generator": generators(requests),
        "output_type": "np",
    }
    negatives = [request.negative for request in requests]
    if any(negatives):
        if "negative_prompt" not in takes:
            raise UsageError(f"{type(pipe).__name__} takes no negative prompt.", "Leave it out.")
        arguments["negative_prompt"] = [text or "" for text in negatives]
    arguments = {key: value for key, value in arguments.items() if key in takes and value is not None} | dict(extra)
    for name in [name for name, value in arguments.items() if value is LEFT_OUT]:
        del arguments[name]
    with torch.inference_mode():
        out = pipe(**arguments).images
    return [as_uint8(image) for image in out]


LEFT_OUT: Any = object()
"""Value of an argument that a family does not want passed."""


def as_uint8(image: Any) -> Image:
    """Float (H, W, 3) in [0, 1] to uint8. ValueError when it is not finite."""
    array = np.asarray(image)
    if not np.isfinite(array).all():
        raise ValueError("the network gave values that are not finite (NaN): try another dtype")
    return np.asarray(np.clip(array * 255, 0, 255).round(), np.uint8)


def prompt_facts(pipe: Any, prompt: str, limit: int | None = None) -> dict[str, Any]:
    """Tokens of the prompt that each text encoder's limit cuts off: `{"prompt_cut": {"tokenizer": 12}}`; empty when
    nothing is cut. `limit`: of the T5-like second tokenizer, where the call sets one."""
    cut = {}
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipe, name, None)
        if tokenizer is None:
            continue
        most = int(getattr(tokenizer, "model_max_length", 0) or 0)
        if limit is not None and name != "tokenizer":
            most = limit
        count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
        if 0 < most < count and most < 100_000:
            cut[name] = count - most
    return {"prompt_cut": cut} if cut else {}
