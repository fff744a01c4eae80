"""Steps `generate`, `score` and `prefer`: what they refuse, skip and turn down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from idtool.config_models import MethodConfig
from idtool.curate.dpo.images import GenerateImages, GenerateImagesSettings
from idtool.curate.dpo.prefer import Prefer, PreferSettings
from idtool.curate.dpo.score import COPIES, PHOTOS, Score, ScoreSettings, _with_scores, method_of
from idtool.curate.prefer import decisions, mine, table
from idtool.engine.step import Env, TableContext
from idtool.errors import UsageError
from idtool.evaluate.scoring import SCHEMA
from idtool.run import Run
from tests.curate.scored_bench import CLIP, ID, Shot, build
from tests.curate.tables import stored
from tests.engine.toy import Quiet

METHODS = {"dmid": MethodConfig(kind="dmid"), "search": MethodConfig(kind="portrait-search")}
ENV = Env("toy", {}, methods=METHODS)


def test_a_method_that_is_not_there_is_named_with_the_nearest() -> None:
    step = GenerateImages(GenerateImagesSettings(method="dmdi"), ENV)
    with pytest.raises(UsageError, match=r"has no method 'dmdi'. Did you mean 'dmid'"):
        step.skip_reason()
    with pytest.raises(UsageError, match=r"methods\.search\.settings: unknown key 'candidats'"):
        GenerateImages(GenerateImagesSettings(method="search", settings={"candidats": 2}), ENV).skip_reason()


def test_a_method_without_its_models_is_skipped_and_says_what_it_lacks() -> None:
    step = GenerateImages(GenerateImagesSettings(method="dmid"), ENV)
    why = step.skip_reason()
    assert why is not None and "'dmid' cannot run here" in why and "slot" in why
    assert set(step.provides_none()) >= {"method", "latents"}


def test_metrics_that_cannot_be_made_are_left_out_and_all_of_them_skip_the_step() -> None:
    with pytest.raises(UsageError, match="facesmi"):
        Score(ScoreSettings(metrics=("facesmi",)), ENV).skip_reason()
    step = Score(ScoreSettings(metrics=("facesim", "clip_t")), ENV)
    assert step.skip_reason() is not None and len(step.notes()) == 2 and list(step.provides_none()) == ["scores"]


def test_photos_and_worse_copies_are_methods_of_their_own() -> None:
    assert method_of({"origin": "photo", "method": None}) == PHOTOS
    assert method_of({"origin": "perturb", "method": None}) == COPIES
    assert method_of({"origin": "generated", "method": "mine"}) == "mine"


def test_requests_of_which_nothing_was_made_are_turned_down_with_the_reason(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "scores.parquet")
    rows = pa.Table.from_pylist([{"id": "a", "kind": "request", "origin": "request"}])
    (batch,) = _with_scores(stored(tmp_path / "rows", rows), tmp_path, "method 'dmid' cannot run here")
    (row,) = batch.to_pylist()
    assert (row["status"], row["reason"], row["scores"]) == ("rejected", "score.no_image", None)
    assert "cannot run here" in row["message"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rule": "dmid", "settings": {"flor": 0.1}}, "settings.flor"),
        ({"rule": "dmid", "settings": {"mu": -1}}, "settings.mu"),
        ({"rule": "idglow", "settings": {"tau": {"id": 0}}}, "tau is above 0"),
        ({"rule": "best"}, "rule"),
    ],
)
def test_settings_of_a_rule_are_checked_when_the_recipe_is_read(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PreferSettings.model_validate(settings)


def scored(folder: Path) -> None:
    shots = [
        Shot({ID: 0.6 + 0.05 * seed, CLIP: 0.3}, seed=seed, prompt=f"scene {k}") for k in (0, 1) for seed in range(3)
    ]
    shots.append(Shot({ID: 0.2, CLIP: 0.3}, prompt="a stranger"))
    build(folder / "scores", shots)


def prefer(folder: Path) -> list[dict[str, Any]]:
    step = Prefer(PreferSettings(settings={"gap_quantile": 0}), Env("toy", {}))
    context = TableContext(run_dir=str(folder), step_dir=folder, progress=Quiet())
    return [row for batch in step.run(table.Table(folder / "none"), context) for row in batch.to_pylist()]


def test_pairs_and_what_was_dropped_are_rows_and_a_run_that_review_opens(tmp_path: Path) -> None:
    scored(tmp_path)
    rows = prefer(tmp_path)
    assert sorted(row["status"] for row in rows) == ["kept", "kept", "rejected"]
    assert len({row["id"] for row in rows}) == 3
    lost = next(row for row in rows if row["status"] == "rejected")
    assert lost["reason"] == "too_few" and lost["prompt"] == "a stranger" and lost["why"] is None
    kept = next(row for row in rows if row["status"] == "kept")
    assert kept["reason"] is None and "best and worst of 3" in kept["why"]
    opened = table.open_run(tmp_path_run(tmp_path))
    assert opened.path == tmp_path / table.FOLDER and opened.manifest["rule"] == "dmid"
    assert prefer(tmp_path) == rows


def tmp_path_run(folder: Path) -> Path:
    """The folder as the run of a recipe."""
    (folder / "run.json").write_text('{"format": 1, "steps": []}')
    return folder


def test_pairs_that_people_have_reviewed_are_not_mined_over(tmp_path: Path) -> None:
    scored(tmp_path)
    prefer(tmp_path)
    run = Run(tmp_path / table.FOLDER)
    pairs = [row["id"] for row in table.mined(run).read(["id"]).to_pylist()]
    told = decisions.Decisions(
        format=1, kind="idtool-review", run=run.manifest["pairs_hash"], decisions=dict.fromkeys(pairs, "chosen")
    )
    (tmp_path / "eva.json").write_text(told.model_dump_json())
    decisions.apply(tmp_path_run(tmp_path), [tmp_path / "eva.json"])
    with pytest.raises(UsageError, match="have been reviewed"):
        prefer(tmp_path)
    assert mine.RULES.keys() == {"dmid", "idglow"}
