"""Step reenact: portraits by a real program in a process of its own, which gives a portrait the driver's brightness."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from idtool.config import packaged_text
from idtool.curate import reenactor
from idtool.curate.derived import NEW
from idtool.curate.drivers import EXPRESSIONS, POSES, Driver, cell_of, drawn, drivers_in, nearest, prompt_of
from idtool.curate.reenact import Reenact, ReenactSettings
from idtool.curate.reenact_judge import SOUGHT, Judge
from idtool.engine.step import Binding, Env
from idtool.errors import UsageError
from idtool.generate import runners
from tests.curate import short_recipes, synthesis
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")
PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(runners.FOLDER)!r})
from PIL import Image, ImageEnhance
from protocol import Rejected, pictures, serve

def load(start):
    return start["models"]["base"]

def make(weights, request):
    portrait, driver = pictures(request)
    mark = driver.getpixel((0, 0))
    if mark == (255, 0, 0):
        os._exit(3)
    if mark == (0, 0, 255):
        raise Rejected("reference.no_face", "the driver shows nobody")
    bright = sum(driver.convert("L").getdata()) / (driver.width * driver.height) / 128
    return ImageEnhance.Brightness(portrait).enhance(bright), {{"weights": os.path.basename(weights)}}

serve(load, make, dtype="float32")
"""
BRIGHT = {"happy_straight": 120, "sad_full_left": 140}


@pytest.fixture
def bound(tmp_path: Path) -> dict[str, Any]:
    """Role `reenactor` on the program."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"w")
    (tmp_path / "program.py").write_text(PROGRAM)
    options = {"python": sys.executable, "script": str(tmp_path / "program.py"), "timeout_s": 30, "stop_s": 2}
    return {"model": f"local:{tmp_path / 'weights'}", "licence": "tiny", "options": options}


def grey(path: Path, value: int, mark: tuple[int, int, int] | None = None) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.full((16, 16, 3), value, np.uint8)
    pixels[0, 0] = mark or pixels[0, 0]
    Image.fromarray(pixels).save(path)


@pytest.fixture
def drivers(tmp_path: Path) -> Path:
    for name, value in BRIGHT.items():
        grey(tmp_path / "drivers" / f"{name}.png", value)
    return tmp_path / "drivers"


def step(bound: dict[str, Any], **settings: Any) -> Reenact:
    env = Env("tiny", {"reenactor": (Binding("reenactor", **bound),)})
    found = Reenact(ReenactSettings(**settings), env)
    assert found.skip_reason() is None
    found.reads({})
    return found


def children(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["driver"].partition(".")[0]: row for row in rows.values() if row["origin"] == "reenact"}


def test_every_portrait_gets_every_driver(bound: dict[str, Any], drivers: Path, tmp_path: Path) -> None:
    people = synthesis.people(tmp_path / "people")
    batch = synthesis.table([people / "one.png", people / "two.png"])
    rows = synthesis.through(step(bound, drivers=str(drivers)).operators(), batch, tmp_path / "run")
    assert len(rows) == 6 and rows["one"]["status"] == "kept"
    for parent in ("one", "two"):
        mine = children({key: row for key, row in rows.items() if row["parent"] == parent})
        assert set(mine) == set(BRIGHT)
        for name, row in mine.items():
            assert row["status"] == "kept" and f"{row['driver_expression']}_{row['driver_pose']}" == name
            assert row["generator"] == f"command {bound['model']}" and row["generator_seed"] == int(row["id"][:15], 16)
            assert row["licence"] == "not stated; reenactor: tiny" and row["source"] == "not stated (reenacted)"
            before = np.asarray(Image.open(people / f"{parent}.png"), float)
            expected = np.clip(before * BRIGHT[name] / 128, 0, 255)
            assert np.abs(synthesis.opened(tmp_path / "run", row["media"]) - expected).mean() < 3
    # A row tells of itself: neighbours, order and another run change nothing, another driver's pixels do.
    again = synthesis.through(step(bound, drivers=str(drivers)).operators(), batch.slice(1, 1), tmp_path / "again")
    assert again == {key: row for key, row in rows.items() if "two" in (key, row["parent"])}
    grey(drivers / "happy_straight.png", 90)
    other = synthesis.through(step(bound, drivers=str(drivers)).operators(), batch.slice(1, 1), tmp_path / "other")
    assert len(set(other) & set(again)) == 2


def test_what_goes_wrong_is_told_of_its_own_picture(bound: dict[str, Any], drivers: Path, tmp_path: Path) -> None:
    grey(drivers / "fear_straight.png", 100, (255, 0, 0))
    grey(drivers / "anger_straight.png", 100, (0, 0, 255))
    (drivers / "disgust_straight.png").write_bytes(b"\x89PNG no picture")
    people = synthesis.people(tmp_path / "people")
    batch = synthesis.table([people / "one.png"])
    found = children(synthesis.through(step(bound, drivers=str(drivers)).operators(), batch, tmp_path / "run"))
    assert {name: (row["status"], row["reason"]) for name, row in found.items()} == {
        "happy_straight": ("kept", None),
        "sad_full_left": ("kept", None),
        "fear_straight": ("error", "RunnerDied"),
        "anger_straight": ("rejected", "reference.no_face"),
        "disgust_straight": ("rejected", "reenact.driver"),
    }
    assert "disgust_straight.png cannot be read" in found["disgust_straight"]["message"]
    assert all(row["parent"] == "one" and row["driver_pose"] for row in found.values())


def test_a_second_method_makes_the_set_anew(bound: dict[str, Any], drivers: Path, tmp_path: Path) -> None:
    people = synthesis.people(tmp_path / "people")
    batch = synthesis.table([people / "one.png"])
    refine = {"kind": "copy", "licence": "free"}
    found = children(
        synthesis.through(
            step(bound, drivers=str(drivers), refine_with=refine, keep_portraits=False).operators(),
            batch,
            tmp_path / "run",
        )
    )
    row = found["happy_straight"]
    assert row["prompt"] == "a photo of a person with a happy expression in a front view"
    assert found["sad_full_left"]["prompt"] == "a photo of a person with a sad expression in a side view"
    assert row["generator"].endswith(" + copy") and row["licence"] == "not stated; reenactor: tiny; refiner: free"
    assert len({one["media"] for one in found.values()}) == 2


def test_drivers_say_what_they_show(tmp_path: Path) -> None:
    assert cell_of("x/AF01SUFR.JPG") == ("surprise", "full_right") and cell_of("BM20NES.jpg") == ("neutral", "straight")
    assert cell_of("angry/half_left/3.png") == ("anger", "half_left")
    assert cell_of("happy.png") is None and cell_of("happy_sad_straight.png") is None
    for name in ("a.png", "b.png"):
        grey(tmp_path / name, 9 if name == "a.png" else 8)
    (tmp_path / "t.csv").write_text("path,expression,pose\na.png,afraid,HL\nb.png,fear,half left\n")
    one, two = drivers_in(str(tmp_path / "t.csv"))
    assert (one.expression, one.pose) == (two.expression, two.pose) == ("fear", "half_left")
    assert one.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    chosen = {drawn([one, two], f"p{k}", 0)[0].name for k in range(20)}
    assert chosen == {"a.png", "b.png"} and drawn([one, two], "p", 3) == drawn([two, one], "p", 3)
    (tmp_path / "t.csv").write_text("path,expression,pose\na.png,bored,HL\n")
    with pytest.raises(UsageError, match="'bored' is no expression"):
        drivers_in(str(tmp_path / "t.csv"))
    with pytest.raises(UsageError, match="says which expression and pose"):
        drivers_in(str(tmp_path / "a.png"))
    all_ = [Driver(f"{e}{p}", f"{e}{p}", e, p, None) for e in EXPRESSIONS for p in POSES]
    assert nearest(all_, 7)[:2] == [7, 2] and {all_[n].pose for n in nearest(all_, 7)[:5]} == {"straight"}
    assert prompt_of("{expression} {view}", all_[12]) == "an angry front"


def test_the_judge_compares_with_the_portrait_and_the_driver() -> None:
    rows = {
        "same": ([1.0, 0.0], "happy"),
        "other": ([0.0, 1.0], "happy"),
        "sad": ([1.0, 0.0], "sad"),
        "gone": (None, None),
    }
    judge = Judge(0.45, ("embedding", "expression"))
    found = {}
    for name, (embedding, expression) in rows.items():
        told = {SOUGHT.name: [0.8, 0.6], "driver_expression": "happy", NEW.name: True}
        found[name] = judge.closer({"embedding": embedding, "expression": expression, **told})
    assert found["same"] == {"reenact_similarity": pytest.approx(0.8)}
    assert found["other"]["reenact_similarity"] == pytest.approx(0.6) and "reason" not in found["other"]
    assert found["sad"]["reason"] == "reenact.expression" and found["gone"]["reason"] == "reenact.no_face"
    strict = Judge(0.7, ("embedding",)).closer({"embedding": [0.0, 1.0], SOUGHT.name: [0.8, 0.6]})
    assert (strict["reason"], strict["threshold"]) == ("reenact.similarity", ">= 0.7")


def test_it_says_why_it_cannot(bound: dict[str, Any], tmp_path: Path) -> None:
    def why(model: str, options: dict[str, Any], **settings: Any) -> str:
        env = Env("p", {"reenactor": (Binding("reenactor", model, options=options),)})
        return str(Reenact(ReenactSettings(**settings), env).skip_reason())

    assert Reenact(ReenactSettings(), Env("offline", {})).skip_reason() == (
        "needs role reenactor; profile offline binds none"
    )
    assert "its options name no program" in why("hf:FaceAdapter/FaceAdapter", {})
    assert "needs the setting repo, a checkout of https://github.com/KwaiVGI/LivePortrait" in why(
        "hf:KwaiVGI/LivePortrait", {"runner": "liveportrait"}
    )
    checked_out = {"runner": "face_adapter", "repo": str(tmp_path)}
    assert "its model slot 'base' (hf:stable-diffusion-v1-5" in why("local:/w", checked_out)
    sd = "hf:stable-diffusion-v1-5/stable-diffusion-v1-5"
    base = {"models": {"base": {"model": sd, "licence": "OpenRAIL-M"}}}
    assert "its weights are not fetched: bind local:<folder>" in why("hf:FaceAdapter/FaceAdapter", checked_out | base)
    assert why("local:/w", checked_out | base).startswith("needs driving pictures")
    spec = reenactor.program(Binding("reenactor", "local:/w", options=checked_out | base))
    assert {slot: one.model for slot, one in spec.bindings.items()} == {
        "weights": "local:/w",
        "base": sd,
    }
    assert "takes 1 to 1 pictures" in why("local:/w", bound["options"] | {"people": [1, 1]})
    assert reenactor.licence(spec).startswith("code: no licence stated") and "OpenRAIL-M" in reenactor.licence(spec)
    with pytest.raises(UsageError, match="has no setting 'crop'"):
        why("local:/w", checked_out | {"crop": 1})


def test_variface_end_to_end(tiny: Zoo, bound: dict[str, Any], drivers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for person in range(2):
        (folder / f"p{person}").mkdir(parents=True)
        Image.fromarray(drawn_person(person, 0)).save(folder / f"p{person}" / "0.png")
    recipe = yaml.safe_load(packaged_text())["recipes"]["variface"]
    config = short_recipes.write(tmp_path, tiny, recipe["steps"], "faces", "identity", "captioner", reenactor=bound)
    sets = [
        *("gate.resolution.short_side.min=200", "gate.2.clarity.sharpness.min=null", "crop.max_scale=4"),
        *(
            "gate.3.face.face_score.min=0.3",
            "gate.4.face.face_score.min=0.3",
            "gate.4.one_face.faces={min: 1}",
            "crop.size=256",
        ),
        *("describe.min_words=1", "describe.max_tokens=6", f"reenact.drivers={drivers}", "reenact.keep_above=-1"),
    ]
    run = short_recipes.curate(config, tmp_path / "run", folder, *sets)
    rows = short_recipes.rows_of(run, "reenact")
    assert len(rows) == 4 and {row["origin"] for row in rows} == {"reenact"}
    assert all(row["embedding"] and row["reenact_similarity"] > -1 and not set(row) & {SOUGHT.name} for row in rows)
    [note] = run.entry("reenact")["notes"]
    assert note.startswith("33 of 35 expressions and poses have no driver: neutral full_left")
    records = [
        row
        for one in sorted((tmp_path / "run" / "dataset" / "data").glob("*"))
        for row in pq.read_table(one).to_pylist()
    ]
    shown = sorted((row["uri"], row["driver_expression"]) for row in records)
    assert shown == [(f"p{person}/0.png", name) for person in range(2) for name in ("happy", "sad")]
    assert len({(row["uri"], row["identity"]) for row in records}) == 2
    assert all(row["licence"].endswith("reenactor: tiny") for row in records)
    again = short_recipes.curate(config, tmp_path / "run", folder, *sets)
    assert again.entry("reenact")["started"] == run.entry("reenact")["started"]
