"""The steps that a recipe can name, by name; plug-ins add theirs through the entry-point group `idtool.steps`."""

from __future__ import annotations

from idtool.engine.step import Step
from idtool.registry import Registry

STEPS: Registry[type[Step]] = Registry(
    "step",
    {
        "ingest": "idtool.curate.ingest:Ingest",
        "subjects": "idtool.curate.subjects:Subjects",
        "regional": "idtool.curate.regional:Regional",
        "split": "idtool.curate.sheets:Split",
        "animate": "idtool.curate.animate:Animate",
        "inpaint": "idtool.curate.inpaint:Inpaint",
        "outpaint": "idtool.curate.outpaint:Outpaint",
        "frames": "idtool.curate.frames:Frames",
        "reenact": "idtool.curate.reenact:Reenact",
        "crop": "idtool.curate.crop:Crop",
        "perturb": "idtool.curate.perturb:Perturb",
        "balance": "idtool.curate.balance:Balance",
        "measure": "idtool.evaluate.measure:MeasureStep",
        "gate": "idtool.curate.gate:Gate",
        "dedup": "idtool.curate.dedup:Dedup",
        "identify": "idtool.curate.identify:Identify",
        "repair": "idtool.curate.repair:Repair",
        "swap": "idtool.curate.swap:Swap",
        "pair": "idtool.curate.pair:Pair",
        "pair_cells": "idtool.curate.sheets:PairCells",
        "charis": "idtool.curate.charis:CharisStep",
        "charis_gate": "idtool.curate.charis_gate:CharisGate",
        "refine": "idtool.curate.refine:Refine",
        "sample_lora": "idtool.curate.sample_lora:SampleLora",
        "caption": "idtool.curate.caption:Caption",
        "regions": "idtool.curate.regions:Regions",
        "describe": "idtool.curate.describe:Describe",
        "scene_prompt": "idtool.curate.scene_prompt:ScenePrompt",
        "requests": "idtool.curate.dpo.requests:Requests",
        "generate": "idtool.curate.dpo.images:GenerateImages",
        "score": "idtool.curate.dpo.score:Score",
        "prefer": "idtool.curate.dpo.prefer:Prefer",
        "export": "idtool.curate.export:Export",
        "records": "idtool.curate.export:Records",
    },
    group="idtool.steps",
)
