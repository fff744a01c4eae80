"""Data sets of preference pairs: opened by `datasets`, read as the scripts read them, without removed people."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from idtool.curate.prefer import decisions, dpo_files
from idtool.curate.prefer.dpo_export import export
from idtool.errors import QualityError, UsageError
from tests.curate.scored_bench import CLIP, ID, Shot, build
from tests.curate.test_prefer import mine, pairs
from tests.curate.test_review import said

GOOD, BAD = (10, 220, 10), (220, 10, 10)


def run_with(tmp_path: Path, people: list[tuple[str | None, ...]]) -> Path:
    shots = [
        Shot({ID: 0.6 + 0.2 * good, CLIP: 0.3}, who, f"scene {k}", seed=good, colour=GOOD if good else BAD)
        for k, who in enumerate(people)
        for good in (0, 1)
    ]
    mine(build(tmp_path / "bench", shots), tmp_path / "run", gap_quantile=0)
    return tmp_path / "run"


def opened(folder: Path, split: str = "train") -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(folder.parent / "cache"))


def is_good(image: Any) -> bool:
    pixels = np.asarray(image.convert("RGB"))
    return bool(pixels[24, 20, 1] > 200)


def test_the_layout_of_diffusers_script(tmp_path: Path) -> None:
    # Sides are drawn from ids, and these from paths: of 24 pairs all on one side is a chance of 1 in 8 million.
    run = run_with(tmp_path, [(f"person {k}",) for k in range(24)])
    result = export(run, tmp_path / "set", "diffusers-dpo")
    assert result["pairs"] == 24
    assert result["splits"] == {"train": 24}
    told = opened(tmp_path / "set")
    assert {"jpg_0", "jpg_1", "label_0", "caption"} <= set(told.column_names)
    labels = set()
    for row in told:
        # As train_diffusion_dpo.py does: bytes to PIL; the pair is turned where label_0 is 0.
        pair = [Image.open(io.BytesIO(row[name])) for name in ("jpg_0", "jpg_1")]
        if row["label_0"] == 0:
            pair = pair[::-1]
        assert is_good(pair[0])
        assert not is_good(pair[1])
        labels.add(row["label_0"])
        assert row["caption"].startswith("scene")
        assert row["references"][0].size == (40, 48)
    assert labels == {0, 1}
    card = (tmp_path / "set" / "README.md").read_text()
    assert "Not reviewed by people." in card
    assert "data/train-*" in card


def test_the_names_of_trl(tmp_path: Path) -> None:
    run = run_with(tmp_path, [("anna", "bert"), ("carl",)])
    export(run, layout="trl")
    told = opened(run / "dataset-trl")
    assert told.column_names[:4] == ["prompt", "chosen", "rejected", "images"]
    by_prompt = {row["prompt"]: row for row in told}
    assert [len(by_prompt[f"scene {k}"]["images"]) for k in (0, 1)] == [2, 1]
    for row in told:
        assert is_good(row["chosen"])
        assert not is_good(row["rejected"])
        assert row["metrics"][0]["metric"] == ID
        assert row["margin"] == pytest.approx(0.2)


def test_people_who_are_in_one_picture_are_in_one_split(tmp_path: Path) -> None:
    people = [("a", "b"), ("b", "c"), ("c", "d"), ("e",), ("f", "g"), ("h",), ("i",), ("j", "i")]
    run = run_with(tmp_path, people)
    result = export(run, tmp_path / "set", "trl", splits={"train": 0.6, "test": 0.4})
    assert set(result["splits"]) == {"train", "test"}
    seen = {
        split: {
            name
            for row in pq.read_table(sorted((tmp_path / "set" / "data").glob(f"{split}-*"))).to_pylist()
            for name in row["people"]
        }
        for split in ("train", "test")
    }
    assert not seen["train"] & seen["test"]
    assert any({"a", "b", "c", "d"} <= names for names in seen.values())


def test_a_removed_person_is_nowhere_and_this_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, [("anna",), ("anna", "bert"), ("bert",), ("carl",)])
    result = export(run, tmp_path / "set", "trl", remove_identity=["anna"])
    assert (result["pairs"], result["removed"]) == (2, 2)
    rows = pq.read_table(tmp_path / "set" / "data").to_pylist()
    assert sorted(row["identity"] for row in rows) == ["bert", "carl"]
    with pytest.raises(UsageError, match="Did you mean 'anna'"):
        export(run, tmp_path / "other", "trl", remove_identity=["ana"])
    with pytest.raises(QualityError, match="everything was removed"):
        export(run, tmp_path / "none", "trl", remove_identity=["anna", "bert", "carl"])
    assert not (tmp_path / "none").exists()
    # Anna's picture comes in by another door: as the reference of somebody else. The check finds it.
    anna = dpo_files.image(next(r for r in pairs(run) if r["people"] == ["anna"])["references"][0], "x")
    real = dpo_files.row_of

    def smuggled(row: Any, layout: Any) -> dict[str, Any]:
        return {**real(row, layout), "images": [anna]}

    monkeypatch.setattr("idtool.curate.prefer.dpo_export.row_of", smuggled)
    from idtool.errors import RunFailed

    with pytest.raises(RunFailed, match="still holds a removed person"):
        export(run, tmp_path / "smuggled", "trl", remove_identity=["anna"])
    assert not (tmp_path / "smuggled").exists()


def test_reviews_decide_what_is_exported(tmp_path: Path) -> None:
    run = run_with(tmp_path, [("a",), ("b",), ("c",), ("d",)])
    decisions.apply(run, [said(run, tmp_path, "eva", ["chosen", "rejected", "tie"])])
    everything = export(run, tmp_path / "all", "trl")
    assert everything["pairs"] == 3
    result = export(run, tmp_path / "reviewed", "trl", reviewed_only=True)
    assert (result["pairs"], result["undecided_left_out"]) == (2, 1)
    told = {
        row["decision"]: is_good(Image.open(io.BytesIO(row["chosen"]["bytes"])))
        for row in pq.read_table(tmp_path / "reviewed" / "data").to_pylist()
    }
    assert told == {"kept": True, "swapped": False}
    assert "Reviewed by 1 people" in (tmp_path / "reviewed" / "README.md").read_text()


def test_nothing_tells_of_this_machine(tmp_path: Path) -> None:
    run = run_with(tmp_path, [(None,), ("anna", None)])
    export(run, tmp_path / "set", "diffusers-dpo")
    rows = pq.read_table(tmp_path / "set" / "data").to_pylist()
    assert str(tmp_path) not in json.dumps(rows, default=lambda value: "" if isinstance(value, bytes) else str(value))
    assert {row["identity"].split(" + ")[-1][:7] for row in rows} == {"person-"}


def test_pictures_that_are_gone_are_told_and_folders_of_others_are_spared(tmp_path: Path) -> None:
    run = run_with(tmp_path, [("a",), ("b",)])
    lost = pairs(run)[0]
    Path(lost["rejected"]).unlink()
    result = export(run, tmp_path / "set", "trl")
    assert (result["pairs"], result["failed"]) == (1, 1)
    assert lost["id"] in json.loads((tmp_path / "set" / "failed.json").read_text())
    assert export(run, tmp_path / "set", "trl")["pairs"] == 1  # its own data set may be replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds no data set of this tool"):
        export(run, tmp_path / "mine", "trl")
    with pytest.raises(UsageError, match="There is no format 'csv'"):
        export(run, tmp_path / "x", "csv")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is not a run"):
        export(tmp_path, tmp_path / "x", "trl")
