"""Repair by face swaps: which images, whose face; and that a repaired image is closer to its person, or rejected."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate.repair import WRITES as REPAIR
from idtool.curate.repair import Repair, RepairSettings
from idtool.curate.swap import Swap, SwapSettings
from idtool.curate.swap_judge import JudgeSwaps
from idtool.engine.apply import apply
from idtool.engine.operator import OUTCOME, Context
from idtool.engine.step import Binding, Env
from idtool.engine.table import KeptRows
from idtool.errors import UsageError
from idtool.evaluate.measure import MeasureSettings, MeasureStep
from idtool.evaluate.measures import MEASURES
from idtool.media.store import MediaStore
from idtool.models import alignment
from idtool.models.crops import warp
from idtool.run import Run
from tests.curate import short_recipes
from tests.curate.tables import run, stored
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person
from tests.zoo.restorer import FILE as CODEFORMER
from tests.zoo.swapper import always

SWAPPER = Binding(
    "swapper", "insightface:tiny-swapper", licence="random weights", options={"backbone": "insightface:tiny"}
)
IDENTITY = Binding("identity", "insightface:tiny", thresholds={"same_person": 0.5})
ENV = Env("tiny", {"swapper": (SWAPPER,), "identity": (IDENTITY,)})


# -- which images, whose face ----------------------------------------------------------------------------------------


def at(cosine: float) -> np.ndarray:
    """A vector of length 1 at that cosine to (1, 0, 0)."""
    return np.array([cosine, np.sqrt(1 - cosine**2), 0.0], np.float32)


def image(name: str, identity: str | None, embedding: np.ndarray | None, **columns: Any) -> dict[str, Any]:
    row = {"id": name, "kind": "image", "media": f"/in/{name}", "origin": "photo", "identity": identity}
    row |= {"source": "s", "licence": f"licence of {name}", "consent": None}
    kps = None if embedding is None else [float(k) for k in range(10)]
    return row | {"embedding": None if embedding is None else embedding.tolist(), "face_kps": kps} | columns


def repaired(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[dict[str, dict[str, Any]], Any]:
    kinds = {"embedding": pa.list_(pa.float32()), "face_kps": pa.list_(pa.float32()), "consent": pa.string()}
    columns = {name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in rows[0]}
    step = Repair(RepairSettings(**settings), ENV)
    source = stored(folder / "in", pa.table(columns), batch=2)
    step.reads({field.name: field for field in KeptRows(source.path).schema})
    return run(step, source, folder), step


def test_the_window_is_below_the_gate_and_above_the_floor(tmp_path: Path) -> None:
    cosines = {"a8": 0.85, "a80": 0.8, "a79": 0.79, "a6": 0.6, "a5": 0.5, "a49": 0.49}
    rows = [
        *(image(f"a{k:02d}", "a", at(1.0)) for k in range(20)),
        *(image(name, "a", at(cosine)) for name, cosine in cosines.items()),
        image("b0", "b", at(1.0)),
        image("b1", "b", at(0.6)),
        image("c0", "c", at(1.0)),
        image("d0", "d", None),
        image("d1", "d", at(0.5)),
        image("n0", None, at(0.6)),
    ]
    found, step = repaired(tmp_path, rows)
    assert step.floor == 0.5 and set(found) == {row["id"] for row in rows}
    source = "a00"  # the most typical, the lowest id of twenty
    of_a = {name: row["repair_id"] for name, row in found.items() if name.startswith("a")}
    assert {name: of for name, of in of_a.items() if of} == dict.fromkeys(("a79", "a6", "a5"), source)
    chosen = found["a6"]
    assert chosen["repair_media"] == f"/in/{source}" and chosen["repair_licence"] == f"licence of {source}"
    assert chosen["repair_similarity"] == pytest.approx(0.6)
    assert np.dot(chosen["repair_embedding"], chosen["embedding"]) == pytest.approx(chosen["repair_similarity"])
    assert [found[name]["repair_id"] for name in ("c0", "d0", "d1", "n0")] == [None] * 4
    assert sorted(filter(None, (found["b0"]["repair_id"], found["b1"]["repair_id"]))) in (["b0"], ["b1"])


def test_photos_lend_their_face_before_what_was_made(tmp_path: Path) -> None:
    made = [image(f"m{k}", "a", at(0.7), origin="inpaint") for k in range(4)]
    rows = [
        image("p", "a", at(1.0)),
        *made,
        image("s", "a", at(0.7), origin="swap"),
        image("v", "a", at(0.7), kind="video"),
    ]
    found, _ = repaired(tmp_path, rows)
    assert {name: row["repair_id"] for name, row in found.items()} == {
        "p": None, "m0": "p", "m1": "p", "m2": "p", "m3": "p", "s": None, "v": None,
    }  # fmt: skip
    few, _ = repaired(tmp_path / "few", rows, per_identity=3, floor=0.0)
    assert sum(row["repair_id"] is not None for row in few.values()) == 3
    none, _ = repaired(tmp_path / "none", rows, floor=0.75)
    assert not any(row["repair_id"] for row in none.values())


def test_without_a_swapper_both_steps_are_skipped() -> None:
    bare = Env("offline", {"identity": (IDENTITY,)})
    why = "needs role swapper; profile offline binds none"
    assert Repair(RepairSettings(), bare).skip_reason() == Swap(SwapSettings(), bare).skip_reason() == why
    strange = Env("x", {"swapper": (Binding("swapper", "api:swap"),)})
    assert "kind `api:` cannot fill role swapper" in str(Swap(SwapSettings(), strange).skip_reason())


def test_swap_is_planned_after_repair_and_measures() -> None:
    available = {name: pa.field(name, pa.string()) for name in ("id", "kind", "media", "width", "height", "embedding")}
    step = Swap(SwapSettings(), ENV)
    with pytest.raises(UsageError, match="what step 'repair' finds"):
        step.reads(available)
    available |= {field.name: field for field in REPAIR}
    with pytest.raises(UsageError, match="needs measure 'faces'"):
        step.reads(available)
    with pytest.raises(UsageError, match="judges 'face_qualty'"):
        Swap(SwapSettings(gate={"q": {"face_qualty": {"min": 0.4}}}), ENV).reads(
            available | {"face_quality": available["id"]}
        )
    assert set(step.writes(available).names) & set(REPAIR.names) == set()
    assert step.notes() == ["faces are not restored: needs role restorer; profile tiny binds none"]


def test_operators_travel_to_workers_and_say_what_they_depend_on() -> None:
    restorer = Binding("restorer", "hf:tiny/codeformer", options={"format": "codeformer", "file": CODEFORMER})
    env = Env("tiny", {**ENV.bindings, "faces": (Binding("faces", "insightface:tiny"),), "restorer": (restorer,)})
    names = ["id", "kind", "media", "width", "height", "source", "licence", "consent"]
    available = {name: pa.field(name, pa.string()) for name in names} | {field.name: field for field in REPAIR}
    for measure in ("faces", "identity"):
        available |= {field.name: field for field in MEASURES.get(measure).writes}
    step = Swap(SwapSettings(gate={"face": {"face_score": {"min": 0.4}}}), env)
    step.reads(available)
    assert [binding.role for binding in step.models()] == ["swapper", "restorer", "faces", "identity"]
    for operator in step.operators():
        again = pickle.loads(pickle.dumps(operator))  # noqa: S301
        assert json.dumps(again.config()) == json.dumps(operator.config())
    assert Swap(SwapSettings(gpus=0.5), env).config() == Swap(SwapSettings(), env).config()
    swap, other = step.operators()[0], Swap(SwapSettings(fidelity=None), env).operators()[0]
    assert swap.config() != other.config()


# -- the judge -------------------------------------------------------------------------------------------------------


def judged(rows: list[dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
    """`before`, `after` (cosines; None: no face), `quality` of new rows."""
    table = pa.table(
        {
            "id": [row["id"] for row in rows],
            "made_here": [row.get("new", True) for row in rows],
            "face_kps": pa.array(
                [None if row["after"] is None else [0.0] * 10 for row in rows], pa.list_(pa.float32())
            ),
            "embedding": pa.array(
                [None if row["after"] is None else at(row["after"]) for row in rows], pa.list_(pa.float32())
            ),
            "repair_embedding": pa.array([at(1.0) for _ in rows], pa.list_(pa.float32())),
            "swap_source": ["s"] * len(rows),
            "swap_before": pa.array([row["before"] for row in rows], pa.float32()),
            "swap_after": pa.nulls(len(rows), pa.float32()),
            "face_quality": pa.array([row.get("quality", 0.9) for row in rows], pa.float32()),
        }
    )
    step = Swap(SwapSettings(**settings), ENV)
    out = JudgeSwaps(step.settings.rise, step.settings.reach, step.checks())(table)
    assert [field.name for field in out.schema][-len(OUTCOME.names) :] == OUTCOME.names
    return {row["id"]: row for row in out.to_pylist()}


def test_what_came_no_closer_is_rejected_with_both_numbers() -> None:
    rows = [
        {"id": "closer", "before": 0.6, "after": 0.85},
        {"id": "little", "before": 0.6, "after": 0.65},
        {"id": "same", "before": 0.6, "after": float(np.float32(0.6)) - 1e-6},
        {"id": "further", "before": 0.6, "after": 0.3},
        {"id": "gone", "before": 0.6, "after": None},
        {"id": "old", "before": 0.6, "after": 0.1, "new": False},
        {"id": "poor", "before": 0.6, "after": 0.85, "quality": 0.2},
    ]
    found = judged(rows)
    assert {name: row["reason"] for name, row in found.items() if row["status"] == "rejected"} == {
        "same": "swap.similarity", "further": "swap.similarity", "gone": "swap.no_face",
    }  # fmt: skip
    assert found["further"]["value"] == pytest.approx(0.3) and found["further"]["threshold"] == "> 0.6"
    assert found["further"]["message"] == "similarity 0.300 after the swap, 0.600 before"
    assert found["closer"]["swap_after"] == pytest.approx(0.85) and found["old"]["swap_after"] is None
    found = judged(rows, rise=0.1, reach=0.86, gate={"quality": {"face_quality": {"min": 0.4}}})
    assert found["little"]["reason"] == "swap.similarity" and found["little"]["threshold"] == ">= 0.7"
    assert found["closer"]["reason"] == "swap.reach" and found["closer"]["threshold"] == ">= 0.86"
    found = judged(rows, gate={"quality": {"face_quality": {"min": 0.4}}})
    assert found["poor"]["reason"] == "swap.quality.face_quality" and found["poor"]["threshold"] == ">= 0.4"
    assert found["closer"]["status"] == found["old"]["status"] == "kept"


# -- through the command line ----------------------------------------------------------------------------------------

STEPS_ = (
    {"step": "ingest"},
    {"step": "measure", "measures": ["faces", "identity"]},
    {"step": "identify", "by": "folder", "outliers": {"action": "keep"}},
    {"step": "repair", "floor": -1, "below": 0.999},
    {"step": "swap"},
)
PAIRS = (
    {
        "step": "pair",
        "branches": {"photos": {"similarity": {"min": -1}}, "frames": {"similarity": {"min": -1}}},
        "copy": {"face_correlation": {"max": None}, "copy_similarity": {"max": None}},
        "difference": {"yaw": None, "pitch": None, "expression": None, "time_ms": None},
    },
    {"step": "export", "splits": {"train": 1.0}},
)


def bound(model: str, **options: Any) -> Mapping[str, Any]:
    return {
        "model": model,
        "licence": "swapped faces: research only",
        "options": {"backbone": "insightface:tiny", **options},
    }


def pictures(folder: Path, *people: tuple[int, int]) -> Path:
    """Drawn pictures of what is called one person."""
    (folder / "one").mkdir(parents=True)
    for k, (number, shot) in enumerate(people):
        drawn = drawn_person(number, shot, centre=(320 - 20 * k, 240), radius=100 - 10 * k)
        Image.fromarray(drawn).save(folder / "one" / f"{k}.png")
    return folder


def test_random_networks_repair_nothing_and_are_told_so(tiny: Zoo, tmp_path: Path) -> None:
    tiny("inswapper", "codeformer", "face-pack")
    person = pictures(tmp_path / "in", (5, 0), (5, 1))
    restorer = {"model": "hf:tiny/codeformer", "options": {"format": "codeformer", "file": CODEFORMER}}
    config = short_recipes.write(
        tmp_path, tiny, STEPS_, "faces", "identity", swapper=bound("insightface:tiny-swapper"), restorer=restorer
    )
    done = short_recipes.curate(config, tmp_path / "run", person)
    rows = short_recipes.rows_of(done, "swap")
    [swapped] = [row for row in rows if row["origin"] == "swap"]
    photos = {row["id"]: row for row in rows if row["origin"] == "photo"}
    assert len(photos) == 2 and all(row["status"] == "kept" for row in photos.values())
    assert (swapped["status"], swapped["reason"]) == ("rejected", "swap.similarity")
    assert swapped["value"] == pytest.approx(swapped["swap_after"]) and swapped["value"] <= swapped["swap_before"]
    assert swapped["threshold"] == f"> {swapped['swap_before']:.4g}"
    source = photos[swapped["swap_source"]]
    parent = photos[swapped["parent"]]
    assert swapped["parent"] != swapped["swap_source"] and swapped["identity"] == parent["identity"] == "one"
    assert swapped["swap_before"] == pytest.approx(np.dot(parent["embedding"], source["embedding"]), abs=1e-5)
    assert not set(rows[0]) & set(REPAIR.names)
    assert swapped["generator"] == "insightface:tiny-swapper + hf:tiny/codeformer"
    models = {model["role"]: model for model in done.entry("swap")["models"]}
    assert {"swapper", "restorer", "faces", "identity"} == set(models) and models["swapper"]["backbone"]["sha256"]
    pixels = np.asarray(Image.open(MediaStore(done.store_root).path(swapped["media"])))
    original = np.asarray(Image.open(person / "one" / parent["name"]))
    assert (
        pixels.shape == original.shape and np.abs(pixels[:40].astype(int) - original[:40]).mean() < 3
    )  # far from the face
    again = short_recipes.curate(config, tmp_path / "again", person)
    assert short_recipes.rows_of(again, "swap") == rows
    lost = [row for table in Run(tmp_path / "run").rejects() for row in table.to_pylist()]
    assert [row["reason"] for row in lost] == [swapped["reason"]]


def test_a_swap_that_puts_the_source_in_is_kept_paired_and_marked(tiny: Zoo, tmp_path: Path) -> None:
    tiny("inswapper", "face-pack")
    person = pictures(tmp_path / "in", (5, 0), (9, 0))
    first = short_recipes.write(tmp_path, tiny, STEPS_, "faces", "identity", swapper=bound("insightface:tiny-swapper"))
    rows = short_recipes.rows_of(
        short_recipes.curate(first, tmp_path / "first", person, "swap.fidelity=null"), "repair"
    )
    [target] = [row for row in rows if row["repair_id"]]
    source = np.asarray(Image.open(Path(target["repair_media"])))
    crop = warp(source, alignment.arcface(target["repair_kps"]), 128)
    always(crop, tmp_path / "always.onnx")
    config = short_recipes.write(
        tmp_path, tiny, [*STEPS_, *PAIRS], "faces", "identity",
        swapper=bound(f"local:{tmp_path / 'always.onnx'}", format="inswapper"),
    )  # fmt: skip
    done = short_recipes.curate(config, tmp_path / "run", person)
    [swapped] = short_recipes.rows_of(done, "swap", "swap")
    assert swapped["status"] == "kept" and swapped["swap_after"] > swapped["swap_before"] + 0.2
    assert swapped["swap_after"] == pytest.approx(np.dot(swapped["embedding"], target["repair_embedding"]), abs=1e-5)
    assert swapped["licence"] == "not stated; swapper: swapped faces: research only"
    assert swapped["source"] == "not stated (face swapped)"
    assert done.entry("swap")["notes"] == ["faces are not restored: needs role restorer; profile tiny binds none"]
    pairs = {frozenset((row["a_id"], row["b_id"])): row for row in short_recipes.rows_of(done, "pair")}
    mine = pairs[frozenset((swapped["id"], swapped["swap_source"]))]
    assert mine["similarity"] == pytest.approx(swapped["swap_after"], abs=1e-4)
    before = pairs[frozenset((target["id"], target["repair_id"]))]
    assert mine["similarity"] > before["similarity"]
    card = (tmp_path / "run" / "dataset" / "README.md").read_text("utf-8")
    assert "swapper: swapped faces: research only" in card and "(face swapped)" in card
    none = short_recipes.curate(config, tmp_path / "strict", person, "swap.reach=1.0")
    assert none.entry("swap")["reasons"] == {"swap.reach": 1}


# -- real photos, a real detector and recognition network ------------------------------------------------------------


@pytest.mark.offline_weights
@pytest.mark.fixtures
@pytest.mark.parametrize("person_", ["obama", "lecun"])
def test_real_photos_come_closer_or_are_rejected(fixtures: Path, tiny: Zoo, tmp_path: Path, person_: str) -> None:
    """An ONNX swapper that draws the source's face raises the similarity of real photos by a real network; one of
    random weights lowers it, and the image is rejected."""
    tiny("inswapper", "face-pack")
    photos = sorted((fixtures / "identities" / person_).glob("*.jpg"))[:3]
    assert len(photos) == 3
    offline = {
        "faces": (Binding("faces", "scrfd-500m"),),
        "identity": (Binding("identity", "arcface-mbf", thresholds={"same_person": 0.38}),),
    }
    measure = MeasureStep(MeasureSettings(measures=("faces", "identity")), Env("offline", offline))
    rows = [
        {"id": f"{k}" * 32, "kind": "image", "media": str(path), "origin": "photo", "identity": person_, "source": None}
        | {"licence": "CC0", "consent": None, "width": size[0], "height": size[1]}
        for k, (path, size) in enumerate((path, Image.open(path).size) for path in photos)
    ]
    schema = {"source": pa.string(), "consent": pa.string(), "width": pa.int32(), "height": pa.int32()}
    table = pa.table({name: pa.array([row[name] for row in rows], schema.get(name, pa.string())) for name in rows[0]})
    [operator] = measure.operators()
    operator.setup(Context(run_dir=str(tmp_path)))
    table = operator(table)
    swappers = {"random": SWAPPER, "source": None}
    for name in swappers:
        env = Env("offline", {**offline, "swapper": (swappers[name] or SWAPPER,)})
        found = run(Repair(RepairSettings(below=0.95), env), stored(tmp_path / f"in-{name}", table), tmp_path)
        targets = [row for row in found.values() if row["repair_id"]]
        assert targets
        if name == "source":
            image = np.asarray(Image.open(targets[0]["repair_media"]).convert("RGB"))
            path = always(warp(image, alignment.arcface(targets[0]["repair_kps"]), 128), tmp_path / "always.onnx")
            options = {"backbone": "insightface:tiny", "format": "inswapper"}
            env = Env(
                "offline",
                {**offline, "swapper": (Binding("swapper", f"local:{path}", licence="none", options=options),)},
            )
        step = Swap(SwapSettings(fidelity=None), env)
        fields = [*table.drop_columns(OUTCOME.names).schema, *REPAIR]
        step.reads({field.name: field for field in fields})
        operators = step.operators()
        for operator in operators:
            operator.setup(Context(run_dir=str(tmp_path)))
        batch = pa.Table.from_pylist(list(found.values()), schema=pa.schema(fields))
        swapped = [row for row in apply(operators, batch).to_pylist() if row["origin"] == "swap"]
        assert len(swapped) == len(targets)
        for row in swapped:
            if name == "source":
                assert row["status"] == "kept" and row["swap_after"] > row["swap_before"], row["message"]
                assert row["licence"] == "CC0; swapper: none"
            else:
                assert (row["status"], row["reason"]) == ("rejected", "swap.similarity")
                assert row["value"] < row["swap_before"] and row["threshold"] == f"> {row['swap_before']:.4g}"
