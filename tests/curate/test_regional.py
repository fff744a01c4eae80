"""Character sheets by regional prompting, their cells and pairs, on a tiny random FLUX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from idtool.curate.regional import MakeSheets, Regional, RegionalSettings, why_not
from idtool.curate.sheet_layout import cell_boxes
from idtool.curate.sheets import PairCells, PairCellsSettings, Split, SplitSettings
from idtool.curate.subjects import Subjects, SubjectsSettings
from idtool.engine.operator import OUTCOME, Context
from idtool.engine.step import Binding, Env, TableContext
from idtool.engine.table import Table, write_table
from idtool.errors import MissingError, UsageError
from idtool.media.images import decode
from idtool.media.sources import SCHEMA as SOURCES
from idtool.media.store import open_bytes
from tests.zoo import Zoo

FLUX = Binding("t2i", "hf:tiny/flux", licence="random weights")
ENV = Env("tiny", {"t2i": (FLUX,)})
SCENES = ("at sea", "in a wood", "on a hill", "by a lake")
SMALL = {"cell_width": 32, "cell_height": 32, "steps": 2, "text_length": 32, "inject_steps": 1}


def settings(**changes: Any) -> RegionalSettings:
    return RegionalSettings.model_validate({**SMALL, **changes})


def subject(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SOURCES.names)
    return {
        **row,
        "id": "subject-a",
        "kind": "subject",
        "identity_label": "fox-1",
        "subject_class": "animal",
        "descriptor": "a red fox",
        "scenes": list(SCENES),
        "licence": "mine",
        **changes,
    }


def made(folder: Path, asked: RegionalSettings, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The sheets of a subject, as the operator makes them."""
    operator = MakeSheets(asked, FLUX, "regional")
    operator.setup(Context(str(folder), seed=5))
    schema = Subjects(SubjectsSettings(), ENV).writes({})
    return operator(pa.Table.from_pylist([row], schema=schema)).to_pylist()


def pixels(folder: Path, row: dict[str, Any]) -> Any:
    return decode(open_bytes(row["media"], folder / "media"))


# --- masks ------------------------------------------------------------------------------------------------------------


def first_attention(
    monkeypatch: pytest.MonkeyPatch, method: Any, scenes: Sequence[str], ratio: float
) -> dict[str, Any]:
    """What text and image tokens get from attention in the first block of the first step."""
    import torch

    from idtool.generate.flux import sampling, transformer
    from idtool.generate.method import Request, with_changes

    seen: list[dict[str, Any]] = []
    attend = transformer.attend

    def watched(*args: Any, **kwargs: Any) -> Any:
        out = attend(*args, **kwargs)
        seen.append({name: tensor.clone() for name, tensor in out.items()})
        return out

    regions = [
        {"prompt": f"a red fox, {scene}", "box": box} for scene, box in zip(scenes, cell_boxes(1, 2), strict=True)
    ]
    chosen = with_changes(method.spec.settings, {"regions": regions, "base_ratio": ratio})
    request = Request("x", "a sheet of a red fox", (), 3, 64, 32, chosen)
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(transformer, "attend", watched)
        sampling.sample(method.pipe, method.job([request]), method.changes([request]))
    return seen[0]


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_masks_keep_the_prompts_of_cells_apart(
    tiny: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    """In the first masked block, the left cell's text and tokens get the same to the last bit, whatever the right cell
    is asked for; with the masks off they do not."""
    import torch

    from idtool.generate.flux import regional

    tiny("flux")
    operator = MakeSheets(settings(rows=1, columns=2), FLUX, "regional")
    operator.setup(Context(str(tmp_path)))
    method, text = operator._method, 32

    def cells(scene: str) -> list[Any]:
        """Text of the left and right cell, tokens of the left and right cell."""
        out = first_attention(monkeypatch, method, ["at sea", scene], ratio)
        assert out["text"].shape[1] == 2 * text and out["image"].shape[1] == 8
        image = out["image"].reshape(2, 4, -1)
        return [out["text"][:, :text], out["text"][:, text:], image[:, :2], image[:, 2:]]

    one, other = cells("in a wood"), cells("on the moon")
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
    assert not torch.allclose(one[1], other[1], atol=1e-5) and not torch.allclose(one[3], other[3], atol=1e-5)
    monkeypatch.setattr(
        regional, "region_mask", lambda covers, length: np.ones((len(covers) * length + covers.shape[1],) * 2, bool)
    )
    one, other = cells("in a wood"), cells("on the moon")
    assert not torch.allclose(one[0], other[0], atol=1e-5) and not torch.allclose(one[2], other[2], atol=1e-5)


def test_the_masks_of_a_grid_cover_every_token_once() -> None:
    from idtool.generate.flux.regional import covered

    covers = np.stack([covered(box, 4, 6) for box in cell_boxes(2, 3)])
    assert (covers.sum(axis=0) == 1).all() and (covers.sum(axis=1) == 4).all()


# --- the step ---------------------------------------------------------------------------------------------------------


def test_a_sheet_follows_from_its_row_alone(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux")
    one, two = made(tmp_path / "a", settings(sheets=2), subject())
    assert [row["status"] for row in (one, two)] == ["kept", "kept"]
    assert (one["kind"], one["origin"], one["parent"]) == ("image", "regional", "subject-a")
    assert (one["width"], one["height"], one["format"]) == (64, 64, "png")
    assert one["sheet_scenes"][1:] != two["sheet_scenes"][1:] and one["sheet_scenes"][0] == two["sheet_scenes"][0]
    assert set(one["sheet_scenes"][1:]) < set(SCENES)
    assert "a red fox" in one["prompt"] and "4 pictures in a grid of 2 rows and 2 columns" in one["prompt"]
    assert one["sheet_prompt"].endswith(f"Row 2, column 2: {one['sheet_scenes'][3]}.")
    assert one["licence"] == "mine; t2i: random weights" and one["generator"] == "hf:tiny/flux"
    assert one["identity_label"] == "fox-1" and one["subject_class"] == "animal"
    assert not np.array_equal(pixels(tmp_path / "a", one), pixels(tmp_path / "a", two))
    # Another run, one sheet, other order of work: the same picture under the same id.
    [again] = made(tmp_path / "b", settings(), subject())
    assert again["id"] == one["id"] and np.array_equal(pixels(tmp_path / "b", again), pixels(tmp_path / "a", one))
    [other] = made(tmp_path / "b", settings(base_ratio=0.9), subject())
    assert other["id"] != one["id"]
    [longer] = made(tmp_path / "b", settings(), subject(descriptor="a red fox " * 20))
    assert longer["status"] == "kept" and "cut off" in longer["message"]


def test_a_subject_with_too_few_scenes_is_rejected_and_another_row_passes(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux")
    [row] = made(tmp_path, settings(), subject(scenes=["at sea", "at sea"]))
    assert (row["status"], row["reason"], row["value"]) == ("rejected", "regional.scenes", 1.0)
    assert row["threshold"] == ">= 3"
    [photo] = made(tmp_path, settings(), subject(kind="image"))
    assert (photo["id"], photo["status"], photo["media"]) == ("subject-a", "kept", None)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (None, "needs role t2i; profile tiny binds none"),
        ("hf:black-forest-labs/FLUX.2-dev", "which by its name is no FLUX.1"),
        ("hf:black-forest-labs/FLUX.1-Fill-dev", "which by its name is no FLUX.1"),
        ("hf:black-forest-labs/FLUX.1-dev", None),
        ("hf:tiny/flux-fill", "whose pipeline is FluxFillPipeline, not FLUX.1's"),
        ("hf:tiny/flux", None),
    ],
)
def test_it_is_skipped_where_the_profile_has_no_flux1(tiny: Zoo, model: str | None, why: str | None) -> None:
    tiny("flux", "flux-fill")
    env = Env("tiny", {} if model is None else {"t2i": (replace(FLUX, model=model),)})
    found = why_not(env)
    assert found is None if why is None else found is not None and found.endswith(why)
    assert Regional(settings(), env).skip_reason() == found


def test_an_adapter_that_is_not_in_the_run(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux")
    with pytest.raises(MissingError, match="no adapter 'sheets'"):
        made(tmp_path, settings(lora="sheets"), subject())


# --- subjects ---------------------------------------------------------------------------------------------------------


def subjects_of(folder: Path, sources: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    schema = pa.schema([*(field.with_nullable(True) for field in SOURCES), *OUTCOME])
    rows = [{**dict.fromkeys(SOURCES.names), "status": "kept", **row} for row in sources]
    place = folder / "steps" / "00-sources" / "table"
    write_table(place, iter([pa.Table.from_pylist(rows, schema)]), schema)
    step = Subjects(SubjectsSettings.model_validate(changes), replace(ENV, seed=1))
    context = TableContext(str(folder), step_dir=folder)
    return [row for batch in step.run(Table(place), context) for row in batch.to_pylist()]


def test_drawn_subjects_stay_the_same_when_more_are_asked_for(tmp_path: Path) -> None:
    few, many = (subjects_of(tmp_path, [], count={"human": n, "object": 2}) for n in (2, 6))
    assert [len(few), len(many)] == [4, 8]
    assert {row["id"] for row in few} <= {row["id"] for row in many}
    assert len({row["descriptor"] for row in many}) == 8
    assert {row["subject_class"] for row in many} == {"human", "object"}
    assert all("{" not in row["descriptor"] and len(row["scenes"]) > 8 for row in many)


def test_subjects_of_the_input_and_of_a_file(tmp_path: Path) -> None:
    told = {"descriptor": "a red fox", "class": "animal", "scenes": "at sea; in a wood"}
    sources = [
        {"id": "1", "uri": "s.csv#1", "identity_label": "fox", "licence": "mine", "extra": json.dumps(told)},
        {"id": "2", "uri": "a.jpg", "extra": None},
        {"id": "3", "uri": "s.csv#2", "identity_label": "x", "extra": '{"descriptor": "y", "class": "plant"}'},
        {"id": "4", "uri": "s.csv#3", "identity_label": "fox", "extra": '{"descriptor": "a grey fox"}'},
    ]
    rows = subjects_of(tmp_path, sources, by="input")
    kept = [row for row in rows if row["status"] == "kept"]
    assert [(row["identity_label"], row["licence"], row["scenes"]) for row in kept] == [
        ("fox", "mine", ["at sea", "in a wood"])
    ]
    reasons = {row["reason"] for row in rows if row["status"] != "kept"}
    assert reasons == {"subjects.descriptor", "subjects.class", "subjects.repeated"}
    file = tmp_path / "subjects.jsonl"
    file.write_text(json.dumps({"id": "fox", **told}) + "\n")
    [row] = subjects_of(tmp_path, [], by="file", file=str(file))
    assert row["descriptor"] == "a red fox" and row["subject_class"] == "animal"
    file.write_text(json.dumps({"id": "fox"}) + "\n")
    with pytest.raises(UsageError, match="row 1: no descriptor"):
        subjects_of(tmp_path, [], by="file", file=str(file))
    with pytest.raises(UsageError, match="2 subjects are called 'fox'"):
        subjects_of(tmp_path, [], by="list", subjects=[{"id": "fox", "descriptor": one} for one in ("a", "b")])


# --- cells and pairs --------------------------------------------------------------------------------------------------


def test_a_sheet_is_cut_into_its_cells_and_paired(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux")
    sheets = made(tmp_path, settings(sheets=2), subject())
    split = Split(SplitSettings(), ENV)
    [operator] = split.operators()
    operator.setup(Context(str(tmp_path)))
    batch = _table(sheets).drop_columns(OUTCOME.names)
    cells = operator(batch).to_pylist()
    assert len(cells) == 8 and {row["origin"] for row in cells} == {"split"}
    whole = pixels(tmp_path, sheets[0])
    own = [row for row in cells if row["sheet"] == sheets[0]["id"]]
    for row in own:
        top, left = 32 * (row["cell"] // 2), 32 * (row["cell"] % 2)
        assert np.array_equal(pixels(tmp_path, row), whole[top : top + 32, left : left + 32])
        assert row["parent"] == sheets[0]["id"] and row["identity_label"] == "fox-1"
        assert row["prompt"] == f"a red fox, {row['scene']}" and row["scene"] == sheets[0]["sheet_scenes"][row["cell"]]
    narrow = Split(SplitSettings(border=16), ENV).operators()[0]
    narrow.setup(Context(str(tmp_path)))
    assert {row["reason"] for row in narrow(batch).to_pylist()} == {"split.border"}

    found = pairs(tmp_path, cells)
    assert len(found) == 6 and {row["a_cell"] for row in found} == {0}
    assert {row["b_cell"] for row in found} == {1, 2, 3} and {row["identity"] for row in found} == {"fox-1"}
    assert all(row["a_parent"] == row["b_parent"] == row["sheet"] for row in found)
    assert len(pairs(tmp_path, cells, reference="each")) == 24


def test_a_completed_cell_stands_in_for_it_and_lonely_ones_are_rejected(tmp_path: Path) -> None:
    cells = [
        {"id": f"c{k}", "sheet": "s", "cell": k, "scene": "x", "media": f"m{k}", "identity_label": "fox"}
        for k in range(4)
    ]
    cells[1]["outpaint_sides"], cells[2]["outpaint_sides"] = ["left"], ["top"]
    completed = {"id": "o1", "parent": "c1", "media": "whole", "outpaint_sides": ["left"]}
    found = pairs(tmp_path, [*cells, completed])
    kept = [row for row in found if row["status"] == "kept"]
    assert [(row["b_id"], row["b_media"], row["b_cell"]) for row in kept] == [("o1", "whole", 1), ("c3", "m3", 3)]
    assert [(row["id"], row["reason"]) for row in found if row["status"] != "kept"] == [("c2", "pair_cells.cut")]
    assert [row["reason"] for row in pairs(tmp_path, cells[3:])] == ["pair_cells.no_reference"]
    assert [row["reason"] for row in pairs(tmp_path, cells[:1])] == ["pair_cells.alone"]


def pairs(folder: Path, cells: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    table = _table(cells)
    written = write_table(folder / "cells", iter([table]), table.schema)
    step = PairCells(PairCellsSettings.model_validate(changes), ENV)
    return [row for batch in step.run(written, TableContext(str(folder))) for row in batch.to_pylist()]


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with every column that cells have."""
    from idtool.curate.regional import WRITES
    from idtool.curate.sheets import CELL

    base = Subjects(SubjectsSettings(), ENV).writes({})
    own = [*base, *WRITES, *CELL, pa.field("outpaint_sides", pa.list_(pa.string())), *OUTCOME]
    schema = pa.schema(list({field.name: field for field in own}.values()))
    return pa.Table.from_pylist([{"status": "kept", **row} for row in rows], schema)


def test_settings_that_make_no_sheet() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        settings(cell_width=40)
    with pytest.raises(ValueError, match="goes with"):
        SubjectsSettings.model_validate({"by": "file"})
