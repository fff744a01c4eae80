"""Nights of a benchmark that needs no network: published, judged, killed, finished, thrown away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from idtool.cli import app
from idtool.evaluate.nightly.store import FILES
from idtool.evaluate.report.trend import trend
from idtool.manifest_folder import lock_folder
from tests.conftest import REPO
from tests.generate.runners import FOLDER, bare_pipelines

FIRST, SECOND, THIRD, FOURTH = (f"2026-03-0{day}" for day in range(1, 5))
SUITE = """\
name: tiny
summary: drawn pictures, which nobody looks for a face in
subjects: any
prompts: [a photo, a painting]
metrics: [sharpness, seconds]
primary: {identity: sharpness, prompt: sharpness}
baselines: [copy]
real: null
"""
RULES = [{"metric": "sharpness", "method": "*", "max_drop": 0.01, "n": 12}]


@dataclass
class Place:
    """A folder with a job, and what it needs."""

    folder: Path
    people: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "tiny.yaml").write_text(SUITE)
        self.rules(RULES)
        self.methods()
        self.job()

    def job(self, **changes: Any) -> None:
        told = {
            "version": 1,
            "store": "store",
            "work": "work",
            "suite": "tiny.yaml",
            "identities": str(self.people),
            "methods": ["mine"],
            "profile": "bare",
            "engine": "local",
            "workers": 1,
            "regression": "rules.yaml",
            "expect": {"methods": ["copy", "mine"], "requests": 12, "metrics": ["sharpness"]},
        }
        (self.folder / "nightly.yaml").write_text(yaml.safe_dump({**told, **changes}))

    def rules(self, rules: list[dict[str, Any]]) -> None:
        (self.folder / "rules.yaml").write_text(yaml.safe_dump({"version": 1, "rules": rules}))

    def methods(self, size: int = 64, **others: dict[str, Any]) -> None:
        """The method that is benchmarked, as good as its pictures are small."""
        mine = {"kind": "copy", "settings": {"width": size, "height": size}}
        bare_pipelines(self.folder / "pipelines.yaml", copy={"kind": "copy"}, mine=mine, **others)

    def command(self, date: str) -> list[str]:
        job, config = (str(self.folder / name) for name in ("nightly.yaml", "pipelines.yaml"))
        return ["nightly", job, "--config", config, "--date", date, "--json"]

    def run(self, date: str) -> Result:
        result = CliRunner().invoke(app, self.command(date))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    def night(self, date: str, code: int = 0) -> dict[str, Any]:
        """Run a night that must end with `code`; its summary."""
        result = self.run(date)
        assert result.exit_code == code, result.output
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    def published(self, date: str) -> Path:
        return self.folder / "store" / "suite=tiny" / f"date={date}"

    def status(self, date: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.published(date) / "status.json").read_text())
        return told

    @property
    def dates(self) -> list[str]:
        """Nights that are in the store."""
        return sorted(path.parent.name[5:] for path in self.folder.glob("store/suite=tiny/date=*/status.json"))

    @property
    def worked_on(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("work/tiny/2*"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    draw = np.random.default_rng(0)
    for name in ("ann", "bob", "cem", "dan", "eva", "fay"):
        (folder / name).mkdir()
        small = draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(folder / name / "ref.png")
    return folder


@pytest.fixture
def empty(people: Path, tmp_path: Path) -> Place:
    return Place(tmp_path / "place", people)


@pytest.fixture(scope="module")
def two(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, list[dict[str, Any]]]:
    """Two good nights and what they said. Not to be changed."""
    place = Place(tmp_path_factory.mktemp("two") / "place", people)
    return place, [place.night(day) for day in (FIRST, SECOND)]


@pytest.fixture
def place(two: tuple[Place, Any], people: Path, tmp_path: Path) -> Place:
    """A copy of the two nights, to go on with."""
    folder = tmp_path / "[place]"  # brackets mean something to globs
    shutil.copytree(two[0].folder, folder)
    return Place(folder, people)


def test_two_good_nights(two: tuple[Place, list[dict[str, Any]]]) -> None:
    place, (first, second) = two
    assert first["good"] and second["good"] and second["troubles"] == []
    assert first["compared"] == {}
    assert second["compared"]["previous"]["with"] == FIRST
    assert second["compared"]["previous"]["violations"] == []
    assert first["series"] == second["series"]
    assert second["store"].endswith(f"store/suite=tiny/date={SECOND}")
    assert {name: entry["made"] for name, entry in second["methods"].items()} == {"copy": 12, "mine": 12}
    assert second["leaderboard"]["sharpness"]["mine"]["n"] == 12
    assert place.dates == [FIRST, SECOND] == place.worked_on
    assert not (place.folder / "store" / "suite=tiny" / "lock.json").exists()
    assert not list(place.folder.glob("work/tiny/.compare-*"))


def test_a_partition_has_every_file_and_its_status_was_written_last(two: tuple[Place, Any]) -> None:
    folder = two[0].published(SECOND)
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(files) == {*FILES, "status.json"}
    assert max(files, key=lambda name: files[name]) == "status.json"
    status = two[0].status(SECOND)
    assert status["good"] and status["exit_code"] == 0
    assert status["job"]["methods"] == ["mine"]


@pytest.mark.parametrize("table", ["scores", "samples", "report", "pairs"])
def test_partitions_are_read_as_one_data_set(two: tuple[Place, Any], table: str) -> None:
    files = sorted(map(str, two[0].folder.glob(f"store/suite=*/date=*/{table}.parquet")))
    keys = ds.partitioning(pa.schema([("suite", pa.string()), ("date", pa.string())]), flavor="hive")
    found = ds.dataset(files, partitioning=keys).to_table()
    assert set(found["date"].to_pylist()) == {FIRST, SECOND}
    assert set(found["suite"].to_pylist()) == {"tiny"}
    one = ds.dataset(files, partitioning=keys).to_table(filter=ds.field("date") == SECOND)
    assert 2 * one.num_rows == found.num_rows > 0


def test_the_history_reads_the_store(two: tuple[Place, Any]) -> None:
    found = trend(str(two[0].folder / "store"), metrics=["sharpness"], methods=["mine"])
    assert [(row["date"], row["good"], row["segment"]) for row in found.rows] == [(FIRST, True, 0), (SECOND, True, 0)]
    assert found.rows[0]["mean"] == found.rows[1]["mean"]


def test_the_store_may_be_any_file_system(empty: Place) -> None:
    url = f"memory://{empty.folder.parent.name}"
    empty.job(store=url)
    empty.night(FIRST)
    told = empty.night(SECOND)
    assert told["store"] == f"{url}/suite=tiny/date={SECOND}"
    assert told["compared"]["previous"]["with"] == FIRST
    assert {row["date"] for row in trend(url).rows} == {FIRST, SECOND}


def test_a_regression_is_seen_and_the_next_night_is_compared_with_the_last_good_one(place: Place) -> None:
    place.job(baseline=FIRST)
    place.methods(size=16)
    bad = place.night(THIRD, 3)
    assert not bad["good"] and bad["exit_code"] == 3
    # One for each that it was compared with; `copy` is what it was.
    assert [text.partition(":")[0] for text in bad["troubles"]] == [
        f"Against the previous ({SECOND})",
        f"Against the baseline ({FIRST})",
    ]
    assert all("mine, sharpness, all" in text and "more than 0.01" in text for text in bad["troubles"])
    [change] = [one for one in bad["compared"]["previous"]["changes"] if one["metric"] == "sharpness"]
    assert (change["method"], change["verdict"]) == ("mine", "changed")
    assert place.dates == [FIRST, SECOND, THIRD] and not place.status(THIRD)["good"]
    place.methods()
    good = place.night(FOURTH)
    assert good["compared"]["previous"]["with"] == SECOND and good["troubles"] == []


def test_the_same_night_again_makes_nothing_again(place: Place) -> None:
    files = [path for path in place.folder.glob(f"work/tiny/{SECOND}/*/**/*") if path.suffix in (".png", ".parquet")]
    tables = [path for path in files if "features" in path.parts or "media" in path.parts]
    before = {path: path.stat().st_mtime_ns for path in tables}
    assert len(before) > 24
    again = place.night(SECOND)
    assert again["compared"]["previous"]["with"] == FIRST
    assert {path: path.stat().st_mtime_ns for path in tables} == before
    assert place.dates == [FIRST, SECOND]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_night_that_broke_off_is_finished_first(place: Place, how: signal.Signals) -> None:
    calls = place.folder / "calls"
    place.job(notify={"command": ["sh", "-c", f"cat >> '{calls}'; echo >> '{calls}'"]})
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-m", "idtool", "--quiet", *place.command(THIRD)],
        cwd=place.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    # In the middle: some requests have their image, and nothing is scored.
    while not list(place.folder.glob(f"work/tiny/{THIRD}/methods/copy/media/*/*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=60)
    lock = place.folder / "store" / "suite=tiny" / "lock.json"
    assert not (place.folder / f"work/tiny/{THIRD}/scores.parquet").exists()
    assert place.dates == [FIRST, SECOND] and not calls.exists()
    if how == signal.SIGTERM:
        assert process.returncode == 130 and "Go on with" in said and not lock.exists()
    else:
        assert process.returncode == -signal.SIGKILL and lock.exists()

    result = place.run(FOURTH)
    assert result.exit_code == 0 and f"the night of {THIRD} broke off" in result.stderr
    assert place.dates == [FIRST, SECOND, THIRD, FOURTH] and not lock.exists()
    assert place.status(THIRD)["compared"]["previous"]["with"] == SECOND
    assert place.status(FOURTH)["compared"]["previous"]["with"] == THIRD
    told = [json.loads(line) for line in calls.read_text().splitlines() if line]
    assert [(one["date"], one["good"]) for one in told] == [(THIRD, True), (FOURTH, True)]
    assert place.worked_on == [THIRD, FOURTH]  # of two finished nights


def test_a_broken_night_that_cannot_be_finished_holds_nothing_up_and_is_given_up(place: Place) -> None:
    for day in ("2026-02-20", "2026-03-02"):
        shutil.copytree(place.folder / "work" / "tiny" / FIRST, place.folder / "work" / "tiny" / "copied")
        folder = (place.folder / "work" / "tiny" / "copied").rename(place.folder / "work" / "tiny" / f"{day}.new")
        (folder / "night.json").unlink()
        manifest = json.loads((folder / "bench.json").read_text())
        (folder / "bench.json").write_text(json.dumps({**manifest, "seed": 5}))
        shutil.rmtree(place.folder / "work" / "tiny" / day, ignore_errors=True)
        folder.rename(place.folder / "work" / "tiny" / day)
    result = place.run(THIRD)
    assert result.exit_code == 0
    assert f"the night of {SECOND}: " in result.stderr and "another seed" in result.stderr
    assert "the night of 2026-02-20 was never finished: given up after 7 days" in result.stderr
    assert place.worked_on == [FIRST, SECOND, THIRD]
    assert (place.folder / "work" / "tiny" / SECOND / "bench.json").exists()  # tried again tomorrow


def test_a_method_that_fails_is_a_trouble_of_a_complete_night(place: Place) -> None:
    ending = {"kind": "command", "settings": {"python": sys.executable, "script": str(FOLDER / "faulty.py")}}
    ending["settings"] |= {"args": ["exit"], "restarts": 0, "width": 32, "height": 24}
    place.methods(ending=ending)
    place.job(methods=["mine", "ending"])
    told = place.night(THIRD, 3)
    [trouble] = told["troubles"]
    assert trouble.startswith("method ending failed: ")
    assert told["methods"]["mine"]["state"] == "scored" and told["methods"]["ending"]["state"] == "failed"
    assert place.dates == [FIRST, SECOND, THIRD]


def test_floors_and_counts_hold_without_a_night_before(empty: Place) -> None:
    empty.rules([{"metric": "sharpness", "method": "mine", "min": 1000.0}, {"metric": "sharpness", "n": 11}])
    expect = {"methods": ["copy", "mine", "theirs"], "requests": 7, "metrics": ["sharpness", "facesim"]}
    empty.job(expect=expect)
    told = empty.night(FIRST, 3)
    assert told["compared"] == {}
    assert [text.split(" is ")[0] if "below" in text else text for text in told["troubles"]] == [
        "method theirs is not part of the benchmark.",
        "12 requests per method instead of 7.",
        "metric facesim was not made: not asked for.",
        "mine, sharpness, all:",
        "copy, sharpness, all: has 12 scored samples, not 11.",
        "mine, sharpness, all: has 12 scored samples, not 11.",
    ]


def test_only_one_night_at_a_time_on_a_machine(place: Place) -> None:
    handle = lock_folder(place.folder / "work" / "tiny")
    try:
        result = place.run(THIRD)
    finally:
        os.close(handle)
    assert result.exit_code == 2
    assert "is in use by process" in result.stderr and "still running" in result.stderr
    assert json.loads(result.stdout)["failed"]
    assert place.dates == [FIRST, SECOND]


def test_the_last_good_night_and_the_baseline_are_never_thrown_away(place: Place) -> None:
    keep = {"days": 5, "work": 1}
    place.job(baseline=FIRST, keep=keep, expect={"requests": 1})
    place.night("2026-03-20", 3)
    assert place.dates == [FIRST, SECOND, "2026-03-20"]
    place.job(baseline=FIRST, keep=keep)
    place.night("2026-03-21")
    assert place.dates == [FIRST, "2026-03-20", "2026-03-21"]
    assert place.worked_on == ["2026-03-21"]
    assert (place.folder / "store" / "suite=tiny").is_dir()


@pytest.mark.parametrize(
    ("changes", "rules", "said"),
    [
        ({"baseline": "2026-02-02"}, RULES, "The baseline 2026-02-02 is neither a night of the store nor"),
        ({"baseline": "elsewhere"}, RULES, "elsewhere is neither a night of the store nor"),
        ({}, [{"metric": "sharpness", "max_dorp": 1}], "rules.yaml:2: rules[0]: unknown key 'max_dorp'"),
        ({"suite": "toony.yaml"}, RULES, "Cannot read"),
        ({"store": "s4://bucket"}, RULES, "Cannot open the store s4://bucket"),
    ],
)
def test_mistakes_show_before_anything_runs(
    empty: Place, changes: Mapping[str, Any], rules: list[dict[str, Any]], said: str
) -> None:
    empty.rules(rules)
    told = empty.folder / "told"
    empty.job(**changes, notify={"command": ["sh", "-c", f"cat > {told}"]})
    result = empty.run(FIRST)
    assert result.exit_code == 2 and said in result.stderr
    assert not empty.worked_on and not empty.dates
    summary = json.loads(told.read_text())
    assert summary["exit_code"] == 2 and not summary["good"] and said in summary["failed"]


def test_a_store_that_cannot_be_reached_ends_the_night_with_code_4(empty: Place) -> None:
    blocked = empty.folder / "file"
    blocked.write_text("")
    empty.job(store=str(blocked))
    result = empty.run(FIRST)
    assert result.exit_code == 4 and f"Cannot write to the store {blocked}" in result.stderr


def test_a_date_must_be_one(empty: Place) -> None:
    result = empty.run("2026-13-01")
    assert result.exit_code == 2 and "--date 2026-13-01 is no date" in result.stderr
