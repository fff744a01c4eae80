"""report.html, report.md and the dict behind them."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.evaluate.report import leaderboard, write_pages, write_reports
from idtool.evaluate.report.board import letters, notes
from idtool.evaluate.report.charts import ticks
from idtool.evaluate.report.data import report_data
from idtool.evaluate.report.distributions import read_scores
from idtool.evaluate.report.grids import choose
from idtool.evaluate.report.html import verdicts
from idtool.evaluate.report.markdown import escape
from idtool.evaluate.report.numbers import decimals, interval, number
from idtool.evaluate.report.pareto import Point, front, points
from tests.evaluate.fake_bench import MEANS, METRICS, Made, build

VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = "<script>alert('x')</script> \"quoted\" & | *bold* `code`"


class Page(HTMLParser):
    """Reads a page as a browser would, and fails on tags that are not closed in order, or ids that are there twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        ids = [told["id"] for _, told in self.tags if "id" in told]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("bench"), Made(identities=6, prompts=4))
    write_reports(folder)
    return folder


@pytest.fixture(scope="module")
def page(bench: Path) -> Page:
    return Page((bench / "report.html").read_text("utf-8"))


def rewrite(folder: Path, name: str, change: Any) -> None:
    """Every row of a Parquet file through `change`, in place."""
    path = folder / name
    schema = pq.read_schema(path)
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def remake(folder: Path, **changes: Any) -> dict[str, Any]:
    manifest = json.loads((folder / "bench.json").read_text("utf-8")) | changes
    (folder / "bench.json").write_text(json.dumps(manifest), "utf-8")
    return manifest


def small(folder: Path, **options: Any) -> Path:
    return build(folder, replace(Made(identities=3, prompts=2, no_face={}, rejected={}), **options))


def test_every_method_and_metric_is_there(page: Page) -> None:
    for name in (*MEANS, "absent", "broken", *METRICS):
        assert name in page.text
    for words in ("the profile binds no role expression", "hf:nobody/large is not on this machine", "out of memory"):
        assert words in page.text
    for words in ("research only", "a" * 16, "clip_t ↑", "copy_paste ↓", "Baselines", "in four of five tries"):
        assert words in page.text


def test_page_asks_nothing_of_the_network(bench: Path, page: Page) -> None:
    for tag, told in page.tags:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            value = told.get(key)
            if value is None:
                continue
            local = tag == "a" and value.startswith("methods/")  # the picture itself, beside the page
            assert value.startswith(("#", "data:image/jpeg;base64,")) or local, (tag, key, value)
            assert not local or (bench / value).is_file()
    text = (bench / "report.html").read_text("utf-8")
    assert "@import" not in text and "url(" not in text and "http://" not in text
    assert page.count("script") == 1 and page.count("link") == 0
    policy = next(told["content"] for tag, told in page.tags if told.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'; img-src data:;")


def test_script_is_the_one_that_the_policy_allows(bench: Path) -> None:
    import hashlib

    text = (bench / "report.html").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert script is not None
    assert base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() in text


def test_every_picture_that_is_drawn_is_defined_once(page: Page) -> None:
    used = {told["href"] for tag, told in page.tags if tag == "use"}
    defined = [f"#{told['id']}" for tag, told in page.tags if tag == "symbol"]
    assert used == set(defined) and len(defined) > 20


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    folder = small(tmp_path)
    rewrite(folder, "samples.parquet", lambda row: row.update(prompt=HOSTILE, identity=f"<i>{row['identity']}"))
    manifest = remake(folder)
    manifest["suite"]["summary"] = HOSTILE
    manifest["methods"]["strong"]["summary"] = HOSTILE
    manifest["methods"]["broken"]["why"] = HOSTILE
    manifest["metrics"]["quality"]["paper"] = HOSTILE
    manifest["skipped"] = {"expression": HOSTILE}
    remake(folder, **manifest)
    write_reports(folder)
    text = (folder / "report.html").read_text("utf-8")
    shown = Page(text)
    assert "<script>alert" not in text and shown.count("script") == 1 and shown.count("i") > 0
    assert "<i>person" not in text and "alert('x')" in shown.text
    markdown = (folder / "report.md").read_text("utf-8")
    assert "<script" not in markdown.replace("\\<", "") and "\\<script\\>" in markdown


def test_names_of_methods_are_escaped_too(tmp_path: Path) -> None:
    folder = small(tmp_path, means={"<img src=x>": MEANS["strong"], 'a"b|c': MEANS["weak"]}, images=False)
    write_reports(folder)
    shown = Page((folder / "report.html").read_text("utf-8"))
    assert shown.count("img") == 0 and "<img src=x>" in shown.text and 'a"b|c' in shown.text
    rows = [line for line in (folder / "report.md").read_text("utf-8").splitlines() if line.startswith('| a"')]
    assert rows and all(line.startswith('| a"b\\|c |') for line in rows)


def test_pictures_stay_within_the_budget(bench: Path) -> None:
    whole = (bench / "report.html").read_text("utf-8")
    pictures = re.findall(r'href="(data:[^"]+)"', whole)
    assert sum(map(len, pictures)) < 6_000_000
    budget = 60_000
    write_pages(bench, budget=budget)
    text = (bench / "report.html").read_text("utf-8")
    kept = re.findall(r'href="(data:[^"]+)"', text)
    assert 0 < len(kept) < len(pictures) and sum(map(len, kept)) <= budget
    assert "no room left" in text
    Page(text)
    write_pages(bench)


def test_unfit_pictures_are_blurred(tmp_path: Path) -> None:
    folder = small(tmp_path)
    write_reports(folder)
    assert 'class="frame blurred"' not in (folder / "report.html").read_text("utf-8")
    rewrite(folder, "samples.parquet", lambda row: row.update(nsfw=0.9 if row["method"] == "twin" else 0.0))
    write_pages(folder)
    assert 'class="frame blurred"' in (folder / "report.html").read_text("utf-8")


def test_random_weights_cannot_pass_as_quality(tmp_path: Path) -> None:
    folder = small(tmp_path, images=False)
    write_reports(folder)
    assert "plumbing" not in (folder / "report.html").read_text("utf-8")
    manifest = remake(folder)
    tiny = {"role": "identity", "model": "onnx:tiny", "revision": None, "licence": "random weights", "sha256": None}
    manifest["metrics"]["facesim/arcface-mbf"]["models"] = [tiny]
    remake(folder, **manifest)
    write_pages(folder)
    text = (folder / "report.html").read_text("utf-8")
    assert "Random weights: these numbers are plumbing, not quality." in text and "onnx:tiny" in text
    data = report_data(folder)
    assert data["random_weights"] == ["onnx:tiny"]
    assert [one["metric"] for one in verdicts(data)] == ["clip_t/vit-l-14@raw"]
    markdown = (folder / "report.md").read_text("utf-8")
    assert "Random weights: these numbers are plumbing" in markdown and "(random weights)" in markdown


def test_random_weights_of_a_method_are_told(tmp_path: Path) -> None:
    folder = small(tmp_path, images=False)
    manifest = remake(folder)
    manifest["methods"]["strong"]["models"][0]["licence"] = "Random weights"
    manifest["methods"]["absent"]["models"] = [{"slot": "base", "model": "hf:other", "licence": "random weights"}]
    remake(folder, **manifest)
    write_reports(folder)
    data = report_data(folder)
    assert data["random_weights"] == ["hf:nobody/base", "strong"]
    assert "strong" not in [one["best"] for one in verdicts(data)]


def test_one_method(tmp_path: Path) -> None:
    folder = small(tmp_path, means={"strong": MEANS["strong"]})
    write_reports(folder)
    shown = Page((folder / "report.html").read_text("utf-8"))
    assert "strong" in shown.text and "two methods that have both" in shown.text


def test_baselines_alone_are_not_ranked(tmp_path: Path) -> None:
    folder = small(tmp_path, means={name: MEANS[name] for name in ("copy", "text-only")}, images=False)
    write_reports(folder)
    text = (folder / "report.html").read_text("utf-8")
    assert (
        "Only baselines ran" in Page(text).text and 'class="best"' not in text and verdicts(report_data(folder)) == []
    )
    assert "| **" not in (folder / "report.md").read_text("utf-8")


def test_a_note_is_told_once(bench: Path) -> None:
    rows = {"a": {"note": "few; broken"}, "b": {"note": "few"}}
    data = {
        "scores": {"one": rows, "two": {"a": {"note": "few"}, "b": {"note": "few"}}, "three": {"a": {"note": None}}}
    }
    assert notes(data) == [("few", "one, two"), ("broken (a)", "one")]
    assert ("a number of the whole set has no interval", "kid") in notes(report_data(bench))


def test_nothing_scored(tmp_path: Path) -> None:
    folder = small(tmp_path, images=False)
    for name in ("scores.parquet", "samples.parquet"):
        (folder / name).unlink()
    remake(folder, metrics={}, set_scores={}, skipped={}, methods={})
    paths = write_pages(folder)
    assert "Nothing is scored yet." in Page(paths["report.html"].read_text("utf-8")).text
    assert "Nothing is scored yet." in paths["report.md"].read_text("utf-8")


def test_every_score_missing(tmp_path: Path) -> None:
    folder = small(tmp_path, means={"strong": MEANS["strong"], "weak": MEANS["weak"]}, images=False)
    rewrite(folder, "scores.parquet", lambda row: row.update(value=None, missing="no face in the image"))
    remake(folder, set_scores={})
    write_reports(folder)
    shown = Page((folder / "report.html").read_text("utf-8"))
    assert "no face in the image" in shown.text and "6 missing" in shown.text
    assert report_data(folder)["scores"]["quality"]["weak"]["mean"] is None


def test_thirty_methods(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    means = {f"method-{k:02d}": {name: float(rng.uniform(0.2, 0.8)) for name in METRICS} for k in range(30)}
    folder = small(tmp_path, means=means)
    rewrite(folder, "scores.parquet", lambda row: row.update(slices="{}"))
    write_reports(folder)
    path = folder / "report.html"
    shown = Page(path.read_text("utf-8"))
    assert all(name in shown.text for name in means)
    labels = [told for tag, told in shown.tags if tag == "text" and str(told.get("class")).startswith("name")]
    assert len(labels) == 30
    assert path.stat().st_size < 9_000_000


def test_profile_without_a_prompt_metric_says_so(tmp_path: Path) -> None:
    folder = small(tmp_path, images=False)
    manifest = remake(folder)
    del manifest["metrics"]["clip_t/vit-l-14@raw"]
    remake(folder, **manifest)
    write_reports(folder)
    data = report_data(folder)
    assert data["primary"] == {"identity": "facesim/arcface-mbf"} and data["against"] == "copy_paste/arcface-mbf"
    assert "no metric of prompt following" in Page((folder / "report.html").read_text("utf-8")).text


def test_order_and_marks(bench: Path) -> None:
    data = report_data(bench)
    names = [one["name"] for one in data["methods"]]
    assert names[-2:] == ["copy", "text-only"] and set(names[:3]) == {"strong", "weak", "twin"}
    assert data["metrics"][0]["name"] == "facesim/arcface-mbf"
    assert data["headline"][:3] == ["facesim/arcface-mbf", "facesim/edgeface-s", "clip_t/vit-l-14@raw"]
    row = data["scores"]["facesim/arcface-mbf"]["strong"]
    assert row["conditions_on_same"] and row["rank"] == 1
    shown = Page((bench / "report.html").read_text("utf-8")).text
    lost = data["scores"]["facesim/arcface-mbf"]["weak"]["n_missing"]
    assert lost > 2 and f"{lost} missing" in shown and f"{number(row['mean'], 3)} b †" in shown
    assert json.loads(json.dumps(data)) == data


def test_leaderboard_follows_the_report(bench: Path) -> None:
    found = leaderboard(bench)
    data = report_data(bench)
    assert list(found) == [one["name"] for one in data["metrics"]]
    assert found["quality"]["strong"]["mean"] == data["scores"]["quality"]["strong"]["mean"]
    assert found["kid"]["copy"]["ci_low"] is None


def test_markdown_tables_have_as_many_cells_as_heads(bench: Path) -> None:
    width = None
    for line in (bench / "report.md").read_text("utf-8").splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        if not cells:
            width = None
        elif width is None:
            width = cells
        assert not cells or cells == width, line


def test_requests_are_chosen_by_the_seed_and_spread() -> None:
    requests = {f"{who}{what}": (who, what) for who in "abcd" for what in "12345678"}
    chosen = choose(requests, 4, seed=1)
    assert chosen == choose(dict(reversed(requests.items())), 4, seed=1)
    assert len({requests[key][0] for key in chosen}) == len({requests[key][1] for key in chosen}) == 4
    assert chosen != choose(requests, 4, seed=2)
    assert len(choose(requests, 100, seed=1)) == 32 and choose({}, 3, seed=0) == []


def test_histograms_count_every_score(bench: Path) -> None:
    scores = read_scores(bench / "scores.parquet")
    table = pq.read_table(bench / "scores.parquet").to_pandas().dropna(subset=["value"])
    for (metric, method), part in table.groupby(["metric", "method"]):
        one = scores.distributions[metric]
        expected, _ = np.histogram(part["value"], one.edges)
        assert np.array_equal(one.counts[method], expected)
    part = table[(table["metric"] == "quality") & (table["method"] == "weak")].sort_values("value")
    assert [case.value for case in scores.lowest["quality", "weak"]][:3] == part["value"].tolist()[:3]
    assert [case.value for case in scores.highest["quality", "weak"]][:3] == part["value"].tolist()[:-4:-1]
    assert ("diversity/arcface-mbf", "weak") not in scores.lowest


def test_front_is_what_nobody_beats(bench: Path) -> None:
    def at(name: str, x: float, y: float, baseline: bool = False) -> Point:
        return Point(name, baseline, {"mean": x}, {"mean": y})

    found = [at("a", 1, 3), at("b", 2, 2), at("c", 3, 1), at("d", 1, 2), at("e", 9, 9, True)]
    assert [point.name for point in front(found, ("higher", "higher"))] == ["a", "b", "c"]
    assert [point.name for point in front(found, ("lower", "higher"))] == ["a"]
    assert [point.name for point in front(found, ("higher", "lower"))] == ["c"]
    assert len(points(report_data(bench), "facesim/arcface-mbf", "clip_t/vit-l-14@raw")) == 5


def test_numbers_as_text() -> None:
    cell = {"mean": 0.5, "ci_low": 0.48, "ci_high": 0.52}
    assert decimals([cell]) == 3 and interval(cell, 2) == "0.48–0.52"
    assert decimals([{"mean": 12.0, "ci_low": None, "ci_high": None}]) == 1
    assert interval({"ci_low": -0.1, "ci_high": 0.2}, 1) == "\u22120.1 to 0.2"
    assert number(-0.04, 1) == "0.0" and number(-0.06, 1) == "\u22120.1" and number(None) == "–"
    assert number(12345) == "12\u2009345"
    assert letters("abc") == "abc" and letters("abcde") == "a–e" and letters("acdefg") == "ac–g"
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and ticks(3, 3) == [3]
    assert escape("a|b_c\nd") == "a\\|b\\_c d"
