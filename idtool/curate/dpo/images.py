"""The `generate` step: every request of the table becomes an image, made by a method of pipelines.yaml. Other rows
pass. It is `idtool generate` inside a recipe: the same operator, the same outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from idtool.curate.derived import derived_id
from idtool.curate.dpo.columns import GENERATED, REQUEST
from idtool.curate.made import MADE, MEDIA, named
from idtool.engine.operator import OUTCOME, Context, Operator, output_schema
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.evaluate.measures.base import column
from idtool.generate import methods
from idtool.generate.method import Method
from idtool.generate.rows import Generate, GenerateRows, GenerateSettings
from idtool.media.store import MediaStore

OWN = pa.schema(
    [
        column("method", pa.string(), "name of the method in pipelines.yaml"),
        column("method_settings", pa.string(), "settings that the image was made with, JSON"),
        column("facts", pa.string(), "what the method says of this image, JSON"),
        column("latents", pa.string(), "the packed latents before decoding, as safetensors; null: not kept"),
        column("seconds", pa.float32(), "of the batch, over its images", "s"),
        column("peak_memory", pa.int64(), "highest on the device in the call", "bytes"),
        column("nsfw", pa.float32(), "probability of unfit content; null: not judged", "[0, 1]"),
    ]
)
WRITES = pa.schema([*MADE, *MEDIA, *OWN])
ASKS = ("id", "prompt", "references", "people", "boxes")
"""Columns of a request that methods take; sizes and negative prompts are the method's own."""


class GenerateImagesSettings(GenerateSettings):
    method: str = Field(min_length=1)
    """Its name under `methods` of pipelines.yaml."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Changes to the method's settings."""


class GenerateImages(RowStep):
    """Rejects as the method does, and `nsfw` above `nsfw_limit`."""

    kind = "generate"
    Settings: ClassVar[type[Settings]] = GenerateImagesSettings
    summary = "make an image for every request"

    settings: GenerateImagesSettings

    def __init__(self, settings: GenerateImagesSettings, env: Env) -> None:
        super().__init__(settings, env)
        self.shard_rows = settings.shard

    @cached_property
    def method(self) -> Method:
        """UsageError for a method that pipelines.yaml does not have, or a setting that it does not know."""
        cls, spec = methods.resolve_in(self.env.methods, self.settings.method, self.settings.settings)
        return cls(spec, self.env.bindings)

    @cached_property
    def _inner(self) -> Generate:
        own = set(GenerateSettings.model_fields)
        plain = GenerateSettings.model_validate(self.settings.model_dump(include=own))
        return Generate(plain, self.env, self.method)

    def skip_reason(self) -> str | None:
        return self._why_not

    @cached_property
    def _why_not(self) -> str | None:
        """Looks at files, so once."""
        state, why = methods.state_of(type(self.method), self.method.spec, self.env.bindings)
        return f"method {self.settings.method!r} cannot run here: {why}" if state == "cannot" else None

    def provides_none(self) -> Mapping[str, str]:
        why = self.skip_reason()
        return dict.fromkeys(OWN.names, why) if why else {}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return (*ASKS, "kind", "generator_seed", "source", "licence")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def notes(self) -> list[str]:
        return self._inner.notes()

    def config(self) -> dict[str, Any]:
        return {}  # the operator says what pixels depend on

    def models(self) -> list[Binding]:
        own = self.method.spec.bindings
        return [binding for binding in self._inner.models() if binding.role not in own]

    def unwrapped(self) -> list[Binding]:
        return list(self.method.spec.bindings.values())

    def operators(self) -> list[Operator]:
        (make,) = self._inner.operators()
        assert isinstance(make, GenerateRows)  # noqa: S101 - what Generate is made of
        return [MakeImages(make, _maker(self.method))]


class MakeImages(Operator):
    """Replaces each request by its image; the image's id tells request and method, so that it is known beforehand."""

    reads = (*ASKS, "kind", "generator_seed", "source", "licence")
    writes = WRITES

    def __init__(self, make: GenerateRows, maker: str) -> None:
        self.make, self.maker, self.resources = make, maker, make.resources

    def config(self) -> dict[str, Any]:
        return self.make.config()

    def setup(self, context: Context) -> None:
        self.store = MediaStore(Path(context.run_dir) / "media")
        self.make.setup(context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        schema = output_schema(batch.schema, WRITES)
        rows = batch.to_pylist()
        asked = [row for row in rows if row["kind"] == REQUEST]
        made = iter(self._made(asked, batch.schema)) if asked else iter(())
        told = [next(made) if row["kind"] == REQUEST else {**row, "status": "kept"} for row in rows]
        return pa.Table.from_pylist(told, schema=schema)

    def _made(self, asked: list[dict[str, Any]], schema: pa.Schema) -> list[dict[str, Any]]:
        requests = pa.Table.from_pylist(
            [{**{name: row[name] for name in ASKS}, "seed": row["generator_seed"]} for row in asked],
            schema=pa.schema([*(schema.field(name) for name in ASKS), pa.field("seed", pa.int64())]),
        )
        return [self._image(row, one) for row, one in zip(asked, self.make(requests).to_pylist(), strict=True)]

    def _image(self, row: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
        method = self.make.method
        told = {name: one[name] for name in (*OWN.names, *OUTCOME.names) if name in one}
        name = f"{method.spec.name}: {self.maker}" if self.maker else method.spec.name
        licence = method.spec.licence or "; ".join(dict.fromkeys(b.licence for b in method.spec.bindings.values()))
        own = {
            "id": derived_id(row["id"], GENERATED, method.fingerprint()),
            "kind": "image",
            "origin": GENERATED,
            "parent": row["parent"],
            "generator": name,
            "source": f"{row['source']} (generated by {method.spec.name})",
            "licence": f"{row['licence']}; {method.spec.name}: {licence}" if licence else row["licence"],
            "method": method.spec.name,
        }
        if one["media"] is not None:
            width, height = one["image_width"], one["image_height"]
            size = {"width": width, "height": height, "short_side": min(width, height)}
            length = self.store.path(one["media"]).stat().st_size
            own |= {"media": one["media"], "format": "png", "bytes": length, **size}
        return {**row, **told, **own}


def _maker(method: Method) -> str:
    """The models of a method, for the column `generator`."""
    return " + ".join(named(binding) for binding in method.spec.bindings.values())
