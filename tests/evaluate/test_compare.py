"""Two benchmarks of which it is known what changed between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.errors import QualityError, UsageError
from idtool.evaluate.charis.aggregate import Derived
from idtool.evaluate.compare import compare
from idtool.evaluate.regression import Rules, load_rules
from idtool.evaluate.report_table import write_report_table
from idtool.evaluate.scoring import SCHEMA
from tests.evaluate.fake_bench import MEANS, Made, build

FACE, CLIP = "facesim/arcface-mbf", "clip_t/vit-l-14@raw"
DERIVED = {"quality": Derived(("face_found", "clip_t"), (1.0, 1.0))}
MADE = Made(identities=10, prompts=4, means={name: MEANS[name] for name in ("strong", "weak")}, images=False)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("night") / "bench", MADE)
    write_report_table(folder, derived=DERIVED)
    return folder


@pytest.fixture
def changed(night: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy whose scores, and then whose manifest, a function has changed."""

    def make(
        scores: Callable[[pd.DataFrame], Any] | None = None, manifest: Callable[[dict[str, Any]], Any] | None = None
    ) -> Path:
        folder = tmp_path / "later"
        shutil.copytree(night, folder)
        if scores:
            frame = pd.read_parquet(folder / "scores.parquet")
            kept = scores(frame)
            table = pa.Table.from_pandas(frame if kept is None else kept, SCHEMA, preserve_index=False)
            pq.write_table(table, folder / "scores.parquet")
        if manifest:
            told = json.loads((folder / "bench.json").read_text())
            manifest(told)
            (folder / "bench.json").write_text(json.dumps(told))
        write_report_table(folder, derived=DERIVED)
        return folder

    return make


def rules(*given: dict[str, Any]) -> Rules:
    return Rules.model_validate({"version": 1, "rules": list(given)})


def shift(by: float, method: str = "strong", metric: str = FACE) -> Callable[[pd.DataFrame], None]:
    def change(scores: pd.DataFrame) -> None:
        scores.loc[(scores.method == method) & (scores.metric == metric), "value"] += by

    return change


def noise(scores: pd.DataFrame) -> None:
    """A fresh draw for every identity, with a drop in the mean that is well within chance."""
    mine = (scores.method == "strong") & (scores.metric == FACE)
    sign = scores.identity.str[-1].astype(int) % 2 * 2 - 1
    scores.loc[mine, "value"] += 0.2 * sign[mine] - 0.03


def told(before: Path | None, after: Path, limits: Rules | None = None, **options: Any) -> dict[str, Any]:
    """What `compare` found, also where rules are broken."""
    try:
        return compare(before, after, limits, derived=DERIVED, **options)
    except QualityError as error:
        assert error.details["violations"]
        return error.details


def broken(before: Path | None, after: Path, *given: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(before, after, rules(*given))["violations"]
    return found


def row(found: dict[str, Any], method: str, metric: str, slice_: str = "all", value: str = "") -> dict[str, Any]:
    place = {"method": method, "metric": metric, "slice": slice_, "slice_value": value}
    return next(one for one in found["differences"] if place.items() <= one.items())


STRICT = rules(
    {"metric": "*", "max_drop": 0}, {"metric": "*", "slice": "*=*", "max_drop": 0}, {"metric": "*", "significant": True}
)


def test_identical_benchmarks_differ_in_nothing(night: Path) -> None:
    found = compare(night, night, STRICT, derived=DERIVED)
    assert found["violations"] == [] == found["notes"]
    assert len(found["differences"]) == len(pd.read_parquet(night / "report.parquet"))
    assert {one["difference"] for one in found["differences"]} == {0.0}
    for one in found["differences"]:
        if one["metric"] != "kid":
            assert (one["how"], one["ci_low"], one["ci_high"], one["p"]) == ("paired", 0, 0, 1)
            assert one["verdict"] == "same"
    assert {row(found, "weak", name)["how"] for name in (FACE, CLIP, "quality", "diversity/arcface-mbf")} == {"paired"}
    assert [one["slice"] for one in found["differences"]].index("age") == 18, "all samples come first"


def test_a_planted_drop_is_found(night: Path, changed: Callable[..., Path]) -> None:
    limits = rules({"metric": "facesim/*", "max_drop": 0.02, "significant": True})
    with pytest.raises(QualityError, match=r"strong, facesim/arcface-mbf, all: is 0\.05 worse than before") as error:
        compare(night, changed(shift(-0.05)), limits)
    assert error.value.exit_code == 3
    found = error.value.details
    (violation,) = found["violations"]
    dropped = row(found, "strong", FACE)
    assert dropped["difference"] == pytest.approx(-0.05)
    assert dropped["ci_low"] == pytest.approx(-0.05) == dropped["ci_high"]
    assert (dropped["p"], dropped["verdict"]) == (2 / 2**10, "worse")
    assert (violation["limit"], violation["allowed"]) == ("max_drop", 0.02)
    assert violation["found"] == pytest.approx(0.05)
    assert row(found, "weak", FACE)["difference"] == 0


def test_a_drop_within_noise_passes_when_it_must_be_significant(night: Path, changed: Callable[..., Path]) -> None:
    later = changed(noise)
    drop = {"metric": FACE, "max_drop": 0.02}
    assert [one["method"] for one in broken(night, later, drop)] == ["strong"]
    one = row(compare(night, later, rules({**drop, "significant": True})), "strong", FACE)
    assert one["ci_low"] < 0 < one["ci_high"] and one["p"] > 0.05 and one["verdict"] == "unclear"


def test_p_values_are_corrected_for_the_rows_of_a_rule(night: Path, changed: Callable[..., Path]) -> None:
    def one_sided(scores: pd.DataFrame) -> None:
        """Nine of ten identities drop: p is 0.02 alone and 0.16 among 8 rows."""
        mine = (scores.method == "strong") & (scores.metric == FACE)
        up = scores.identity == "person 03"
        scores.loc[mine, "value"] -= 0.1
        scores.loc[mine & up, "value"] += 0.2

    later = changed(one_sided)
    alone = {"metric": FACE, "method": "strong", "significant": True}
    assert 0.01 < row(told(night, later), "strong", FACE)["p"] < 0.05
    assert len(broken(night, later, alone)) == 1
    assert broken(night, later, {**alone, "metric": "*", "method": "*"}) == []


def test_what_is_better_decides_what_is_a_drop(night: Path, changed: Callable[..., Path]) -> None:
    later = changed(shift(1.0, "weak", "seconds"))
    assert broken(night, later, {"metric": "seconds", "max_drop": 0.5})
    assert broken(later, night, {"metric": "seconds", "max_drop": 0.5}) == []
    assert row(told(later, night), "weak", "seconds")["verdict"] == "better"


def test_counts_and_floors(night: Path, changed: Callable[..., Path]) -> None:
    def lose(scores: pd.DataFrame) -> None:
        first = scores[(scores.method == "strong") & (scores.metric == FACE)].index[:3]
        scores.loc[first, ["value", "missing"]] = [None, "no face in the image"]

    later = changed(lose)
    found = told(
        night,
        later,
        rules(
            {"metric": FACE, "method": "strong", "n": 40},
            {"metric": FACE, "method": "strong", "min_n": 38},
            {"metric": FACE, "method": "strong", "max_missing": 2},
            {"metric": FACE, "method": "strong", "min": 0.9},
            {"metric": FACE, "method": "strong", "max": 0.1},
            {"metric": FACE, "method": "strong", "n": 37, "min_n": 37, "max_missing": 3, "min": 0.5, "max": 0.8},
        ),
    )
    assert [(one["rule"], one["limit"], one["allowed"]) for one in found["violations"]] == [
        (1, "n", 40),
        (2, "min_n", 38),
        (3, "max_missing", 2),
        (4, "min", 0.9),
        (5, "max", 0.1),
    ]
    assert [one["found"] for one in found["violations"][:3]] == [37, 37, 3]
    assert row(found, "strong", FACE)["n"] == 37, "compared on the samples that both have"
    assert row(found, "strong", FACE)["difference"] == 0


def test_floors_need_nothing_to_compare_with(night: Path) -> None:
    found = told(None, night, rules({"metric": FACE, "max_drop": 0, "min": 0.55}))
    assert [one["method"] for one in found["violations"]] == ["weak"]
    assert found["a"] is None and row(found, "weak", FACE)["difference"] is None


def test_slices_are_named_with_or_without_their_value(night: Path, changed: Callable[..., Path]) -> None:
    def drop_style(scores: pd.DataFrame) -> None:
        style = scores.slices.str.contains('"Style"') & (scores.metric == CLIP) & (scores.method == "weak")
        scores.loc[style, "value"] -= 0.1

    later = changed(drop_style)

    def places(slice_: str) -> list[str]:
        return [one["slice"] for one in broken(night, later, {"metric": CLIP, "slice": slice_, "max_drop": 0.07})]

    assert places("category") == ["category=Style"]
    assert places("category=S*") == ["category=Style"]
    assert places("category=Action") == []
    assert places("all") == []


def test_a_method_that_is_gone_breaks_its_rules(night: Path, changed: Callable[..., Path]) -> None:
    later = changed(lambda scores: scores[scores.method != "weak"])
    found = told(night, later, rules({"metric": FACE, "max_drop": 0.1}, {"metric": FACE, "min": 0, "optional": True}))
    assert [one["message"] for one in found["violations"]] == [
        "weak, facesim/arcface-mbf, all: is gone: it was scored before"
    ]
    assert row(found, "weak", FACE)["note"] == "only before"
    back = compare(later, night, rules({"metric": FACE, "max_drop": 0.1}))
    assert row(back, "weak", FACE)["note"].startswith("only after")


def test_a_rule_that_fits_nothing_is_broken_unless_optional(night: Path) -> None:
    (one,) = broken(night, night, {"metric": "charis", "min": 0.5})
    assert one["message"] == "no score of metric 'charis', method '*', slice 'all'"
    assert broken(night, night, {"metric": "charis", "min": 0.5, "optional": True}) == []


def test_lost_means_are_drops(night: Path, changed: Callable[..., Path]) -> None:
    def lose_all(scores: pd.DataFrame) -> None:
        mine = (scores.method == "strong") & (scores.metric == FACE)
        scores.loc[mine, "value"] = None
        scores.loc[mine, "missing"] = "no face in the image"

    found = broken(night, changed(lose_all), {"metric": FACE, "max_drop": 1, "min": -1})
    assert [one["limit"] for one in found] == ["min", "max_drop"]
    assert "no value" in found[0]["message"]


def test_a_drop_without_a_p_value_counts(night: Path, changed: Callable[..., Path]) -> None:
    def worse(manifest: dict[str, Any]) -> None:
        manifest["set_scores"]["weak"]["kid"]["value"] = 0.03

    later = changed(None, worse)
    (one,) = broken(night, later, {"metric": "kid", "max_drop": 0.005, "significant": True})
    assert "no p-value" in one["message"]


@pytest.mark.parametrize("what", ["hash", "profile", "fingerprint"])
def test_what_cannot_be_compared_is_refused_unless_forced(night: Path, changed: Callable[..., Path], what: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        if what == "hash":
            manifest["suite"]["hash"] = "0" * 16
        elif what == "profile":
            manifest["profile"] = "paper"
        else:
            manifest["metrics"][FACE]["fingerprint"] = "new weights"

    later = changed(None, change)
    said = {
        "hash": "suite_hash is ffffffffffffffff and 0000000000000000",
        "profile": "profile is offline and paper",
        "fingerprint": "metric facesim/arcface-mbf has another fingerprint",
    }[what]
    with pytest.raises(UsageError, match=said) as error:
        compare(night, later)
    assert "--force" in error.value.hint
    found = told(night, later, force=True)
    assert len(found["notes"]) == 1 and said in found["notes"][0]
    assert row(found, "strong", FACE)["difference"] == 0


def test_reports_alone_are_compared_as_independent(night: Path, changed: Callable[..., Path], tmp_path: Path) -> None:
    later = changed(shift(-0.05))
    before = shutil.copy(night / "report.parquet", tmp_path / "before.parquet")
    found = compare(Path(before), later / "report.parquet")
    one = row(found, "strong", FACE)
    assert one["how"] == "independent"
    assert one["difference"] == pytest.approx(-0.05)
    report = pd.read_parquet(before).query("method == 'strong' and metric == @FACE and slice == 'all'")
    assert one["se"] == pytest.approx(report.se.item() * 2**0.5)
    assert one["ci_low"] < -0.05 < 0 < one["ci_high"], "what is paired here cannot be seen from two means"
    assert one["verdict"] == "unclear"


def test_without_a_common_sample_benchmarks_are_independent(night: Path, changed: Callable[..., Path]) -> None:
    def rename(scores: pd.DataFrame) -> None:
        scores["sample"] = scores["sample"] + "x"

    assert row(told(night, changed(rename)), "strong", FACE)["how"] == "independent"


def test_what_is_no_report_is_refused(night: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"scores\.parquet is no report of idtool"):
        compare(night, night / "scores.parquet")
    with pytest.raises(UsageError, match="is not there"):
        compare(night, tmp_path)
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(UsageError, match="is no Parquet file"):
        compare(night, tmp_path / "x.parquet")


def test_the_comparison_is_plain_json(night: Path) -> None:
    found = json.loads(json.dumps(compare(night, night, STRICT, derived=DERIVED), allow_nan=False))
    assert set(found) == {"a", "b", "notes", "violations", "differences"}


def test_rules_are_read_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "regression.yaml"
    file.write_text(
        "version: 1\nrules:\n"
        "  - {metric: 'facesim/*', max_drop: .02, significant: true}\n"
        "  - metric: face_found\n    min: 0.95\n"
    )
    found = load_rules(file)
    assert (found.rules[0].max_drop, found.rules[0].slice, found.rules[1].min) == (0.02, "all", 0.95)
    file.write_text(
        "version: 1\nrules:\n  - metric: a\n    mim: 0.2\n    min: 0.1\n  - metric: b\n    min_n: -1\n  - metric: c\n"
    )
    with pytest.raises(UsageError) as error:
        load_rules(file)
    lines = error.value.message.splitlines()
    assert f"{file}:4: rules[0]: unknown key 'mim'. Did you mean 'min'?" in lines[0]
    assert f"{file}:7: rules[1].min_n: expected a number of at least 0" in lines[1]
    assert f"{file}:8: rules[2]: the rule has no limit" in lines[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected keys with values|missing"),
        ("- a\n", "expected keys with values"),
        ("version: 1\nrules: []\n", "at least 1"),
        ("version: 2\nrules:\n  - {metric: a, min: 0}\n", "expected 1"),
        ("version: 1\nalpha: 1\nrules:\n  - {metric: a, min: 0}\n", "below 1"),
        ("version: 1\nrules:\n  - {metric: a, min: x\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_rules_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "regression.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        load_rules(file)
    with pytest.raises(UsageError, match="Cannot read"):
        load_rules(tmp_path / "absent.yaml")
