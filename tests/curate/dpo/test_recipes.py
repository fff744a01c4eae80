"""The recipes dpo-dmid and dpo-idglow on the tiny profile, through the command line, to their data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from idtool.run import Run
from tests.acceptance.runs import answer
from tests.generate.flux_runs import MODELS, SMALL
from tests.generate.idglow_runs import adapter
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person
from tests.zoo.profile import tiny_pipelines

LOOSE = (
    "gate.2.clarity.sharpness.min=null",
    "gate.3.face.face_score.min=0.3",
    "scene_prompt.min_words=1",
    "scene_prompt.max_tokens=6",
    "dedup.perceptual=null",
)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three drawn people, two pictures each, in folders of their own."""
    folder = tmp_path / "in"
    for person in range(3):
        for shot in range(2):
            path = folder / f"p{person}" / f"{shot}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn_person(person, shot, centre=(320, 240), radius=90)).save(path)
    return folder


def configured(
    folder: Path, zoo: Zoo, roles: tuple[str, ...], method: str, models: dict[str, Any], size: dict[str, Any]
) -> Path:
    """The tiny profile, a network per role, with a method of the packaged file on tiny checkpoints."""
    path = tiny_pipelines(folder, zoo, *roles)
    names = (one["model"].removeprefix("hf:tiny/") for one in models.values())
    zoo(*names)
    content = yaml.safe_load(path.read_text("utf-8"))
    content["methods"][method] = {"kind": method, "models": models, "settings": size}
    bound = content["profiles"]["tiny"]["roles"]
    bound |= {role: networks[:1] for role, networks in bound.items()}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def curate(recipe: str, config: Path, output: Path, inputs: Path, *sets: str) -> dict[str, Any]:
    options = [part for value in (*LOOSE, *sets) for part in ("--set", value)]
    command = ["curate", "--recipe", recipe, "--profile", "tiny", "--config", config, "--output", output]
    found: dict[str, Any] = answer(*command, "--input", inputs, "--engine", "local", *options)
    return found


def test_dpo_dmid_takes_the_best_against_the_worst_of_its_own_images(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    config = configured(tmp_path, tiny, ("faces", "identity", "clip"), "dmid", MODELS["dmid"], SMALL)
    sets = (
        "requests.count=1",
        "requests.seeds=3",
        "scene_prompt.by=fixed",
        "scene_prompt.text=a person in a garden",
        "prefer.settings.floor=null",
        "prefer.settings.gap_quantile=0",
    )
    told = curate("dpo-dmid", config, tmp_path / "run", people, *sets)
    run = Run(tmp_path / "run")
    steps = {step["name"]: step for step in told["steps"]}
    assert (steps["requests"]["kept"], steps["generate"]["kept"]) == (3, 3)
    made = run.step_table("generate").read().to_pylist()
    assert {row["method"] for row in made} == {"dmid"} and len({row["media"] for row in made}) == 3
    assert {(row["width"], row["height"]) for row in made} == {(64, 64)}
    latents = load_file(run.store_root / made[0]["latents"].removeprefix("store:"))["latents"]
    assert latents.shape == (16, 64)  # 4 x 4 tokens of 2 x 2 latent pixels
    scored = run.step_table("score").read(["scores"])["scores"].to_pylist()
    assert all({one["metric"].split("/")[0] for one in scores} == {"facesim", "clip_t"} for scores in scored)
    assert (run.path / "scores" / "report.html").is_file()
    # Random weights draw no face: there is no likeness to tell the images apart by, and every group says so.
    lost = pq.read_table(run.path / "rejects" / f"{steps['prefer']['index']:02d}-prefer.parquet").to_pylist()
    kept = steps["prefer"]["kept"]
    assert kept + len(lost) == 1 and {row["reason"] for row in lost} <= {"too_few"}


def test_dpo_idglow_prefers_photos_to_worse_copies(
    tiny: Zoo, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)
    halves = [drawn_person(person, 7, centre=(150, 240), radius=80, size=(320, 480)) for person in (0, 1)]
    (people / "groups").mkdir()
    Image.fromarray(np.concatenate(halves, axis=1)).save(people / "groups" / "both.png")
    models = {
        "base": {"model": "hf:tiny/qwen-edit-plus", "licence": "random weights"},
        "adapter": adapter("idglow.safetensors"),
    }
    config = configured(
        tmp_path, tiny, ("faces", "identity"), "idglow", models, {"width": 64, "height": 64, "steps": 2}
    )
    sets = (
        "scene_prompt.by=template",
        "requests.seeds=1",
        "requests.threshold=0.2",
        "perturb.copies=3",
        "score.metrics=[facesim]",
        "prefer.settings={use: [id], tau: {id: 0.001}, photo_floor: null, floor: null, most: null}",
    )
    told = curate("dpo-idglow", config, tmp_path / "run", people, *sets)
    run = Run(tmp_path / "run")
    steps = {step["name"]: step for step in told["steps"]}
    asked = run.step_table("requests").read().to_pylist()
    assert {row["origin"] for row in asked} == {"photo", "request"}
    assert all(row["people"] == ["p0", "p1"] for row in asked)
    assert "The person of Picture 1: on the left" in asked[0]["prompt"]
    # The photo, one generation, three worse copies of each.
    assert (steps["perturb"]["kept"], steps["score"]["kept"]) == (8, 8)
    pairs = pq.read_table(run.path / "preferences" / "preferences.parquet").to_pylist()
    assert pairs and {row["source"] for row in pairs} <= {"photo/perturbed", "photo/generated"}
    for row in pairs:
        assert row["chosen"].endswith("both.png") and len(row["references"]) == 2
    assert "preference pair" in (run.path / "report.html").read_text("utf-8")
    _reviewed_and_exported(run, tmp_path)


def _reviewed_and_exported(run: Run, folder: Path) -> None:
    """Both commands take the run of the recipe itself."""
    page = answer("review", run.path)["first"]
    decisions = {
        "format": 1,
        "kind": "idtool-review",
        "run": Run(run.path / "preferences").manifest["pairs_hash"],
        "decisions": {
            row["id"]: "chosen"
            for row in run.step_table("prefer").read(["id", "status"]).to_pylist()
            if row["status"] == "kept"
        },
    }
    assert Path(page).is_file()
    (folder / "eva.json").write_text(json.dumps(decisions))
    kept = answer("review", run.path, "--decisions", folder / "eva.json")["kept"]
    told = answer("export", run.path, "--format", "trl", "-o", folder / "set")
    assert told["pairs"] == kept == len(decisions["decisions"])
