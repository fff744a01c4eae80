"""Recipe instruct-identity, stages I and II, through the command line: a tiny FLUX, a scripted judge over HTTP."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from idtool.curate.charis import CharisSettings, CharisStep
from idtool.curate.charis_gate import CharisGate, CharisGateSettings
from idtool.engine.operator import OUTCOME
from idtool.engine.step import Binding, Env, TableContext
from idtool.engine.table import write_table
from idtool.run import Run
from tests.acceptance.runs import idtool
from tests.evaluate.judging import asked, binding, scores
from tests.models.chat_server import ChatServer, Reply, Request
from tests.zoo import Zoo
from tests.zoo.profile import tiny_pipelines

pytest.importorskip("peft", reason="needs the extra `generate`")

TINY = {
    "regional": {"cell_width": 32, "cell_height": 32, "steps": 1, "inject_steps": 1, "text_length": 64},
    "refine": {"steps": 4, "rank": 2, "batch": 1, "text_length": 64, "checkpoint_every": 2, "learning_rate": 1e-2},
    "subjects.2": {"count": "{human: 1, object: 1}"},
    "sample_lora": {"cell_width": 32, "cell_height": 32, "steps": 1, "sheets": 1, "text_length": 64},
    "charis_gate": {"prompt.min": 0.3, "quality.min": "null", "color.min": "null"},
    "charis_gate.2": {"prompt.min": 0.3, "quality.min": "null", "color.min": "null"},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    with ChatServer().running() as running:
        yield running


def config(folder: Path, zoo: Zoo, *roles: str, **bound: dict[str, Any]) -> Path:
    """The tiny profile with further roles, and the recipe."""
    path = tiny_pipelines(folder, zoo, *roles)
    content = yaml.safe_load(path.read_text("utf-8"))
    content["recipes"] = {"instruct-identity": content["recipes"]["instruct-identity"]}
    content["profiles"]["tiny"]["roles"] |= {role: {"licence": "random weights", **one} for role, one in bound.items()}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def curate(config: Path, output: Path, inputs: Path, **sets: dict[str, Any]) -> Any:
    options = [
        part
        for step, values in {**TINY, **sets}.items()
        for key, value in values.items()
        for part in ("--set", f"{step}.{key}={value}")
    ]
    command = ["curate", "--recipe", "instruct-identity", "--profile", "tiny", "--config", config, "--output", output]
    return idtool(*command, "--input", inputs, "--engine", "local", *options, "--json")


def judge(request: Request) -> Reply:
    """4 of 4, but on the identity of every third picture; no change is what the prompt asked for but the scene."""
    name = asked(request)
    if name == "identity":
        last = hashlib.sha256(request.images[-1].tobytes()).digest()[0]
        return scores(1 if last % 3 == 0 else 4, "the fur is of another colour")
    return scores(3, "so it is", asked=True) if name.startswith("diversity") else scores(4, "all there")


def test_both_stages_from_words_to_a_data_set(tiny: Zoo, tmp_path: Path, server: ChatServer) -> None:
    tiny("flux")
    server.script(judge)
    path = config(tmp_path, tiny, "clip", "iqa", t2i={"model": "hf:tiny/flux"}, judge=binding(server))
    table = tmp_path / "subjects.csv"
    listed = ("fox,animal,a red fox with a blue collar", "cook,human,an old cook", "lost,human,")
    table.write_text("".join(f"{row}\n" for row in ("path,identity,class,descriptor", *(f",{one}" for one in listed))))
    result = curate(path, tmp_path / "run", table, subjects={"by": "input", "count": "{human: 1}"})
    assert result.exit_code == 0, result.output
    run = Run(tmp_path / "run")
    steps = {step["name"]: step for step in run.steps}
    assert steps["subjects"]["kept"] == 2 and steps["subjects"]["reasons"] == {"subjects.descriptor": 1}
    assert steps["regional"]["kept"] == 2 and steps["split"]["kept"] == 8 and steps["pair_cells"]["kept"] == 6
    assert "needs role fill" in steps["outpaint"]["skipped_because"]
    assert "needs role nsfw" in steps["measure"]["skipped_because"]
    assert any(note.startswith("axis color is left out: needs role segmenter") for note in steps["charis"]["notes"])

    scored = run.step_table("charis").read().to_pylist()
    assert {row["charis_id"] for row in scored} == {0.25, 1.0} and {row["charis_diversity"] for row in scored} == {0.75}
    for row in scored:
        cosine = 2 * row["charis_prompt"] - 1
        axes = {"id": 0.3, "prompt": 0.2, "quality": 0.1, "diversity": 0.2}
        logs = sum(weight * np.log(row[f"charis_{axis}"]) for axis, weight in axes.items())
        assert -1 <= cosine <= 1 and row["charis_filter"] == pytest.approx(np.exp(logs / 0.8), rel=1e-5)
        assert row["charis_reasons"] == "the fur is of another colour"
    gated = steps["charis_gate"]
    assert gated["reasons"] == {"charis.id": sum(row["charis_id"] < 0.75 for row in scored)} and gated["kept"] > 0
    assert gated["statistics"]["bounds"] == {"id": 0.75, "prompt": 0.3, "diversity": 0.4}

    told = steps["refine"]["statistics"]
    assert told["steps"] == 4 and told["sheets"] >= 1 and (run.path / told["adapter"]).is_file()
    assert steps["sample_lora"]["kept"] == 2 and steps["pair_cells.2"]["kept"] == 24
    sampled = run.step_table("sample_lora").read().to_pylist()
    assert {row["generator"] for row in sampled} == {"hf:tiny/flux + sheets"}
    assert {row["identity_label"] for row in sampled} == {"human-1000000", "object-1000000"}
    assert steps["balance"]["kept"] and steps["export"]["kept"] == steps["balance"]["kept"]

    rows = [
        row for file in (run.path / "dataset" / "data").glob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    assert {row["subject_class"] for row in rows} == {"human", "object"}
    for row in rows:
        assert Image.open(io.BytesIO(row["a_image"]["bytes"])).size == (32, 32)
        assert row["a_parent"] == row["b_parent"] and row["charis_id"] >= 0.75
        assert row["b_prompt"].endswith(row["b_scene"]) and row["identity"] in {"human-1000000", "object-1000000"}
    report = (run.path / "report.html").read_text("utf-8")
    assert "charis.id" in report

    # The same command again finds all done; another bound asks no judge, and trains again only where sheets change.
    before = len(server.requests)
    again = curate(path, tmp_path / "run", table, subjects={"by": "input", "count": "{human: 1}"})
    assert again.exit_code == 0 and len(server.requests) == before
    assert Run(tmp_path / "run").steps == run.steps


def test_without_flux_it_says_what_is_missing(tiny: Zoo, tmp_path: Path) -> None:
    path = config(tmp_path, tiny, "clip")
    command = ["plan", "--recipe", "instruct-identity", "--profile", "tiny", "--config", path]
    result = idtool(*command, "--input", path.parent, "--output", tmp_path / "run")
    assert result.exit_code == 2 and "needs role t2i; profile tiny binds none" in " ".join(result.output.split())


# --- the gate ---------------------------------------------------------------------------------------------------------

AXES = ("id", "prompt", "color", "quality", "diversity", "filter")


def gated(folder: Path, values: list[dict[str, float | None]], **bounds: Any) -> tuple[list[dict[str, Any]], Any]:
    schema = pa.schema([pa.field("id", pa.string()), *(pa.field(f"charis_{a}", pa.float32()) for a in AXES), *OUTCOME])
    rows = [
        {"id": f"{k}", "status": "kept", **{f"charis_{axis}": value for axis, value in row.items()}}
        for k, row in enumerate(values)
    ]
    table = write_table(folder / "pairs", iter([pa.Table.from_pylist(rows, schema)]), schema)
    step = CharisGate(CharisGateSettings.model_validate(bounds), Env("tiny", {}))
    context = TableContext(str(folder))
    found = [row for batch in step.run(table, context) for row in batch.to_pylist()]
    return found, context.statistics


def test_bounds_reject_with_axis_value_and_threshold(tmp_path: Path) -> None:
    values = [
        {"id": 0.75, "prompt": 0.6},
        {"id": 0.5, "prompt": 0.1},
        {"id": 1.0, "prompt": 0.1},
        {"id": None, "prompt": 1.0},
    ]
    rows, told = gated(tmp_path, values, id={"min": 0.75}, prompt={"min": 0.52})
    assert [(row["status"], row["reason"], row["threshold"]) for row in rows] == [
        ("kept", None, None),
        ("rejected", "charis.id", ">= 0.75"),
        ("rejected", "charis.prompt", ">= 0.52"),
        ("rejected", "charis.id", ">= 0.75"),
    ]
    assert [row["value"] for row in rows] == [None, 0.5, pytest.approx(0.1), None]
    assert told["axes"]["id"] == {
        "scored": 3,
        "unscored": 1,
        "quantiles": {"0.05": 0.525, "0.25": 0.625, "0.5": 0.75, "0.75": 0.875, "0.95": 0.975},
    }
    assert [row["status"] for row in gated(tmp_path, values, id={"min": 0.75}, unscored=True)[0]][3] == "kept"
    rows, told = gated(tmp_path, values)
    assert {row["status"] for row in rows} == {"kept"} and told["bounds"] == {} and told["axes"]["color"]["scored"] == 0


def test_a_quantile_calibrates_itself(tmp_path: Path) -> None:
    values = [{"quality": k / 10} for k in range(11)]
    rows, told = gated(tmp_path, values, quality={"quantile": 0.3})
    assert told["bounds"] == {"quality": pytest.approx(0.3)} and [row["status"] for row in rows].count("kept") == 8
    _, told = gated(tmp_path, values, quality={"quantile": 0.3, "min": 0.5})
    assert told["bounds"] == {"quality": 0.5}


def test_steps_that_do_not_fit_their_profile() -> None:
    step = CharisStep(CharisSettings(), Env("none", {}))
    assert "needs role judge" in str(step.skip_reason()) and step.provides_none()["charis_filter"]
    gate = CharisGate(CharisGateSettings(), Env("none", {}))
    gate.missing = step.provides_none()
    assert "needs role" in str(gate.skip_reason())
    iqa = Env("some", {"iqa": (Binding("iqa", "hf:tiny/clip"),)})
    assert CharisStep(CharisSettings(), iqa).axes() == ["quality"]
    assert CharisStep(CharisSettings.model_validate({"mode": "alg2"}), iqa).writes({}).names == [
        "charis_quality",
        "charis_filter",
        "charis_why",
        "charis_reasons",
    ]
    assert json.dumps(step.config())
