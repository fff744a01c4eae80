"""The LoRA of stage II on a tiny random FLUX: what it learns from, that it learns, that it goes on after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from idtool.curate.refine import Refine, RefineSettings
from idtool.curate.regional import MakeSheets, adapter_path
from idtool.curate.sample_lora import SampleLora, SampleLoraSettings
from idtool.curate.sheet_grids import composed, grids_of
from idtool.engine.operator import OUTCOME, Context
from idtool.engine.step import Env, TableContext
from idtool.engine.table import Table, write_table
from idtool.errors import QualityError
from idtool.media.images import encode
from idtool.media.store import MediaStore
from tests.conftest import REPO
from tests.curate.test_regional import ENV, FLUX, SMALL, made, pixels, settings, subject
from tests.zoo import Zoo

pytest.importorskip("safetensors", reason="needs the extra `generate`")
from safetensors import safe_open
from safetensors.numpy import load_file

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("peft", reason="needs the extra `generate`")
pytest.importorskip("accelerate", reason="needs the extra `generate`")

from idtool.curate import lora_training  # noqa: E402
from idtool.curate.lora_training import Example, Plan  # noqa: E402

PLAN = Plan(
    steps=6,
    rank=4,
    learning_rate=1e-2,
    weight_decay=0.01,
    batch=2,
    guidance=1.0,
    text_length=32,
    timesteps="uniform",
    masked=True,
    clip=1.0,
    seed=3,
)


# --- what is learned from ---------------------------------------------------------------------------------------------


def picture(value: int, height: int = 32, width: int = 32) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def pair(sheet: str, a: int, b: int, **media: str) -> dict[str, Any]:
    cells = {"a_cell": a, "b_cell": b, "a_media": f"{sheet}{a}", "b_media": f"{sheet}{b}", **media}
    return {
        "sheet": sheet,
        "sheet_media": sheet,
        "sheet_rows": 2,
        "sheet_columns": 2,
        "sheet_prompt": f"sheet {sheet}",
        **cells,
    }


def test_accepted_pairs_become_sheets_again() -> None:
    one, two = grids_of([pair("t", 0, 1), pair("s", 0, 3), pair("s", 0, 1, b_media="completed")])
    assert (one.sheet, one.cells, one.complete) == ("s", {0: "s0", 1: "completed", 3: "s3"}, False)
    assert two.cells == {0: "t0", 1: "t1"}
    cells = {0: picture(10), 1: picture(20, 64, 32), 3: picture(30)}
    image, covered = composed(one, picture(99, 64, 64), cells)
    assert image[:32, :32].max() == 10 and (image[32:, :32] == 99).all() and (image[32:, 32:] == 30).all()
    # Twice as high as wide: half as large in the middle of its cell, no token of which it fills.
    assert (image[:32, 32:] == 20).all()
    assert covered.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    with pytest.raises(ValueError, match="no cells of whole tokens"):
        composed(one, picture(0, 60, 64), {})


def test_too_few_sheets_stop_the_run(tmp_path: Path) -> None:
    pairs = [pair("s", 0, 1), pair("s", 0, 2), pair("t", 0, 1)]
    for changes, said in (
        ({"masked": False}, "finds 0 sheets all of whose cells are accepted, of 2"),
        ({"min_cells": 3, "min_sheets": 2}, "finds 1 sheets of which 3 cells are accepted, of 2; it asks for 2"),
    ):
        step = Refine(RefineSettings.model_validate(changes), ENV)
        with pytest.raises(QualityError, match=said):
            list(step.run(stored_pairs(tmp_path, pairs), TableContext(str(tmp_path), step_dir=tmp_path)))


def stored_pairs(folder: Path, pairs: list[dict[str, Any]]) -> Table:
    texts = ("id", "sheet", "sheet_media", "sheet_prompt", "a_media", "b_media")
    numbers = ("sheet_rows", "sheet_columns", "a_cell", "b_cell")
    fields = [*((name, pa.string()) for name in texts), *((name, pa.int32()) for name in numbers)]
    schema = pa.schema([*(pa.field(*one) for one in fields), *OUTCOME])
    rows = [{"id": f"{k}", "status": "kept", **row} for k, row in enumerate(pairs)]
    return write_table(folder / "pairs", iter([pa.Table.from_pylist(rows, schema)]), schema)


# --- training ---------------------------------------------------------------------------------------------------------


def pipeline(zoo: Zoo) -> Any:
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(zoo("flux"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def example(number: int, side: int = 64) -> Example:
    image = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    covered = np.ones((side // 16, side // 16), bool)
    covered[0] = number % 2 == 0
    return Example(image, covered, f"a sheet of a fox {number}")


def trained(zoo: Zoo, folder: Path, plan: Plan = PLAN, count: int = 3, **options: Any) -> tuple[Any, list[float]]:
    from accelerate import Accelerator

    pipe = pipeline(zoo)
    options = {"data": "x", "every": 2, **options}
    losses = lora_training.train(pipe, example, count, plan, folder, accelerator=Accelerator(cpu=True), **options)
    return pipe, losses


def test_the_loss_is_that_of_the_velocity_over_the_mask(zoo: Zoo) -> None:
    pipe = pipeline(zoo)
    one = lora_training.prepared(pipe, example(1), PLAN)
    assert one.mask.shape == (1, 16, 1) and one.mask.sum() == 12
    t, noise = lora_training.draw(PLAN, 0, one.clean)
    seen: dict[str, Any] = {}

    class Net(torch.nn.Module):
        config = pipe.transformer.config

        def forward(self, **given: Any) -> Any:
            seen.update(given)
            return (noise - one.clean + 1 - one.mask,)

    assert lora_training.flow_loss(Net(), one, t, noise, 1.0) < 1e-9  # wrong outside of the mask alone
    assert torch.allclose(seen["hidden_states"], (1 - t) * one.clean + t * noise)
    whole = lora_training.prepared(pipe, example(1), replace(PLAN, masked=False))
    assert lora_training.flow_loss(Net(), whole, t, noise, 1.0) == pytest.approx(4 / 16)
    # The sampler's convention: along this velocity it goes from the noise over the very z_t to the picture.
    state = noise
    for time in lora_training.sampling.schedule(pipe, 4, one.clean.shape[1]):
        at = time / 1000
        assert torch.allclose(state, (1 - at) * one.clean + at * noise, atol=1e-5)
        state = pipe.scheduler.step(noise - one.clean, time, state, return_dict=False)[0]
    assert torch.allclose(state, one.clean, atol=1e-5)


def test_it_learns_one_sheet_and_changes_nothing_but_the_lora_on_attention(zoo: Zoo, tmp_path: Path) -> None:
    before = {name: one.clone() for name, one in pipeline(zoo).transformer.state_dict().items()}
    pipe, losses = trained(zoo, tmp_path, replace(PLAN, steps=40, rank=8), count=1, every=100)

    def loss(network: Any) -> float:
        one = lora_training.prepared(pipe, example(0), PLAN)
        with torch.no_grad():
            draws = [lora_training.draw(PLAN, 1000 + k, one.clean) for k in range(8)]
            return float(np.mean([float(lora_training.flow_loss(network, one, *each, 1.0)) for each in draws]))

    plain = pipeline(zoo).transformer
    assert len(losses) == 40 and loss(pipe.transformer) < 0.9 * loss(plain)
    after = {name.replace(".base_layer", ""): one for name, one in pipe.transformer.state_dict().items()}
    assert all(torch.equal(after[name], one) for name, one in before.items())
    added = sorted(set(after) - set(before))
    assert added and all(".lora_" in name and ".attn." in name for name in added)
    trains = {name for name, one in pipe.transformer.named_parameters() if one.requires_grad}
    assert len(trains) == len(added) == 2 * (2 * 8 + 2 * 3)  # two double blocks of 8 layers, two single ones of 3


def test_a_killed_training_ends_like_an_undisturbed_one(zoo: Zoo, tmp_path: Path) -> None:
    calm, losses = trained(zoo, tmp_path / "calm")
    whole = lora_training.adapter_of(calm.transformer)
    # Killed after step 5: the last checkpoint is of step 4, and the log has a line more.
    trained(zoo, tmp_path / "killed", stop_after=5)
    assert len((tmp_path / "killed" / lora_training.LOG).read_text().splitlines()) == 5
    again, further = trained(zoo, tmp_path / "killed")
    found = lora_training.adapter_of(again.transformer)
    assert further == pytest.approx(losses, rel=1e-6) and set(found) == set(whole)
    assert all(torch.allclose(found[name], one, rtol=1e-6, atol=1e-8) for name, one in whole.items())
    lines = [json.loads(line) for line in (tmp_path / "killed" / lora_training.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # Of other data nothing is taken over.
    _, other = trained(zoo, tmp_path / "killed", replace(PLAN, steps=1), data="y", count=2)
    assert len(other) == 1 and other[0] != pytest.approx(losses[0], rel=1e-6)


def test_kill_9_in_mid_training(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A process that is killed in step 4 of 4, and the same step again: the adapter of a run that was left alone."""
    calm = tmp_path_factory.mktemp("calm")
    shutil.copytree(run_dir, calm, dirs_exist_ok=True)
    code = f"""
import os, signal
from pathlib import Path
from idtool.curate import lora_training
from tests.curate.test_refine import refine
draw = lora_training.draw
def last(plan, number, like):
    return os.kill(os.getpid(), signal.SIGKILL) if number == 3 else draw(plan, number, like)
lora_training.draw = last
refine(Path({str(run_dir)!r}))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-500:]
    training = run_dir / "steps" / "05-refine" / "training"
    assert (training / lora_training.CHECKPOINT).is_file() and not adapter_path(run_dir, "sheets").exists()
    _, again = refine(run_dir)
    _, told = refine(calm)
    assert again["loss_last"] == pytest.approx(told["loss_last"], rel=1e-6)
    one, other = (load_file(adapter_path(folder, "sheets")) for folder in (run_dir, calm))
    assert all(np.allclose(other[name], tensor, rtol=1e-6, atol=1e-8) for name, tensor in one.items())


def test_every_sheet_comes_once_an_epoch() -> None:
    seen = [lora_training.order(PLAN, 5, number) for number in range(15)]
    assert all(sorted(seen[k : k + 5]) == [0, 1, 2, 3, 4] for k in (0, 5, 10))
    assert seen[:5] != seen[5:10] or seen[5:10] != seen[10:]
    assert [lora_training.order(replace(PLAN, seed=4), 5, n) for n in range(15)] != seen


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tiny: Zoo, tmp_path: Path) -> Path:
    """A run with two sheets of a subject in its store and pairs of their cells accepted."""
    tiny("flux")
    store = MediaStore(tmp_path / "media")
    pairs = []
    for name in ("s", "t"):
        image = np.random.default_rng(ord(name)).integers(0, 256, (64, 64, 3), np.uint8)
        media = store.put(encode(image, "png"), ".png")
        corners = [store.put(encode(image[32 * (k // 2) :, 32 * (k % 2) :][:32, :32], "png"), ".png") for k in range(4)]
        for other in (1, 2, 3) if name == "s" else (1,):
            pairs.append(pair(name, 0, other, a_media=corners[0], b_media=corners[other], sheet_media=media))
    stored_pairs(tmp_path, pairs)
    return tmp_path


def refine(folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    asked = {"steps": 4, "rank": 2, "batch": 1, "text_length": 32, "checkpoint_every": 2, "learning_rate": 1e-2}
    step = Refine(RefineSettings.model_validate({**asked, **changes}), ENV)
    assert step.skip_reason() is None
    context = TableContext(str(folder), seed=1, step_dir=folder / "steps" / "05-refine", statistics={})
    rows = [row for batch in step.run(Table(folder / "pairs"), context) for row in batch.to_pylist()]
    assert step.is_in_place(folder)
    return rows, context.statistics


def test_the_step_leaves_an_adapter_that_diffusers_and_the_next_step_take(run_dir: Path, tiny: Zoo) -> None:
    rows, told = refine(run_dir)
    assert len(rows) == 4 and {row["status"] for row in rows} == {"kept"}
    assert (told["sheets"], told["cells"], told["steps"]) == (2, 6, 4)
    path = adapter_path(run_dir, "sheets")
    with safe_open(path, framework="np") as file:
        card = json.loads(file.metadata()["idtool"])
    assert (card["method"], card["base"], card["rank"], card["alpha"]) == ("refine", "tiny/flux", 2, 2)
    state = load_file(path)
    assert all(name.startswith("transformer.") and ".attn." in name for name in state)
    assert any(one.any() for name, one in state.items() if "lora_B" in name)
    pipe = pipeline(tiny)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    [name] = pipe.transformer.peft_config
    assert pipe.transformer.peft_config[name].r == 2

    asked = SampleLoraSettings.model_validate({key: SMALL[key] for key in SMALL if key != "inject_steps"})
    images = {}
    for lora in (None, "sheets"):
        operator = MakeSheets(asked.model_copy(update={"lora": lora}), FLUX, "sample_lora")
        operator.setup(Context(str(run_dir), seed=5))
        [row] = sheets_of(operator)
        assert row["status"] == "kept" and "Row 2, column 2" in row["prompt"]
        images[lora] = (row["id"], pixels(run_dir, row))
    assert images[None][0] != images["sheets"][0]
    # What diffusers and peft make of the adapter is what the step makes of it.
    row_seed = int(images["sheets"][0][:15], 16)
    with torch.inference_mode():
        theirs = pipe(
            row["prompt"],
            width=64,
            height=64,
            num_inference_steps=2,
            guidance_scale=3.5,
            generator=torch.Generator().manual_seed(row_seed),
            max_sequence_length=32,
            output_type="np",
        ).images[0]
    close = np.abs(images["sheets"][1].astype(float) - np.round(theirs * 255))
    assert close.max() <= 1
    # The regional step takes it, too.
    [other] = made(run_dir, settings(lora="sheets"), subject())
    assert other["status"] == "kept" and other["generator"] == "hf:tiny/flux + sheets"


def sheets_of(operator: MakeSheets) -> list[dict[str, Any]]:
    from idtool.curate.subjects import Subjects, SubjectsSettings

    schema = Subjects(SubjectsSettings(), ENV).writes({})
    found: list[dict[str, Any]] = operator(pa.Table.from_pylist([subject()], schema=schema)).to_pylist()
    return found


def test_settings_and_profiles_without_flux() -> None:
    assert "needs role t2i" in str(Refine(RefineSettings(), Env("none", {})).skip_reason())
    assert "needs role t2i" in str(SampleLora(SampleLoraSettings(), Env("none", {})).skip_reason())
    assert RefineSettings().rank == 16 and RefineSettings().steps == 5000 and RefineSettings().learning_rate == 1e-4
    with pytest.raises(ValueError, match="pattern"):
        RefineSettings(adapter="../x")
