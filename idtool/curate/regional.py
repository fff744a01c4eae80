"""The `regional` step: character sheets by regional prompting (Instruct Identity, stage I; Chen et al. 2024).

The canvas is a grid of cells, C = union of disjoint C_r. Every cell has a prompt of its own, the subject's descriptor
with a scene, and the whole has a base prompt: P = (p_base, {(p_r, M_r)}). The masks M_r are those of generation method
`regional`, on FLUX.1. A subject's row is replaced by its sheets, which step `split` cuts into cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from idtool import models
from idtool.curate import made
from idtool.curate.derived import attempt, derived_id, stored
from idtool.curate.made import MADE
from idtool.curate.sheet_layout import SheetSettings, base_of, cell_boxes, cell_prompt, scenes_of, sheet_prompt
from idtool.engine.operator import Context, Operator, Row, map_rows
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.errors import IdtoolError, MissingError
from idtool.evaluate.measures.base import column
from idtool.models.resources import resources

ROLE = "t2i"
SHEET = pa.schema(
    [
        *made.MEDIA,
        column("sheet_rows", pa.int32(), "rows of the grid"),
        column("sheet_columns", pa.int32(), "columns of the grid"),
        column("sheet_scenes", pa.list_(pa.string()), "what the cells were to show, row by row"),
        column("sheet_prompt", pa.string(), "the whole sheet in words: what a LoRA for sheets learns"),
    ]
)
WRITES = pa.schema([*MADE, *SHEET])


class RegionalSettings(SheetSettings):
    inject_steps: int = Field(default=10, ge=0)
    """Steps with regions, from the first on. This and the next two: defaults of the authors' demonstration."""
    base_ratio: float = Field(default=0.3, ge=0, le=1)
    """Share of the base prompt in these steps."""
    double_interval: int = Field(default=1, ge=1)
    """Every so many double blocks have the masks."""
    single_interval: int = Field(default=1, ge=1)


class Regional(RowStep):
    """Rejects sheets, never subjects: `regional.scenes` where a subject has too few for the cells."""

    kind = "regional"
    Settings: ClassVar[type[Settings]] = RegionalSettings
    summary = "make character sheets: one subject, a scene in each cell"
    shard_rows = 1  # A sheet is a minute of work: what is done is committed at once.

    settings: SheetSettings

    def __init__(self, settings: SheetSettings, env: Env) -> None:
        super().__init__(settings, env)

    def skip_reason(self) -> str | None:
        return why_not(self.env)

    def provides_none(self) -> Mapping[str, str]:
        why = self.skip_reason()
        return dict.fromkeys((*SHEET.names, *MADE.names), why) if why else {}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return MakeSheets.reads

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def config(self) -> dict[str, Any]:
        # Where and with how much memory changes no value.
        return {"settings": self.settings.model_dump(mode="json", exclude={"gpus", "offload"})}

    def models(self) -> list[Binding]:
        return list(self.env.all(ROLE)[:1])

    def operators(self) -> list[Operator]:
        make = MakeSheets(self.settings, self.env.require(ROLE), self.kind)
        make.resources = resources(self.env, self.models(), self.settings.gpus)
        return [make]


@dataclass
class MakeSheets(Operator):
    """Replaces each subject by its sheets; other rows pass."""

    settings: SheetSettings
    model: Binding
    origin: str

    reads = ("id", "kind", "descriptor", "scenes", *made.TERMS)
    writes = WRITES

    def config(self) -> dict[str, Any]:
        return {"model": made.facts(self.model)}

    def setup(self, context: Context) -> None:
        from idtool.generate.flux.regional import Regional as Method
        from idtool.generate.flux.regional import RegionalSettings as MethodSettings
        from idtool.generate.method import Spec
        from idtool.media.store import MediaStore
        from idtool.models.weights import file_hash

        self.store, self.seed = MediaStore(Path(context.run_dir) / "media"), context.seed
        self._adapter: str | None = None
        bindings = {"base": self.model}
        if self.settings.lora is not None:
            path = adapter_path(Path(context.run_dir), self.settings.lora)
            if not path.is_file():
                raise MissingError(
                    f"This run has no adapter {self.settings.lora!r}.",
                    f"Put `- step: refine` with `adapter: {self.settings.lora}` before, or leave `lora` out.",
                )
            self._adapter = file_hash(path)
            bindings["adapter"] = Binding("adapter", f"local:{path}", licence=self.model.licence)
        own = self.settings.model_dump(include=set(MethodSettings.model_fields))
        width, height = self.settings.frame()
        settings = MethodSettings.model_validate({"inject_steps": 0, **own, "width": width, "height": height})
        self._method = Method(Spec("regional", "regional", bindings, settings))
        self._method.load(context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The subject's sheets."""
        if row["kind"] != "subject":
            return [{}]
        asked = self.settings.model_dump(mode="json", exclude={"sheets", "gpus", "offload", "lora"})
        told = (made.facts(self.model), self._adapter, asked, self.seed)
        rows = []
        for number in range(self.settings.sheets):
            new = derived_id(row["id"], self.origin, *told, number)
            child = attempt(row, new, self.origin, partial(self._sheet, row, new, number))
            rows.append({**child, "subject_class": row.get("subject_class"), "descriptor": row["descriptor"]})
        return rows

    def _sheet(self, row: Row, new: str, number: int) -> Row:
        from idtool.generate.method import Request, with_changes

        settings, seed = self.settings, made.seed_of(new)
        scenes = scenes_of(row, settings, self.seed, number)
        base = base_of(row["descriptor"], settings)
        whole = sheet_prompt(base, scenes, settings.columns)
        prompt = base if isinstance(settings, RegionalSettings) else whole
        boxes = cell_boxes(settings.rows, settings.columns)
        regions = [
            {"prompt": cell_prompt(row["descriptor"], scene), "box": box}
            for scene, box in zip(scenes, boxes, strict=True)
        ]
        chosen = with_changes(self._method.spec.settings, {"regions": regions})
        width, height = settings.frame()
        request = Request(new, prompt, (), seed, width, height, chosen)
        self._method.check(request)
        # One at a time: what its neighbours in a batch are moves the last bits of a picture.
        found = self._method.generate([request])[0]
        if isinstance(found, Exception):
            raise found
        cut = found.facts.get("prompt_cut")
        return {
            **stored(found.image, self.store, "png"),
            **made.terms(row, "generated", self.model),
            "prompt": prompt,
            "generator": made.named(self.model) + (f" + {settings.lora}" if settings.lora else ""),
            "generator_seed": seed,
            "sheet_rows": settings.rows,
            "sheet_columns": settings.columns,
            "sheet_scenes": scenes,
            "sheet_prompt": whole,
            "message": f"the end of the prompt was cut off: {cut} tokens" if cut else None,
        }


def adapter_path(run_dir: Path, name: str) -> Path:
    """Where step `refine` leaves an adapter of that name."""
    return run_dir / "adapters" / f"{name}.safetensors"


def why_not(env: Env) -> str | None:
    """Why the profile's model of role `t2i` makes no sheets, or None: the masks are written for FLUX.1."""
    if why := models.why_not(env, ROLE):
        return why
    binding = env.require(ROLE)
    kind = _kind(binding)
    return None if kind is None else f"role {ROLE} is bound to {binding.model}, {kind}"


def _kind(binding: Binding) -> str | None:
    """What a model is that is no FLUX.1 for making pictures: by its folder where it is here, else by its name."""
    import json

    from idtool.models import addresses, sources

    try:
        folder = sources.find(addresses.of_binding(binding)[0])
        index = json.loads((folder / "model_index.json").read_text("utf-8")) if folder else None
    except (IdtoolError, OSError, ValueError):
        index = None  # loading will say what is wrong with it
    if index is not None:
        name = str(index.get("_class_name"))
        return None if name == "FluxPipeline" else f"whose pipeline is {name}, not FLUX.1's"
    named = binding.model.lower()
    other = any(word in named for word in ("fill", "kontext", "canny", "depth", "redux"))
    return None if "flux.1" in named and not other else "which by its name is no FLUX.1"
