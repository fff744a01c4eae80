"""The `generate` step: a table of requests in, the same rows with their images out."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.engine.operator import (
    Context,
    Operator,
    Rejected,
    Resources,
    build,
    is_fatal,
    is_out_of_memory,
    outcome_of,
    output_schema,
)
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.errors import MissingError, UsageError
from idtool.generate import record
from idtool.generate.memory import Peak
from idtool.generate.method import Image, Made, Method, Request, with_changes
from idtool.generate.references import FaceRule, References
from idtool.media.store import MediaStore

WRITES = pa.schema(
    [
        pa.field("media", pa.string(), metadata={"doc": "the image, in the run's media store"}),
        pa.field("image_width", pa.int32(), metadata={"doc": "of the image that came out", "unit": "px"}),
        pa.field("image_height", pa.int32(), metadata={"doc": "of the image that came out", "unit": "px"}),
        pa.field("method", pa.string(), metadata={"doc": "name of the method"}),
        pa.field("kind", pa.string(), metadata={"doc": "kind of the method"}),
        pa.field("models", pa.string(), metadata={"doc": "slot, address, revision, licence of each model, JSON"}),
        pa.field("method_settings", pa.string(), metadata={"doc": "settings that the image was made with, JSON"}),
        pa.field("preprocessing", pa.string(), metadata={"doc": "how references were prepared, JSON"}),
        pa.field("facts", pa.string(), metadata={"doc": "what the method says of this image, JSON"}),
        pa.field("dtype", pa.string(), metadata={"doc": "precision of the main network"}),
        pa.field("device", pa.string(), metadata={"doc": "where it ran"}),
        pa.field("seconds", pa.float32(), metadata={"doc": "of the batch, over its images", "unit": "s"}),
        pa.field("batch", pa.int32(), metadata={"doc": "images made in the same call"}),
        pa.field("peak_memory", pa.int64(), metadata={"doc": "highest on the device in the call", "unit": "bytes"}),
        pa.field("nsfw", pa.float32(), metadata={"doc": "probability of unfit content; null: not judged", "unit": "1"}),
        pa.field("latents", pa.string(), metadata={"doc": "what it was decoded from, safetensors; null: not kept"}),
    ]
)


class GenerateSettings(Settings):
    batch: int = Field(default=4, ge=1)
    """Images per call of the method, at most."""
    shard: int = Field(default=8, ge=1)
    """Images per commit: what a killed run loses at most, per worker."""
    several: str = Field(default="refuse", pattern="^(refuse|largest)$")
    """References with more than one face: refuse them, or take the largest."""
    smallest_face: int = Field(default=48, ge=0)
    """Pixels of the shorter side of a reference's face, at least."""
    nsfw_limit: float | None = Field(default=None, ge=0, le=1)
    """Images above it are rejected; null: judged where the profile can, never rejected."""
    keep_latents: bool = False
    """Store the latents that an image was decoded from, for trainers; of methods on the FLUX runtime."""
    gpus: float | None = Field(default=None, ge=0)
    """Accelerators that one worker reserves on Ray; null: 1 on CUDA, else 0."""


class Generate(RowStep):
    """Makes the image of every request with one method."""

    kind = "generate"
    Settings: ClassVar[type[Settings]] = GenerateSettings
    summary = "make an image for every request"

    settings: GenerateSettings

    def __init__(self, settings: GenerateSettings, env: Env, method: Method) -> None:
        super().__init__(settings, env)
        self.method = method
        self.shard_rows = settings.shard  # a slow generator commits more often than a filter

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "prompt", "references", "seed")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def notes(self) -> list[str]:
        if self.env.has("nsfw"):
            return []
        return [f"images are not judged for unfit content: profile {self.env.profile!r} binds no role nsfw"]

    def models(self) -> list[Binding]:
        own = [*self.method.spec.bindings.values(), *(b for bound in self.method.bound.values() for b in bound)]
        every = [*own, *(binding for binding in (self._detector(), self._nsfw()) if binding)]
        return list({(binding.role, binding.model): binding for binding in every}.values())

    def operators(self) -> list[Operator]:
        return [GenerateRows(self.method, self.settings, self._detector(), self._nsfw(), self.env.device)]

    def _detector(self) -> Binding | None:
        if not self.method.needs_face:
            return None
        if not self.env.has("faces"):
            raise MissingError(
                f"Method {self.method.spec.name!r} needs the face of every reference, and profile {self.env.profile!r} "
                "binds no role faces.",
                "Choose another --profile.",
            )
        return self.env.require("faces")

    def _nsfw(self) -> Binding | None:
        return self.env.require("nsfw") if self.env.has("nsfw") else None


class GenerateRows(Operator):
    """Requests to images, in batches that agree in size and settings."""

    version = 1
    reads = ("id", "prompt", "references", "seed")
    writes = WRITES

    def __init__(
        self,
        method: Method,
        settings: GenerateSettings,
        detector: Binding | None,
        nsfw: Binding | None,
        device: str = "cpu",
    ) -> None:
        self.method, self.settings, self.detector, self.nsfw = method, settings, detector, nsfw
        gpus = settings.gpus
        if gpus is None:
            gpus = 1.0 if method.accelerated and device.startswith("cuda") else 0.0
        self.resources = Resources(cpus=1.0, gpus=gpus)

    def config(self) -> dict[str, Any]:
        bound = {"faces": self.detector, "nsfw": self.nsfw}
        return {
            "method": self.method.fingerprint(),
            "faces": [self.settings.several, self.settings.smallest_face],
            "nsfw_limit": self.settings.nsfw_limit,
            **({"keep_latents": True} if self.settings.keep_latents else {}),
            "models": {role: [one.model, one.revision, dict(one.options)] for role, one in bound.items() if one},
        }

    def setup(self, context: Context) -> None:
        from idtool.models import load

        self.device = context.device
        self.store = MediaStore(Path(context.run_dir) / "media")
        rule = FaceRule(self.settings.several, self.settings.smallest_face)
        detector = load(self.detector, device=context.device, threads=context.threads) if self.detector else None
        self.references = References(detector, rule)
        self.judge = load(self.nsfw, device=context.device, threads=context.threads) if self.nsfw else None
        self.turn: Any = contextlib.nullcontext() if self.method.parallel else threading.Lock()
        self.method.load(context)
        self.preparation = json.dumps(dict(self.method.preprocessing()), sort_keys=True, default=str)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        outcomes: list[dict[str, Any]] = [{} for _ in rows]
        ready: list[tuple[int, Request]] = []
        for k, row in enumerate(rows):
            try:
                request = self._request(row)
                self.method.check(request)
            except Exception as error:
                if is_fatal(error) and not isinstance(error, UsageError):
                    raise
                outcomes[k] = outcome_of(Rejected("request", str(error)) if isinstance(error, UsageError) else error)
            else:
                ready.append((k, request))
        for group in _alike(ready, self.settings.batch):
            for (k, _), outcome in zip(group, self._make([request for _, request in group]), strict=True):
                outcomes[k] = outcome
        merged = [{**row, **outcome} for row, outcome in zip(rows, outcomes, strict=True)]
        return build(merged, output_schema(batch.schema, WRITES))

    def _request(self, row: Mapping[str, Any]) -> Request:
        changes = json.loads(row["settings"]) if row.get("settings") else {}
        for name in self.method.fixed:
            if name in changes:
                raise UsageError(f"setting {name!r} is the method's, not the request's.", "Set it in pipelines.yaml.")
        sizes = {side: row[side] for side in ("width", "height") if row.get(side)}
        settings = with_changes(self.method.spec.settings, {**changes, **sizes})
        labels = row.get("people") or [None] * len(row["references"])
        boxes = row.get("boxes") or [None] * len(row["references"])
        people = [
            self.references.person(uri, label, box, face=self.method.needs_face)
            for uri, label, box in zip(row["references"], labels, boxes, strict=True)
        ]
        return Request(
            id=row["id"],
            prompt=row["prompt"] or "",
            people=tuple(people),
            seed=row["seed"],
            width=settings.width,
            height=settings.height,
            settings=settings,
            negative=row.get("negative_prompt") or settings.negative_prompt,
            other=self.references.person(row["other"]) if self.method.needs_other and row.get("other") else None,
        )

    def _make(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """Outcomes of a batch. If the call as a whole fails, its requests are made one by one, so that only the
        faulty one is lost."""
        failed = False
        with self.turn, Peak(self.device) as peak:
            started = time.perf_counter()
            try:
                made: Sequence[Made | Exception] = self.method.generate(requests)
            except Exception as error:
                if is_fatal(error) or is_out_of_memory(error):
                    raise
                made, failed = [error], True
            seconds = (time.perf_counter() - started) / len(requests)
        if failed and len(requests) > 1:
            return [self._make([request])[0] for request in requests]
        outcomes = []
        for request, result in zip(requests, made, strict=True):
            try:
                outcomes.append(self._outcome(request, result, seconds, len(requests), peak.bytes))
            except Exception as error:
                if is_fatal(error) or is_out_of_memory(error):
                    raise
                outcomes.append(outcome_of(error))
        return outcomes

    def _outcome(
        self, request: Request, made: Made | Exception, seconds: float, batch: int, memory: int | None
    ) -> dict[str, Any]:
        if isinstance(made, Exception):
            return outcome_of(made)
        image = checked(made.image)
        height, width = image.shape[:2]
        spec = self.method.spec
        settings = request.settings.model_dump(mode="json")
        told = {
            "request": request.id,
            "prompt": request.prompt,
            "negative_prompt": request.negative,
            "seed": request.seed,
            "method": spec.name,
            "kind": spec.kind,
            "version": self.method.version,
            "models": spec.models(),
            "licence": spec.licence,
            "settings": settings,
            "preprocessing": json.loads(self.preparation),
            "dtype": self.method.dtype(),
            "facts": dict(made.facts),
        }
        nsfw = float(self.judge.score([image])[0].score) if self.judge else None
        limit = self.settings.nsfw_limit
        row: dict[str, Any] = {
            "media": self.store.put(record.png(image, told), ".png"),
            "image_width": width,
            "image_height": height,
            "method": spec.name,
            "kind": spec.kind,
            "models": json.dumps(spec.models(), sort_keys=True),
            "method_settings": json.dumps(settings, sort_keys=True),
            "preprocessing": self.preparation,
            "facts": json.dumps(dict(made.facts), sort_keys=True),
            "dtype": self.method.dtype(),
            "device": self.device,
            "seconds": seconds,
            "batch": batch,
            "peak_memory": memory,
            "nsfw": nsfw,
            "latents": self._latents(made),
        }
        if limit is not None and nsfw is not None and nsfw > limit:
            row |= outcome_of(Rejected("nsfw", "the image looks unfit", value=nsfw, threshold=f"<= {limit:g}"))
        return row

    def _latents(self, made: Made) -> str | None:
        """A reference to the stored latents of an image, where they are wanted and the method has any."""
        if not self.settings.keep_latents or made.latents is None:
            return None
        from safetensors.torch import save

        return self.store.put(save({"latents": made.latents.contiguous()}), ".safetensors")


def checked(image: Image) -> Image:
    """The image. ValueError when it is none, or one colour all over: what networks give on NaN."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"the method gave {image.dtype} {image.shape} in place of an RGB image")
    if int(image.max()) - int(image.min()) < 2:
        raise ValueError("the image is of one colour: the network gave nothing, or values that are not finite")
    return np.ascontiguousarray(image)


def _alike(ready: Sequence[tuple[int, Request]], size: int) -> Iterator[list[tuple[int, Request]]]:
    """Requests that can be made in one call: the same size, settings and number of people, up to `size` of them."""
    groups: dict[str, list[tuple[int, Request]]] = {}
    for k, request in ready:
        key = json.dumps([request.settings.model_dump(mode="json"), len(request.people), request.negative])
        groups.setdefault(key, []).append((k, request))
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]
