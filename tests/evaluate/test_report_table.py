"""report.parquet of benchmarks whose scores are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from idtool.errors import UsageError
from idtool.evaluate.charis.aggregate import Derived
from idtool.evaluate.report_schema import PAIRS, REPORT
from idtool.evaluate.report_table import looks_through, write_report_table
from tests.evaluate import fake_bench
from tests.evaluate.fake_bench import MEANS, NO_FACE, Made, build

FACE, CLIP = "facesim/arcface-mbf", "clip_t/vit-l-14@raw"
DERIVED = {"quality": Derived(("face_found", "clip_t"), (3.0, 1.0)), "seconds": Derived(("absent",), (1.0,))}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("bench"), Made(identities=12, images=False))
    write_report_table(folder, derived=DERIVED)
    return folder


@pytest.fixture(scope="module")
def report(bench: Path) -> pd.DataFrame:
    return pd.read_parquet(bench / "report.parquet")


def row(report: pd.DataFrame, method: str, metric: str, slice_: str = "all", value: str = "") -> dict[str, Any]:
    found = report.query("method == @method and metric == @metric and slice == @slice_ and slice_value == @value")
    assert len(found) == 1
    return found.astype(object).where(found.notna(), None).iloc[0].to_dict()


def test_schema_is_documented_and_versioned(bench: Path) -> None:
    for name, schema, key in (("report", REPORT, b"idtool.report"), ("pairs", PAIRS, b"idtool.pairs")):
        written = pq.read_schema(bench / f"{name}.parquet")
        assert written.names == schema.names
        assert written.metadata[key] == b"1"
        assert all(field.metadata[b"doc"] and b"unit" in field.metadata for field in written)


def test_one_row_for_each_method_metric_and_slice(report: pd.DataFrame) -> None:
    assert not report.duplicated(["suite", "profile", "method", "metric", "slice", "slice_value"]).any()
    values = report[report.metric == FACE].groupby("slice").slice_value.unique().map(sorted).to_dict()
    assert values == {
        "all": [""],
        "age": ["middle", "old", "young"],
        "category": ["Action", "Scene & <light>", "Style"],
        "expression": ["happy", "sad"],
    }
    assert set(report.method) == set(MEANS), "methods that were not scored have no rows"


def test_numbers_are_those_of_pandas(bench: Path, report: pd.DataFrame) -> None:
    scores = pd.read_parquet(bench / "scores.parquet").query("method == 'weak' and metric == @FACE")
    values = scores.value.dropna()
    found = row(report, "weak", FACE)
    assert (found["n"], found["n_missing"], found["n_identities"]) == (len(values), scores.missing.notna().sum(), 12)
    for name in ("mean", "std", "median", "min", "max"):
        assert found[name] == pytest.approx(getattr(values, name)())
    assert found["ci_low"] < found["mean"] < found["ci_high"]
    happy = values[scores.slices.str.contains("happy")]
    assert row(report, "weak", FACE, "expression", "happy")["mean"] == pytest.approx(happy.mean())


def test_missing_scores_are_counted_by_reason(report: pd.DataFrame) -> None:
    found = row(report, "weak", FACE)
    reasons = json.loads(found["missing"])
    assert set(reasons) == {NO_FACE, "no image: nsfw: the image was judged unfit"}
    assert sum(reasons.values()) == found["n_missing"] > 2
    assert json.loads(row(report, "weak", CLIP)["missing"]) == {"no image: nsfw: the image was judged unfit": 2}
    assert row(report, "strong", FACE)["missing"] == "{}"


def test_common_samples_are_those_of_all_methods(bench: Path, report: pd.DataFrame) -> None:
    scores = pd.read_parquet(bench / "scores.parquet").query("metric == @FACE")
    common = scores.pivot(index="sample", columns="method", values="value").dropna()
    for method in MEANS:
        found = row(report, method, FACE)
        assert found["n_common"] == len(common) < 72
        assert found["mean_common"] == pytest.approx(common[method].mean())


def test_planted_effects_are_found_and_equal_methods_share_a_letter(report: pd.DataFrame) -> None:
    strong, weak, twin = (row(report, name, FACE) for name in ("strong", "weak", "twin"))
    assert (strong["rank"], strong["best"], strong["diff_best"], strong["p_best"]) == (1, "strong", None, None)
    truth = MEANS["twin"][FACE] - MEANS["strong"][FACE]
    assert twin["diff_best_low"] < twin["diff_best"] < twin["diff_best_high"] < 0
    assert abs(twin["diff_best"] - truth) < twin["mdd"]
    assert twin["p_best"] <= twin["p_best_corrected"] <= twin["p_best_holm"] < 0.05
    assert twin["win_rate_best"] < 0.2
    assert set(weak["letters"]) & set(twin["letters"])
    assert not set(strong["letters"]) & set(twin["letters"])
    assert {weak["rank"], twin["rank"]} == {2, 3}


def test_lower_is_better_where_the_metric_says_so(report: pd.DataFrame) -> None:
    metric = "copy_paste/arcface-mbf"
    strong, weak, copy = (row(report, name, metric) for name in ("strong", "weak", "copy"))
    assert strong["rank"] == 3 and weak["rank"] in (1, 2)
    assert strong["diff_best"] == pytest.approx(0.05, abs=0.03)
    assert strong["win_rate_best"] < 0.5
    assert row(report, "text-only", metric)["letters"] == "a"
    assert copy["win_rate_best"] == 0 and copy["diff_best"] > 0.5


def test_baselines_have_no_rank_but_are_compared(report: pd.DataFrame) -> None:
    copy = row(report, "copy", FACE)
    assert copy["baseline"] and copy["rank"] is None and copy["letters"] == "a"
    assert copy["best"] == "strong" and copy["diff_best"] > 0.2 and copy["win_rate_best"] == 1


def test_letters_agree_with_the_pairs(bench: Path, report: pd.DataFrame) -> None:
    pairs = pd.read_parquet(bench / "pairs.parquet")
    letters = report.set_index(["metric", "slice", "slice_value", "method"]).letters
    assert len(pairs) > 500
    for pair in pairs.itertuples():
        place = (pair.metric, pair.slice, pair.slice_value)
        shared = set(letters[(*place, pair.method_a)]) & set(letters[(*place, pair.method_b)])
        assert bool(shared) == (pair.p_corrected >= 0.05)


def test_the_network_that_a_method_looks_through_is_marked(report: pd.DataFrame) -> None:
    assert row(report, "strong", FACE)["conditions_on_same"] is True
    assert row(report, "strong", "facesim/edgeface-s")["conditions_on_same"] is False
    assert row(report, "weak", FACE)["conditions_on_same"] is False


@pytest.mark.parametrize(
    ("conditions_on", "held", "model", "same"),
    [
        ("InsightFace buffalo_l", [], ("identity", "insightface:buffalo_l"), True),
        ("antelopev2 (glintr100)", [], ("identity", "insightface:antelopev2"), True),
        ("antelopev2 (glintr100)", [], ("identity", "insightface:buffalo_l"), False),
        ("InsightFace buffalo_l", [], ("faces", "insightface:buffalo_l"), False),  # the detector judges nobody
        ("arcface-mbf", [], ("identity", "arcface-mbf"), True),
        (None, [], ("identity", "arcface-mbf"), False),
        (None, ["hf:laion/CLIP-ViT-H-14"], ("clip", "hf:laion/CLIP-ViT-H-14"), True),
        (None, ["hf:laion/CLIP-ViT-H-14"], ("clip", "hf:openai/clip-vit-large-patch14"), False),
    ],
)
def test_looks_through(conditions_on: str | None, held: list[str], model: tuple[str, str], same: bool) -> None:
    entry = {"conditions_on": conditions_on, "models": [{"slot": "vision", "model": one} for one in held]}
    assert looks_through(entry, [dict(zip(("role", "model"), model, strict=True))]) is same


def test_a_number_of_a_whole_set_has_a_rank_and_no_interval(report: pd.DataFrame) -> None:
    found = row(report, "weak", "kid")
    assert (found["mean"], found["std"], found["n"], found["rank"]) == (0.02, 0.002, 48, 2)
    assert found["ci_low"] is None and found["letters"] is None and found["n_identities"] is None
    assert "no interval" in found["note"]


def test_a_number_of_whole_identities_counts_identities(report: pd.DataFrame) -> None:
    found = row(report, "weak", "diversity/arcface-mbf")
    assert (found["n"], found["n_identities"]) == (12, 12)
    assert set(report[report.metric == "diversity/arcface-mbf"].slice) == {"all"}


def test_derived_metric_is_made_of_the_means_of_its_parts(bench: Path, report: pd.DataFrame) -> None:
    for place in (("all", ""), ("age", "young")):
        found = row(report, "weak", "quality", *place)
        faces, clip = (row(report, "weak", name, *place)["mean"] for name in ("face_found", CLIP))
        assert found["mean"] == pytest.approx((faces**3 * clip) ** 0.25)
        assert found["ci_low"] < found["mean"] < found["ci_high"]
    scores = pd.read_parquet(bench / "scores.parquet").query("method == 'weak' and metric == 'quality'")
    found = row(report, "weak", "quality")
    assert (found["n"], found["std"]) == (70, pytest.approx(scores.value.std())), "of single samples"
    assert f"from the means of face_found, {CLIP}" in found["note"]
    wide = pd.read_parquet(bench / "scores.parquet").pivot_table("value", "sample", ["method", "metric"])
    gap = 0.0
    for sign, method in ((1, "weak"), (-1, found["best"])):
        both = {name: wide[[("weak", name), (found["best"], name)]].dropna() for name in ("face_found", CLIP)}
        faces, clip = (both[name][method, name].mean() for name in both)
        gap += sign * (faces**3 * clip) ** 0.25
    assert found["best"] == "twin" and found["diff_best"] == pytest.approx(gap)
    assert 0 < found["p_best"] <= found["p_best_corrected"] <= 1


def test_what_cannot_be_derived_has_no_mean(report: pd.DataFrame) -> None:
    found = row(report, "weak", "seconds")
    assert (found["n"], found["mean"], found["rank"], found["letters"]) == (70, None, None, None)
    assert "made of the means of absent" in found["note"]


def test_the_same_scores_give_the_same_table_in_whatever_order(bench: Path, tmp_path: Path) -> None:
    scores = pq.read_table(bench / "scores.parquet")
    shuffled = scores.take(pd.Series(range(len(scores))).sample(frac=1, random_state=0).to_numpy())
    pq.write_table(shuffled, tmp_path / "scores.parquet")
    (tmp_path / "bench.json").write_bytes((bench / "bench.json").read_bytes())
    again = write_report_table(tmp_path, derived=DERIVED)
    assert pq.read_table(again).equals(pq.read_table(bench / "report.parquet"))


def test_few_identities_and_a_failed_method_are_told(tmp_path: Path) -> None:
    means = {name: MEANS[name] for name in ("strong", "weak", "twin")}
    folder = build(tmp_path, Made(identities=1, prompts=6, means=means, rejected={"twin": 5}, no_face={}, images=False))
    manifest = json.loads((folder / "bench.json").read_text())
    manifest["methods"]["weak"] |= {"state": "failed", "why": "out of memory"}
    (folder / "bench.json").write_text(json.dumps(manifest))
    report = pd.read_parquet(write_report_table(folder))
    found = row(report, "strong", FACE)
    assert (found["ci_low"], found["p_best"], found["mdd"]) == (None, None, None)
    assert "one identity only" in found["note"]
    assert "only 1 of 6 samples are common to all methods (twin lacks 5)" in found["note"]
    assert row(report, "weak", FACE)["rank"] is None, "it did not run through"
    assert row(report, "weak", FACE)["n_common"] == 1


def test_baselines_are_ranked_where_there_is_nothing_else(tmp_path: Path) -> None:
    means = {name: MEANS[name] for name in ("copy", "text-only")}
    folder = build(tmp_path, Made(identities=6, prompts=2, means=means, images=False))
    report = pd.read_parquet(write_report_table(folder))
    assert row(report, "copy", FACE)["rank"] == 1
    assert row(report, "text-only", FACE)["rank"] == 2


def test_many_reasons_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(tmp_path, Made(identities=3, prompts=2, means={"weak": MEANS["weak"]}, images=False))
    scores = pd.read_parquet(folder / "scores.parquet")
    mine = scores.metric == "quality"
    scores.loc[mine, "value"] = None
    scores.loc[mine, "missing"] = [f"reason {k % 4}" for k in range(mine.sum())]
    scores.to_parquet(folder / "scores.parquet")
    monkeypatch.setattr("idtool.evaluate.report_table.MAX_REASONS", 2)
    found = row(pd.read_parquet(write_report_table(folder)), "weak", "quality")
    assert json.loads(found["missing"]) == {"reason 0": 2, "reason 1": 2, "other reasons": 2}
    assert (found["n"], found["mean"], found["letters"]) == (0, None, None)
    assert "no value" in found["note"]


def test_a_benchmark_without_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(fake_bench.manifest(Made(), [])))
    with pytest.raises(UsageError, match=r"no scores\.parquet"):
        write_report_table(tmp_path)
