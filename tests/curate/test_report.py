"""The report: its figures against a recount, its sections, and that it asks nothing of the network."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from idtool.curate import charts, gallery
from idtool.curate.gate import Bound
from idtool.curate.histograms import histogram, limits
from idtool.curate.report import code, write_report
from idtool.curate.report_data import in_words, report_data, sentence
from idtool.run import Run
from tests.curate import fake_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks nesting, and collects ids, targets and pictures."""

    VOID = frozenset({"meta", "img", "input", "br", "rect", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if "href" in found else []
        self.pictures += [found] if tag == "img" else []
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, self.getpos()


def test_the_page_is_well_formed_and_its_links_lead_somewhere(html):
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1


def test_every_section_is_there(html):
    for name in ("skipped", "funnel", "pairs", "reasons", "measures", "people", "rejects", "timing", "models", "again"):
        assert f'id="{name}"' in html
    for words in (
        "22 pairs of 6 people from 28 inputs",
        "needs role i2v",
        "no CUDA device here",
        "drawn-faces",
        "ababababab",
    ):
        assert words in html


def test_nothing_is_asked_of_the_network(html):
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", html)
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert "<link" not in html


def test_pictures_are_inline_and_described_and_the_file_is_small(html):
    page = Page(html)
    assert len(page.pictures) > 40
    for picture in page.pictures:
        assert (picture["src"] or "").startswith("data:image/jpeg;base64,")
        assert picture["alt"]
    assert len(html) < 6_000_000


def test_names_are_escaped(html):
    assert "eve | &lt;b&gt;" in html
    assert "<b>eve" not in html
    assert "| <b>" not in html


def test_verdict_funnel_and_reasons_are_those_of_the_tables(run):
    data = report_data(run)
    opened = Run(run)
    assert data["verdict"] == {
        "inputs": 28,
        "images": 22,
        "identities": 6,
        "pairs": 22,
        "records": None,
        "preferences": None,
    }
    for line in data["funnel"]:
        status = Counter(opened.step_table(line["name"]).read(["status"])["status"].to_pylist())
        assert (line["kept"], line["rejected"], line["errors"]) == (status["kept"], status["rejected"], status["error"])
    for line in data["reasons"]:
        reasons = opened.step_table(line["step"]).read(["reason"])["reason"].to_pylist()
        assert line["count"] == reasons.count(line["reason"])
        assert line["share"] == line["count"] / len(reasons)
    lost = sum(opened.step_table(line["name"]).rows - line["kept"] for line in data["funnel"])
    assert sum(line["count"] for line in data["reasons"]) == lost
    assert data["skipped"][0] == {
        "step": "animate",
        "what": "whole step",
        "why": "needs role i2v; profile 'offline' binds none",
    }
    assert data["skipped"][1]["step"] == "measure.2"


def test_histograms_hold_every_value_once_on_the_right_side_of_the_bound(run):
    opened = Run(run)
    data = report_data(run)
    assert {chart["column"] for chart in data["histograms"]} == {
        "short_side", "sharpness", "brightness", "faces", "face_score", "yaw", "nsfw"
    }  # fmt: skip
    for chart in data["histograms"]:
        rows = opened.step_table(chart["step"]).read([chart["column"], "status", "reason"]).to_pylist()
        values = [row[chart["column"]] for row in rows if row[chart["column"]] is not None]
        assert chart["missing"] == len(rows) - len(values)
        assert sum(map(sum, chart["series"].values())) == len(values)
        mine = [
            row
            for row in rows
            if row["reason"] == f"{chart['gate']}.{chart['column']}" and row[chart["column"]] is not None
        ]
        assert sum(chart["series"]["rejected"]) == len(mine)
        assert sum(chart["series"]["kept"]) == sum(row["status"] == "kept" for row in rows)
        for bound in chart["bounds"]:
            assert chart["edges"][0] <= bound["value"] <= chart["edges"][-1]


def test_measures_without_a_gate_are_drawn_too(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    opened = Run(tmp_path / "run")
    del opened.entry("gate.2")["own"]["settings"]["exposure"]
    opened.save(steps=opened.steps)
    (chart,) = report_data(opened.path)["measured"]
    assert chart["column"] == "brightness"
    assert sum(chart["series"]["kept"]) == opened.entry("measure")["kept"]
    assert "judged by no gate" in write_report(opened.path).read_text(encoding="utf-8")
    assert report_data(run)["measured"] == []


def test_pairings_that_store_examples_are_reported_with_their_exact_counts(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    opened = Run(tmp_path / "run")
    entry = opened.entry("pair")
    entry["statistics"] = {
        "pairs": {"judged": 400, "allowed": 40, "rejected": {"pair.similarity.low": 300, "pair.difference": 60}}
    }
    entry["own"]["settings"]["branches"]["photos"]["similarity"] = {"min": None, "max": 0.98}
    entry["own"]["bounds"] = {"frames.low": 0.8, "photos.low": 0.42}
    opened.save(steps=opened.steps)
    data = report_data(opened.path)
    counts = {line["reason"]: (line["count"], line["share"]) for line in data["reasons"] if line["step"] == "pair"}
    assert counts == {"pair.similarity.low": (300, 0.75), "pair.difference": (60, 0.15)}
    assert next(line for line in data["funnel"] if line["name"] == "pair")["rejected"] == 360
    photos = next(chart for chart in data["similarity"] if chart["branch"] == "photos")
    assert [bound["value"] for bound in photos["bounds"]] == [0.42, 0.98]
    assert {"step": "pair", "setting": "photos.low (in effect)", "value": 0.42} in data["thresholds"]


def test_outliers_do_not_squeeze_a_histogram():
    values = np.concatenate([np.linspace(0, 1, 10_000), [1e9]])
    everything = pa.chunked_array([pa.array(np.ones(len(values), np.bool_))])
    chart = histogram(pa.chunked_array([values]), {"kept": everything}, limits(Bound(min=0.5)))
    assert chart["edges"][-1] < 2
    assert sum(chart["series"]["kept"]) == len(values)
    assert chart["bounds"] == [{"value": 0.5, "text": "≥ 0.5"}]


def test_histograms_of_nothing_of_one_value_and_of_nan_do_not_fail():
    mask = lambda size: {"kept": pa.chunked_array([pa.array([True] * size, pa.bool_())])}  # noqa: E731
    for values in ([], [None], [float("nan")], [3.0], [0.0, 0.0]):
        chart = histogram(pa.chunked_array([pa.array(values, pa.float32())]), mask(len(values)), [])
        assert "<svg" in charts.histogram(chart, "x")


def test_identity_sizes(run):
    data = report_data(run)["identities"]
    pairs = Counter(row["identity"] for row in Run(run).step_table("caption").read(["identity"]).to_pylist())
    images = Counter(row["identity"] for row in Run(run).step_table("identify").read(["identity"]).to_pylist())
    assert {row["identity"]: row["pairs"] for row in data["sizes"]} == {name: pairs[name] for name in images}
    assert {row["identity"]: row["images"] for row in data["sizes"]} == dict(images)
    assert [row["images"] for row in data["sizes"]] == sorted(images.values(), reverse=True)


def test_shown_pairs_cover_the_people(run):
    opened = Run(run)
    shown = gallery.kept_pairs(opened, gallery.Thumbnails(opened.store_root), count=6)
    assert len(shown) == 6
    assert len({pair["identity"] for pair in shown}) == 6
    assert all(image["src"] for pair in shown for image in pair["images"])


def test_the_picture_budget_is_kept(run):
    opened = Run(run)
    thumbnails = gallery.Thumbnails(opened.store_root, budget=30_000)
    shown = gallery.kept_pairs(opened, thumbnails)
    pictures = {image["src"] for pair in shown for image in pair["images"]} - {None}
    assert 0 < len(pictures) < 10
    assert thumbnails.left > -20_000


def test_rejects_show_value_and_bound_and_hide_nsfw(html):
    assert "needs ≥\u00a0200" in html
    assert "cannot be shown" in html
    assert "reason blurred" in html


def test_a_run_that_stopped_early_still_has_a_report(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    opened = Run(tmp_path / "run")
    steps = opened.steps
    for entry in steps[4:]:
        entry["state"] = "failed" if entry is steps[4] else "pending"
    steps[4]["message"] = "Step 'measure' stopped: <the disk> is full."
    opened.save(steps=steps)
    data = report_data(opened.path)
    assert data["verdict"]["pairs"] is None
    assert data["skipped"][-2] == {"step": "measure", "what": "failed", "why": steps[4]["message"]}
    assert data["skipped"][-1]["what"] == "not finished"
    assert data["skipped"][-1]["step"] == ", ".join(entry["name"] for entry in steps[5:] if entry["state"] == "pending")
    text = write_report(opened.path).read_text(encoding="utf-8")
    assert "29 images kept from 28 inputs, not finished" in text
    Page(text)


def test_reasons_of_pairs_are_counted_even_when_no_example_is_stored(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    opened = Run(tmp_path / "run")
    opened.entry("pair")["statistics"] = {
        "pairs": {"judged": 100, "allowed": 10, "chosen": 5, "rejected": {"pair.copy.copy_similarity": 25}}
    }
    opened.save()
    line = next(line for line in report_data(opened.path)["reasons"] if line["reason"] == "pair.copy.copy_similarity")
    assert (line["step"], line["count"], line["share"]) == ("pair", 25, 0.25)
    assert "copy_similarity" in write_report(opened.path).read_text(encoding="utf-8")


def test_what_the_listing_passed_over_is_told(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    opened = Run(tmp_path / "run")
    opened.save(left_out={"files of other kinds": 3})
    assert "Left out of the inputs: 3 files of other kinds." in write_report(opened.path).read_text(encoding="utf-8")


def test_words():
    assert in_words(">= 768") == "at least 768"
    assert in_words("|x| <= 60") == "between -60 and 60"
    assert in_words("one of a, b") == "one of a, b"
    assert (
        sentence("pose.yaw", "|x| <= 60", None, {"yaw": ("head yaw", "deg")})
        == "yaw (head yaw) has to be between -60 and 60 deg."
    )
    assert sentence("odd", None, "the third leg is missing.", {}) == "For example: the third leg is missing."
    assert code("run `x <y>` now") == "run <code>x &lt;y&gt;</code> now"
    assert code("a ` b <c>") == "a ` b &lt;c&gt;"
    assert [charts.seconds(value) for value in (0.04, 59.6, 75, 3 * 3600 + 61)] == [
        "0.0 s",
        "1 min",
        "1 min 15 s",
        "3 h 1 min",
    ]
    assert charts.number(18240.6) == "18\u2009241"
    assert charts.number(1234567) == "1\u2009234\u2009567"
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(-0.5, 2.5, whole=True) == [0, 1, 2]
