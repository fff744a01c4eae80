"""The `refine` step: a LoRA that teaches FLUX.1 to make character sheets, from the sheets whose cells were accepted
(Instruct Identity, stage II: "LoRA tuning to a minimal subset of attention layers", r = 16, 5,000 steps, AdamW 1e-4).

Its table is its input; what it makes is `RUN/adapters/<adapter>.safetensors`, with a card, which steps `regional` and
`sample_lora` take (`lora: <adapter>`) and diffusers loads. A run that is killed goes on from the last checkpoint.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate import made
from idtool.curate.derived import pixels_of
from idtool.curate.regional import ROLE, adapter_path, why_not
from idtool.curate.sheet_grids import Grid, composed, grids_of
from idtool.engine.fingerprint import fingerprint
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import QualityError
from idtool.media.limits import PILLOW_MAX_PIXELS

PACKAGES = ("peft", "accelerate")
PAPER = "Instruct Identity, stage II"
SHEET = ("sheet", "sheet_media", "sheet_rows", "sheet_columns", "sheet_prompt")
SIDES = ("a_cell", "b_cell", "a_media", "b_media")


class RefineSettings(Settings):
    adapter: str = Field(default="sheets", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """What the LoRA is called in this run."""
    rank: int = Field(default=16, ge=1)
    """Paper: 16. Its scale is 1 (alpha = rank)."""
    steps: int = Field(default=5000, ge=1)
    """Paper: 5,000."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Paper: AdamW, 1e-4."""
    weight_decay: float = Field(default=0.01, ge=0)
    """PyTorch's; the paper does not say."""
    batch: int = Field(default=8, ge=1)
    """Sheets a step, one after the other: the paper has eight GPUs and does not say how many each takes."""
    guidance: float = Field(default=1.0, ge=0)
    """What FLUX.1-dev is told in training; ours, as OminiControl does."""
    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    """Paper, equation 2: uniform."""
    masked: bool = True
    """Whether only accepted cells count in the loss; else only sheets all of whose cells are accepted are learned."""
    min_cells: int = Field(default=2, ge=1)
    """Accepted cells of a sheet, at least."""
    min_sheets: int = Field(default=1, ge=1)
    """Fewer are no training set: the run stops. Paper: 10,000."""
    text_length: int = Field(default=512, ge=16, le=512)
    clip: float = Field(default=1.0, gt=0)
    """Greatest norm of the gradient; ours."""
    checkpoint_every: int = Field(default=250, ge=1)
    gradient_checkpointing: bool = True
    """Less memory, more time; changes no value."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of FLUX; the LoRA is float32. auto: bfloat16 on CUDA, float32 elsewhere. The paper has fp16, which FLUX
    overflows."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)


class Refine(TableStep):
    """Runs in the driver, on one device."""

    kind = "refine"
    Settings: ClassVar[type[Settings]] = RefineSettings
    summary = "teach FLUX.1 to make character sheets, by a LoRA on accepted ones"
    reuses_rows = False

    settings: RefineSettings

    def __init__(self, settings: RefineSettings, env: Env) -> None:
        super().__init__(settings, env)

    def skip_reason(self) -> str | None:
        absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        needs = f"needs packages that are not installed: {', '.join(absent)}" if absent else None
        return why_not(self.env) or needs

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return (*SHEET, *SIDES)

    def config(self) -> dict[str, Any]:
        how = {"checkpoint_every", "gradient_checkpointing", "max_pixels"}
        return {
            "settings": self.settings.model_dump(mode="json", exclude=how),
            "model": made.facts(self.env.require(ROLE)),
        }

    def models(self) -> list[Binding]:
        return list(self.env.all(ROLE)[:1])

    def is_in_place(self, run_dir: Path) -> bool:
        return adapter_path(run_dir, self.settings.adapter).is_file()

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        pairs = (row for batch in table.batches([*SHEET, *SIDES], kept_only=True) for row in batch.to_pylist())
        grids = self._chosen(grids_of(pairs))
        context.statistics.update(self._train(grids, context))
        yield from _as_they_are(table)

    def _chosen(self, found: list[Grid]) -> list[Grid]:
        settings = self.settings
        grids = [one for one in found if len(one.cells) >= settings.min_cells and (settings.masked or one.complete)]
        if len(grids) < settings.min_sheets:
            what = "all of whose cells are" if not settings.masked else f"of which {settings.min_cells} cells are"
            raise QualityError(
                f"Step 'refine' finds {len(grids)} sheets {what} accepted, of {len(found)}; it asks for "
                f"{settings.min_sheets}.",
                "Make more sheets, loosen the gates before it, or set refine.min_sheets.",
            )
        return grids

    def _train(self, grids: list[Grid], context: TableContext) -> dict[str, Any]:
        from accelerate import Accelerator

        from idtool.curate import lora_training
        from idtool.generate.flux.checkpoint import Card, write
        from idtool.models import sources, torch_runtime
        from idtool.models.diffusion import automatic, load_pipeline
        from idtool.models.weights import file_hash

        settings, binding = self.settings, self.env.require(ROLE)
        dtype = automatic(context.device) if settings.dtype == "auto" else settings.dtype
        device = torch_runtime.device_of(context.device, context.threads)
        precision = "bf16" if dtype == "bfloat16" else "no"
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
        pipe = load_pipeline("FluxPipeline", sources.bound(binding), dtype).to(device)
        for part in (pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
            part.requires_grad_(False)
        if settings.gradient_checkpointing:
            pipe.transformer.enable_gradient_checkpointing()
        store = Path(context.run_dir) / "media"

        def example(number: int) -> lora_training.Example:
            grid = grids[number]
            cells = {place: pixels_of(media, store, settings.max_pixels) for place, media in grid.cells.items()}
            image, covered = composed(grid, pixels_of(grid.media, store, settings.max_pixels), cells)
            return lora_training.Example(image, covered, grid.prompt)

        plan = self.plan(context.seed)
        told = [[one.sheet, one.media, sorted(one.cells.items())] for one in grids]
        losses = lora_training.train(
            pipe,
            example,
            len(grids),
            plan,
            context.step_dir / "training",
            data=fingerprint(told, made.facts(binding), dtype),
            accelerator=accelerator,
            every=settings.checkpoint_every,
        )
        path = adapter_path(Path(context.run_dir), settings.adapter)
        path.parent.mkdir(exist_ok=True)
        card = Card(
            method="refine",
            base=binding.model.partition(":")[2],
            rank=settings.rank,
            alpha=settings.rank,
            revision=binding.revision,
            paper=PAPER,
        )
        temporary = path.with_name(f".{path.name}")
        write(temporary, lora_training.adapter_of(pipe.transformer), card)
        temporary.replace(path)
        tenth = max(1, len(losses) // 10)
        return {
            "sheets": len(grids),
            "cells": sum(len(one.cells) for one in grids),
            "steps": len(losses),
            "loss_first": float(np.mean(losses[:tenth])),
            "loss_last": float(np.mean(losses[-tenth:])),
            "adapter": f"adapters/{path.name}",
            "sha256": file_hash(path),
        }

    def plan(self, seed: int) -> Any:
        """How the LoRA is trained, as `lora_training` takes it."""
        from idtool.curate.lora_training import Plan

        return Plan(**self.settings.model_dump(include=set(Plan.__dataclass_fields__)), seed=seed)


def _as_they_are(table: Table) -> Iterator[pa.Table]:
    """The rows, kept."""
    for batch in table.batches(kept_only=True):
        for field in OUTCOME:
            held = pa.repeat(KEPT, batch.num_rows) if field.name == "status" else pa.nulls(batch.num_rows, field.type)
            batch = batch.append_column(field, held)
        yield batch
