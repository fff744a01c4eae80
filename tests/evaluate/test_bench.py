"""`idtool bench`, `evaluate`, `compare` and `report` from end to end, on two people and the offline networks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from idtool.cli import app
from tests.generate.runners import FOLDER, bare_pipelines

pytestmark = [pytest.mark.offline_weights, pytest.mark.fixtures]

PEOPLE = {"ann": "cb_id0/00_celebbasis.jpg", "bob": "hinton/00_face-adapter.jpg"}
SUITE = """\
name: tiny
summary: two people in two prompts
identities: {source: null}
prompts:
  - {category: Plain, text: a photo of a person}
  - {category: Style, text: a watercolour painting of a person}
size: {width: 256, height: 256}
metrics: [facesim0, face_found, copy_paste_framing]
primary: {identity: facesim0, prompt: copy_paste_framing}
baselines: [copy, other-identity]
"""
ENDING = {"python": sys.executable, "script": str(FOLDER / "faulty.py"), "args": ["exit"], "restarts": 0}
METHODS = {
    "copy": {"kind": "copy"},
    "other-identity": {"kind": "other-identity"},
    "text-only": {"kind": "text-only"},
    "ending": {"kind": "command", "settings": {**ENDING, "width": 32, "height": 32}},
}
FACES = ("facesim0/arcface-mbf", "facesim0/edgeface-s")


@dataclass(frozen=True)
class Place:
    """Pictures of two people, a suite, and methods of which one ends with an error and one lacks its model."""

    folder: Path

    def __call__(self, *args: str) -> Result:
        result = CliRunner().invoke(app, ["--quiet", *args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    def bench(self, output: str, *args: str, suite: str = "tiny.yaml") -> Result:
        given = ["--suite", str(self.folder / suite), "--identities", str(self.folder / "people")]
        given += ["--config", str(self.folder / "pipelines.yaml"), "--output", str(self.folder / output)]
        return self("bench", *given, "--profile", "offline", "--engine", "local", "--workers", "1", "--json", *args)

    def evaluate(self, output: str, *args: str) -> Result:
        given = ["--output", str(self.folder / output), "--profile", "offline", "--engine", "local", "--workers", "1"]
        return self("evaluate", *args, *given, "--json")


@pytest.fixture(scope="module")
def place(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("bench")
    for name, source in PEOPLE.items():
        (folder / "people" / name).mkdir(parents=True)
        shutil.copyfile(fixtures / "identities" / source, folder / "people" / name / "ref.jpg")
    (folder / "tiny.yaml").write_text(SUITE)
    bare_pipelines(folder / "pipelines.yaml", **METHODS)
    return Place(folder)


@pytest.fixture(scope="module")
def done(place: Place) -> tuple[Path, dict[str, Any]]:
    """The benchmark of every method, and its summary. Tests that change it take a copy."""
    result = place.bench("all", "--method", "all")
    assert result.exit_code == 0, result.output
    return place.folder / "all", json.loads(result.stdout)


@pytest.fixture
def again(done: tuple[Path, Any], tmp_path: Path) -> Path:
    return shutil.copytree(done[0], tmp_path / "again")


def times(folder: Path, *below: str) -> dict[str, int]:
    """When the files below some folders of a benchmark were written: all but what lists the rows of a run, and logs."""
    files: Iterable[Path] = (path for one in below for path in (folder / one).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in files
        if path.suffix in (".png", ".parquet", ".json")
        and path.name not in ("run.json", "log.jsonl")
        and not {"00-requests", "rows"} & set(path.parts)
    }


def scores(folder: Path, metric: str) -> dict[str, list[float]]:
    """Method -> values, by sample."""
    found: dict[str, list[float]] = {}
    for row in sorted(pq.read_table(folder / "scores.parquet").to_pylist(), key=lambda row: str(row["sample"])):
        if row["metric"] == metric:
            found.setdefault(row["method"], []).append(row["value"])
    return found


def test_methods_are_scored_and_what_failed_or_cannot_run_is_told(done: tuple[Path, Mapping[str, Any]]) -> None:
    folder, told = done
    states = {name: entry["state"] for name, entry in told["methods"].items()}
    assert states == {"copy": "scored", "other-identity": "scored", "text-only": "cannot", "ending": "failed"}
    assert "t2i" in told["methods"]["text-only"]["why"]
    assert "faulty.py" in told["methods"]["ending"]["why"] or "ended" in told["methods"]["ending"]["why"]
    assert (told["requests"], told["identities"], told["methods"]["copy"]["made"]) == (4, 2, 4)
    manifest = json.loads((folder / "bench.json").read_text())
    assert manifest["methods"]["ending"]["state"] == "failed"
    assert set(manifest["metrics"]) == {*FACES, "face_found", "copy_paste_framing"}
    for text in ((folder / "report.html").read_text(), (folder / "report.md").read_text()):
        assert "ending" in text and "text-only" in text
    assert all(Path(path).is_file() for path in told["files"].values())


def test_the_baselines_score_what_they_must(done: tuple[Path, Mapping[str, Any]]) -> None:
    folder, told = done
    for metric in FACES:
        values = scores(folder, metric)
        assert min(values["copy"]) > 0.9 and max(abs(value) for value in values["other-identity"]) < 0.3
        assert told["leaderboard"][metric]["copy"]["n"] == 4
    assert scores(folder, "face_found") == {"copy": [1.0] * 4, "other-identity": [1.0] * 4}
    assert min(scores(folder, "copy_paste_framing")["copy"]) > 0.99


def test_samples_are_the_same_requests_for_every_method(done: tuple[Path, Any]) -> None:
    rows = pq.read_table(done[0] / "samples.parquet").to_pylist()
    ids = {method: [row["id"] for row in rows if row["method"] == method] for method in ("copy", "other-identity")}
    assert ids["copy"] == ids["other-identity"] and len(set(ids["copy"])) == 4
    assert {json.loads(row["slices"])["category"] for row in rows} == {"Plain", "Style"}
    assert all((done[0] / row["media"]).is_file() for row in rows)


def test_the_same_command_again_makes_and_looks_at_nothing(place: Place, done: tuple[Path, Any]) -> None:
    before = times(done[0], "methods/copy", "methods/other-identity", "scores/copy/features", "references")
    assert sum("/media/" in name for name in before) and sum("/features/" in name for name in before) == 6
    result = place.bench("all", "--methods", "copy")
    assert result.exit_code == 0, result.output
    after = times(done[0], "methods/copy", "methods/other-identity", "scores/copy/features", "references")
    assert after == before


def test_one_more_metric_touches_only_what_it_needs(place: Place, again: Path) -> None:
    below = ("methods/copy", "scores/copy/features", "scores/other-identity/features")
    before = times(again, *below)
    named = "facesim0,face_found,copy_paste_framing,sharpness"
    result = place.bench(str(again), "--methods", "copy", "--score-only", "--metrics", named)
    assert result.exit_code == 0, result.output
    after = times(again, *below)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[3] for name in after if name not in before} == {"pixels"}
    assert len(scores(again, "sharpness")["copy"]) == 4
    assert scores(again, FACES[0])["copy"]  # still there


def test_nothing_can_be_scored_where_nothing_was_generated(place: Place) -> None:
    result = place.bench("never", "--methods", "copy", "--score-only")
    assert result.exit_code == 1 and "nothing was generated: run without --score-only" in result.stderr
    assert json.loads(result.stdout)["leaderboard"] == {}
    assert not (place.folder / "never" / "methods").exists()


def test_a_method_that_was_named_and_fails_ends_with_code_1_and_the_others_scored(place: Place, again: Path) -> None:
    result = place.bench(str(again), "--methods", "ending")
    assert result.exit_code == 1 and "ending failed: " in result.stderr
    told = json.loads(result.stdout)
    assert "ending failed" in told["error"]
    assert {name: entry["state"] for name, entry in told["methods"].items()} == {
        "copy": "scored", "other-identity": "scored", "ending": "failed",
    }  # fmt: skip
    assert told["leaderboard"][FACES[0]]["copy"]["mean"] > 0.9


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--methods", "copi"], "Did you mean 'copy'?"),
        (["--methods", "text-only"], "Method 'text-only' cannot run here: "),
        (["--metrics", "facesmi"], "Did you mean 'facesim'?"),
        (["--methods", "copy", "--seed", "1"], "holds a benchmark of another seed (0, not 1)"),
        (["--methods", "copy", "--limit", "1"], "holds a benchmark of another suite"),
        (["--methods", "copy", "--suite", "other.yaml"], "Cannot read other.yaml"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(place: Place, done: Any, args: list[str], said: str) -> None:
    before = (done[0] / "bench.json").read_bytes()
    result = place.bench("all", *args)
    assert result.exit_code == 2 and said in result.stderr
    assert (done[0] / "bench.json").read_bytes() == before


def test_a_benchmark_of_another_suite_is_not_mixed_in(place: Place, done: tuple[Path, Any]) -> None:
    (place.folder / "other.yaml").write_text(SUITE.replace("a photo of", "a drawing of"))
    result = place.bench("all", "--methods", "copy", suite="other.yaml")
    assert result.exit_code == 2 and "another suite" in result.stderr and "another --output" in result.stderr
    (place.folder / "photos").mkdir()
    (place.folder / "photos" / "holiday.txt").write_text("not a benchmark")
    result = place.bench("photos", "--methods", "copy")
    assert result.exit_code == 2 and "'holiday.txt'" in result.stderr


def test_references_that_do_not_fit_are_refused_or_left_out(place: Place, fixtures: Path, tmp_path: Path) -> None:
    people = shutil.copytree(place.folder / "people", tmp_path / "people")
    (people / "rex").mkdir()
    shutil.copyfile(fixtures / "hard" / "dog.jpg", people / "rex" / "ref.jpg")
    args = ["--identities", str(people), "--methods", "copy", "--metrics", "face_found"]
    result = place.bench(str(tmp_path / "bench"), *args)
    assert result.exit_code == 2 and "dog.jpg" not in result.stderr
    assert "rex/ref.jpg shows no face" in result.stderr and "--skip-bad-references" in result.stderr
    result = place.bench(str(tmp_path / "bench"), *args, "--skip-bad-references")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["identities"] == 2 and told["methods"]["copy"]["made"] == 4
    assert "left out" in result.stderr


# -- images that are there already ----------------------------------------------------------------------------------


def test_folders_of_images_are_scored_against_references(place: Place, fixtures: Path, tmp_path: Path) -> None:
    for name, sources in {"mine": ("cb_id0/01_celebbasis.jpg", "hinton/01_pulid.jpeg"), "swapped": PEOPLE}.items():
        (tmp_path / name).mkdir()
        chosen = sources if name == "mine" else reversed(PEOPLE.values())
        for label, source in zip(PEOPLE, chosen, strict=True):
            shutil.copyfile(fixtures / "identities" / source, tmp_path / name / f"{label}_1.jpg")
    (tmp_path / "prompts.csv").write_text("image,prompt\nann_1.jpg,a portrait\nbob_1.jpg,a smile\n")
    images = ["--images", str(tmp_path / "mine"), "--images", f"theirs={tmp_path / 'swapped'}"]
    rest = ["--refs", str(place.folder / "people"), "--prompts", str(tmp_path / "prompts.csv")]
    result = place.evaluate(str(tmp_path / "out"), *images, *rest, "--metrics", "facesim0,face_found")
    assert result.exit_code == 0, result.output
    found = scores(tmp_path / "out", FACES[0])
    assert min(found["mine"]) > 0.35 and max(found["theirs"]) < 0.3
    rows = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert sorted(row["prompt"] for row in rows) == ["a portrait"] * 2 + ["a smile"] * 2
    assert {row["identity"] for row in rows} == {"ann", "bob"}
    assert json.loads(result.stdout)["leaderboard"]["face_found"]["mine"]["mean"] == 1.0

    shutil.copyfile(tmp_path / "mine" / "ann_1.jpg", tmp_path / "mine" / "nobody.jpg")
    result = place.evaluate(str(tmp_path / "more"), "--images", str(tmp_path / "mine"), *rest[:2])
    assert result.exit_code == 2 and "No reference belongs to nobody.jpg" in result.stderr


def test_a_table_of_images_is_scored(place: Place, fixtures: Path, tmp_path: Path) -> None:
    refs = {label: place.folder / "people" / label / "ref.jpg" for label in PEOPLE}
    lines = [f"{fixtures}/identities/cb_id0/01_celebbasis.jpg,{refs['ann']},ann,a portrait,old"]
    lines += [f"{fixtures}/hard/dog.jpg,{refs['bob']},bob,a dog,new"]
    (tmp_path / "images.csv").write_text("\n".join(["image,reference,identity,prompt,style", *lines]))
    result = place.evaluate("table", "--images", str(tmp_path / "images.csv"), "--metrics", "facesim,face_found")
    assert result.exit_code == 0, result.output
    table = pq.read_table(place.folder / "table" / "scores.parquet").to_pylist()
    rows = {(row["metric"], row["identity"]): row for row in table}
    assert rows["facesim/arcface-mbf", "ann"]["value"] > 0.35
    missing = rows["facesim/arcface-mbf", "bob"]
    assert missing["value"] is None and "face" in missing["missing"]
    assert rows["face_found", "bob"]["value"] == 0.0
    assert json.loads(missing["slices"]) == {"style": "new"}


def test_images_that_cannot_be_told_apart_or_scored_are_refused(place: Place, tmp_path: Path) -> None:
    people = str(place.folder / "people")
    result = place.evaluate(str(tmp_path / "a"), "--images", people, "--images", people)
    assert result.exit_code == 2 and "Two --images are called 'people'" in result.stderr
    result = place.evaluate(str(tmp_path / "b"), "--images", people, "--metrics", "clip_t")
    assert result.exit_code == 2 and "clip_t: needs role clip" in result.stderr
    result = place.evaluate(str(tmp_path / "c"), "--images", str(tmp_path / "nowhere"))
    assert result.exit_code == 2 and "does not exist" in result.stderr
    assert not list(tmp_path.iterdir())


# -- what comes of them -----------------------------------------------------------------------------------------------


def test_compare_ends_with_0_2_or_3(place: Place, done: tuple[Path, Any], tmp_path: Path) -> None:
    one = str(done[0])
    rules = tmp_path / "rules.yaml"
    rules.write_text('version: 1\nrules:\n  - {metric: "facesim0/*", max_drop: 0, n: 4}\n')
    result = place("compare", one, one, "--fail-on", str(rules), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["violations"] == [] and told["differences"]
    assert {row["difference"] for row in told["differences"] if row["metric"] in FACES} == {0.0}

    rules.write_text("version: 1\nrules:\n  - {metric: facesim0/arcface-mbf, method: other-identity, min: 0.5}\n")
    result = place("compare", one, one, "--fail-on", str(rules), "--json")
    assert result.exit_code == 3 and "other-identity, facesim0/arcface-mbf, all: is " in result.stderr
    [broken] = json.loads(result.stdout)["violations"]
    assert (broken["limit"], broken["method"], broken["allowed"]) == ("min", "other-identity", 0.5)

    other = shutil.copytree(done[0], tmp_path / "other")
    table = pq.read_table(other / "report.parquet")
    column = table.schema.get_field_index("suite_hash")
    changed = table.set_column(column, table.schema.field(column), [["another"] * table.num_rows])
    pq.write_table(changed, other / "report.parquet")
    result = place("compare", one, str(other))
    assert result.exit_code == 2 and "cannot be compared" in result.stderr
    assert place("compare", one, str(other), "--force").exit_code == 0
    assert place("compare", one, str(tmp_path)).exit_code == 2


def test_report_writes_the_pages_again(place: Place, again: Path) -> None:
    kept = {name: (again / name).read_bytes() for name in ("report.parquet", "report.md", "scores.parquet")}
    for name in ("report.html", "report.md", "report.parquet"):
        (again / name).unlink()
    result = place("report", str(again), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["report.html"] == str(again / "report.html")
    assert "<html" in (again / "report.html").read_text()[:200]
    assert {name: (again / name).read_bytes() for name in kept} == kept
    assert place("report", str(place.folder)).exit_code == 2
