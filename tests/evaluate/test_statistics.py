"""Statistics against SciPy, against simulations whose truth is known, and against arithmetic by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.errors import UsageError
from idtool.evaluate.charis.aggregate import Derived
from idtool.evaluate.scoring import SCHEMA
from idtool.evaluate.statistics import bootstrap, flips
from idtool.evaluate.statistics.bootstrap import Resamples, cluster_bootstrap, first_rows, totals
from idtool.evaluate.statistics.correction import benjamini_hochberg, holm
from idtool.evaluate.statistics.derived import known, parts_of
from idtool.evaluate.statistics.flips import flip_test
from idtool.evaluate.statistics.letters import compact_letters
from idtool.evaluate.statistics.matrix import read_matrix, side_by_side
from idtool.evaluate.statistics.paired import differences
from idtool.evaluate.statistics.power import effect_size, minimum_detectable_difference

NAN = float("nan")


def clustered(
    rng: np.random.Generator, clusters: int, each: int, spread: float = 0.08
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(clusters), each)
    return rng.normal(0, spread, clusters)[labels] + rng.normal(0, 0.05, clusters * each), labels


# Bootstrap


def test_bootstrap_agrees_with_scipy_on_unclustered_values() -> None:
    from scipy.stats import bootstrap as of_scipy

    values = np.random.default_rng(1).gamma(2.0, size=300)
    theirs = of_scipy((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2))
    ours = cluster_bootstrap(values, np.arange(len(values)), seed=3, draws=4000)
    assert ours["mean"] == pytest.approx(values.mean())
    assert ours["se"] == pytest.approx(theirs.standard_error, rel=0.04)
    tenth = 0.1 * theirs.standard_error
    assert ours["low"] == pytest.approx(theirs.confidence_interval.low, abs=tenth)
    assert ours["high"] == pytest.approx(theirs.confidence_interval.high, abs=tenth)


@pytest.mark.parametrize(("clusters", "least"), [(8, 0.88), (25, 0.90)])
def test_cluster_bootstrap_covers_the_truth_and_the_naive_one_does_not(clusters: int, least: float) -> None:
    rng = np.random.default_rng(0)
    trials, ours, naive = 200, 0, 0
    for seed in range(trials):
        values, labels = clustered(rng, clusters, 6)
        one = cluster_bootstrap(values, labels, seed=seed, draws=500)
        two = cluster_bootstrap(values, np.arange(len(values)), seed=seed, draws=500)
        ours += one["low"] <= 0 <= one["high"]
        naive += two["low"] <= 0 <= two["high"]
    assert least <= ours / trials <= 0.985
    assert naive / trials < 0.75


def test_one_cluster_has_a_mean_and_no_interval() -> None:
    found = cluster_bootstrap([0.1, 0.3, NAN], ["ada"] * 3)
    assert found["mean"] == pytest.approx(0.2)
    assert (found["low"], found["high"], found["se"]) == (None, None, None)
    assert "one identity" in found["note"]
    assert cluster_bootstrap([NAN], ["ada"])["note"] == "no value"


def test_draws_are_seeded_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(Resamples(7, seed=5, draws=100).blocks()))
    assert (whole.sum(axis=1) == 7).all()
    monkeypatch.setattr(bootstrap, "BLOCK", 21)
    monkeypatch.setattr(bootstrap, "KEPT", 0)
    small = list(Resamples(7, seed=5, draws=100).blocks())
    assert max(len(block) for block in small) == 3
    assert np.array_equal(np.concatenate(small), whole)
    assert not np.array_equal(np.concatenate(list(Resamples(7, seed=6, draws=100).blocks())), whole)


def test_draws_are_shared_so_that_the_mean_of_a_difference_is_the_difference_of_means() -> None:
    values = np.random.default_rng(0).normal(size=(1, 30, 2))
    sums, counts = totals(values, np.arange(0, 30, 3))
    means = Resamples(10).means(sums, counts)
    joint = Resamples(10).means(sums[..., :1] - sums[..., 1:], counts[..., :1])
    assert means[:, 0] - means[:, 1] == pytest.approx(joint[:, 0])


def test_a_cluster_of_many_samples_counts_for_all_of_them() -> None:
    """The bootstrap is of the mean over samples, as reports say it, not of the mean of the clusters' means."""
    values, labels = np.array([1.0] * 9 + [0.0]), np.array([0] * 9 + [1])
    found = cluster_bootstrap(values, labels)
    assert found["mean"] == pytest.approx(0.9)
    assert first_rows(labels).tolist() == [0, 9]


# Differences


def test_flip_test_is_the_exact_permutation_test_of_scipy() -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 9), rng.normal(0, 1, 9)
    theirs = permutation_test((a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples")
    p, corrected = flip_test(a[None, :, None], b[None, :, None], np.ones((1, 9, 1)))
    assert p[0] == pytest.approx(theirs.pvalue)
    assert corrected[0] == p[0], "one pair needs no correction"


def test_random_patterns_come_close_to_all_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.4, 1, (2, 1, 12, 3))
    exact = flip_test(a, b, np.ones_like(a))
    monkeypatch.setattr(flips, "EXACT", 0)
    drawn = flip_test(a, b, np.ones_like(a), flips=20_000)
    assert drawn[0] == pytest.approx(exact[0], abs=0.015)
    assert drawn[1] == pytest.approx(exact[1], abs=0.015)
    assert flip_test(a + 100, b, np.ones_like(a), flips=1_000)[0] == pytest.approx([0.001] * 3)


def test_correction_keeps_the_family_wise_error_and_finds_what_holm_cannot() -> None:
    rng = np.random.default_rng(2)
    pairs = list(combinations(range(5), 2))
    trials, wrong = 300, 0
    for _ in range(trials):
        values = rng.normal(size=(8, 5)) * [1, 1, 3, 1, 0.2]
        i, j = np.transpose(pairs)
        _, corrected = flip_test(values[None, :, i], values[None, :, j], np.ones((1, 8, len(pairs))))
        wrong += corrected.min() < 0.05
    assert wrong / trials < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
    apart = np.arange(5) * 1.0 + rng.normal(0, 0.05, (1, 8, 5))
    found = differences(apart, np.arange(8), pairs)
    assert found.p_corrected == pytest.approx([1 / 128] * 10)
    assert found.p_holm == pytest.approx([10 / 128] * 10)


def test_paired_interval_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(3)
    shared, labels = clustered(rng, 20, 4, spread=1.0)
    a, b = shared + rng.normal(0.1, 0.05, 80), shared + rng.normal(0, 0.05, 80)
    found = differences(np.stack([a, b], axis=1)[None], first_rows(labels), [(0, 1)])
    alone = cluster_bootstrap(a - b, labels)
    assert found.difference[0] == pytest.approx((a - b).mean())
    assert (found.low[0], found.high[0], found.se[0]) == pytest.approx((alone["low"], alone["high"], alone["se"]))
    assert found.se[0] < cluster_bootstrap(a, labels)["se"] / 5, "what both share cancels"
    assert found.p[0] < 0.001


def test_paired_interval_and_p_value_are_calibrated() -> None:
    rng = np.random.default_rng(4)
    trials, covered, wrong = 200, 0, 0
    for seed in range(trials):
        shared, labels = clustered(rng, 12, 4, spread=1.0)
        own = rng.normal(0, 0.05, (12, 2))[labels]
        values = shared[:, None] + own + rng.normal(0, 0.05, (48, 2))
        found = differences(values[None], first_rows(labels), [(0, 1)], seed=seed)
        covered += found.low[0] <= 0 <= found.high[0]
        wrong += found.p[0] < 0.05
    assert 0.9 <= covered / trials <= 0.985
    assert wrong / trials < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_only_samples_that_both_have_count_and_ties_are_half_a_win() -> None:
    values = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.9, 0.1], [NAN, 9.0], [9.0, NAN]])[None]
    found = differences(values, np.array([0, 2, 4]), [(0, 1)])
    row = found.row(0)
    assert (row["n"], row["clusters"]) == (4, 2)
    assert (row["mean_a"], row["mean_b"]) == pytest.approx((0.6, 0.4))
    assert row["win_rate"] == pytest.approx(2.5 / 4)
    assert differences(values, np.array([0, 2, 4]), [(0, 1)], better=-1).win_rate[0] == pytest.approx(1.5 / 4)
    assert differences(values, np.array([0, 2, 4]), [(0, 1)], better=0).row(0)["win_rate"] is None


def test_without_a_common_sample_nothing_is_said() -> None:
    values = np.array([[1.0, NAN, 0.2], [1.0, NAN, 0.1], [NAN, 0.0, 0.3]])[None]
    found = differences(values, np.arange(3), [(0, 1), (0, 2)])
    row = found.row(0)
    assert row["n"] == 0
    assert all(row[name] is None for name in ("difference", "low", "high", "se", "p", "p_corrected", "p_holm", "mdd"))
    assert found.row(1)["p_holm"] == found.row(1)["p"], "the pair that cannot be compared is not counted"


def test_equal_methods_differ_by_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(1, 20, 1)).repeat(2, axis=2)
    row = differences(values, np.arange(20), [(0, 1)]).row(0)
    assert (row["difference"], row["low"], row["high"], row["p"], row["win_rate"]) == (0, 0, 0, 1, 0.5)
    assert row["d_z"] is None


# Corrections, power, letters


def test_holm_by_hand_and_benjamini_hochberg_by_scipy() -> None:
    from scipy.stats import false_discovery_control

    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    with_gap = holm([0.01, NAN, 0.04])
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(with_gap[1])
    assert np.isnan(benjamini_hochberg([NAN])).all()


@pytest.mark.parametrize("clusters", [8, 40])
def test_a_difference_of_the_detectable_size_is_found_four_times_in_five(clusters: int) -> None:
    from scipy.stats import ttest_1samp

    mdd = float(minimum_detectable_difference(1 / clusters**0.5, clusters))
    trials = np.random.default_rng(0).normal(mdd, 1, (4000, clusters))
    assert (ttest_1samp(trials, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.04)


def test_nothing_is_detectable_where_nothing_is_known() -> None:
    assert np.isnan(minimum_detectable_difference([0.1, NAN, 0.0], [1, 9, 9])).all()


def test_effect_size_is_over_clusters() -> None:
    sums, counts = np.array([[2.0, 1.0], [3.0, 1.0], [8.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 1.0], [4.0, 1.0]])
    means = np.array([1.0, 3.0, 2.0])
    found = effect_size(sums, counts)
    assert found[0] == pytest.approx(means.mean() / means.std(ddof=1))
    assert np.isnan(found[1])


def test_letters_by_hand() -> None:
    assert compact_letters(["x", "y", "z"], []) == {"x": "a", "y": "a", "z": "a"}
    assert compact_letters(["x", "y", "z"], [("x", "z")]) == {"x": "a", "y": "ab", "z": "b"}
    assert compact_letters(["x", "y", "z"], [("x", "y"), ("x", "z"), ("y", "z")]) == {"x": "a", "y": "b", "z": "c"}
    assert compact_letters([], []) == {}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.data())
def test_letters_are_shared_exactly_by_those_that_do_not_differ(count: int, data: st.DataObject) -> None:
    names = [f"m{k}" for k in range(count)]
    pairs = list(combinations(names, 2))
    different = data.draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    letters = compact_letters(names, sorted(different))
    assert letters["m0"].startswith("a")
    for pair in pairs:
        assert bool(set(letters[pair[0]]) & set(letters[pair[1]])) == (pair not in different)


# Derived metrics


METRICS = {name: {"family": name.split("/")[0]} for name in ("a", "b/one@raw", "b/two@raw", "whole", "other")}
RULES = {"whole": Derived(("b", "a"), (1.0, 3.0)), "other": Derived(("a", "lacking"), (1.0, 1.0))}


def test_the_parts_of_a_metric() -> None:
    plain, whole, other = (parts_of(name, METRICS, RULES) for name in ("a", "whole", "other"))
    means = np.array([[0.9, 0.9], [0.8, 0.8], [0.5, 0.0]])
    assert plain.metrics == ("a",) and plain.note == ""
    assert plain.statistic(means).tolist() == [0.9, 0.9]
    assert whole.metrics == ("whole", "b/one@raw", "a")
    assert whole.statistic(means) == pytest.approx([(0.8 * 0.5**3) ** 0.25, 0.0])
    assert other.lacking == ("lacking",) and "score them too" in other.note
    assert np.isnan(other.statistic(means)).all(), "never the mean of the samples in its place"


def test_rules_of_idtool_are_of_metrics_that_there_are() -> None:
    from idtool.evaluate.metrics import METRICS

    rules = known()
    assert rules["charis"].families == ("charis_id", "charis_prompt", "charis_color", "charis_quality")
    for name, rule in rules.items():
        assert {name, *rule.families} <= set(METRICS), name


def test_a_linear_rule_has_the_interval_and_the_p_value_of_its_sum() -> None:
    """The flip test and the bootstrap of several parts, where the answer is that of one part."""
    rng = np.random.default_rng(5)
    parts = rng.normal(0.5, 0.1, (2, 40, 3)) + np.array([0.0, 0.02, 0.1])
    starts, pairs = np.arange(0, 40, 2), [(0, 1), (0, 2), (1, 2)]
    both = differences(np.stack([parts[0], *parts]), starts, pairs, statistic=lambda means: means[1:].sum(axis=0))
    alone = differences(parts.sum(axis=0)[None], starts, pairs)
    for name in ("difference", "low", "high", "se", "p", "p_corrected", "mdd"):
        assert getattr(both, name) == pytest.approx(getattr(alone, name)), name


def test_a_part_that_nobody_has_is_left_to_the_rule() -> None:
    values = np.random.default_rng(6).uniform(0.3, 0.6, (3, 30, 2))
    values[2] = NAN
    rule = parts_of("whole", METRICS, {"whole": Derived(("b", "a"), (1.0, 1.0))})
    found = differences(values, np.arange(0, 30, 3), [(0, 1)], statistic=rule.statistic).row(0)
    alone = differences(values[1:2], np.arange(0, 30, 3), [(0, 1)]).row(0)
    assert (found["difference"], found["p"]) == pytest.approx((alone["difference"], alone["p"]))


# Matrix


def scores(folder: Path, rows: list[tuple[str, str, str | None, str, float | None, str | None, str]]) -> Path:
    names = ("metric", "method", "sample", "identity", "value", "missing", "slices")
    path = folder / "scores.parquet"
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], SCHEMA), path)
    return path


ROWS = [
    ("m", "a", "s1", "zoe", 0.1, None, '{"age": "old"}'),
    ("m", "a", "s2", "ada", None, "no face", '{"age": "young", "people": 2}'),
    ("m", "b", "s2", "ada", 0.4, None, '{"age": "young", "people": 2}'),
    ("m", "b", "s0", "zoe", 0.5, None, "{}"),
    ("other", "a", "s1", "zoe", 0.9, None, "{}"),
]


def test_matrix_has_identities_together_and_knows_what_is_missing(tmp_path: Path) -> None:
    found = read_matrix(scores(tmp_path, ROWS), ["m"], ["b", "a", "absent"])
    assert found.methods == ("b", "a")
    assert found.keys.tolist() == ["s2", "s0", "s1"]
    assert found.identities.tolist() == ["ada", "zoe", "zoe"]
    assert found.starts.tolist() == [0, 1]
    assert np.array_equal(found.values[0], [[0.4, NAN], [0.5, NAN], [NAN, 0.1]], equal_nan=True)
    assert found.asked.tolist() == [[True, True], [True, False], [False, True]]
    assert found.missing(1) == {"no face": 1}
    assert found.missing(0) == {}
    slices = {place: part.keys.tolist() for place, part in found.by_slice()}
    assert slices == {
        ("all", ""): ["s2", "s0", "s1"],
        ("age", "old"): ["s1"],
        ("age", "young"): ["s2"],
        ("people", "2"): ["s2"],
    }


def test_two_scores_of_one_sample_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two scores of one sample"):
        read_matrix(scores(tmp_path, [*ROWS, ROWS[0]]), ["m"], ["a"])


def test_parts_of_a_metric_stand_on_the_same_rows(tmp_path: Path) -> None:
    found = read_matrix(scores(tmp_path, ROWS), ["other", "m"], ["a"])
    assert found.values.shape == (2, 2, 1)
    assert np.array_equal(found.values[..., 0], [[NAN, 0.9], [NAN, 0.1]], equal_nan=True)
    assert found.scored[:, 0].tolist() == [False, True]


def test_side_by_side_joins_rows_by_sample(tmp_path: Path) -> None:
    one = read_matrix(scores(tmp_path, ROWS), ["m"], ["a"])
    two = read_matrix(scores(tmp_path, ROWS), ["m"], ["b"])
    both = side_by_side(one, two)
    assert both.methods == ("a", "b")
    assert both.keys.tolist() == ["s2", "s0", "s1"]
    assert np.array_equal(both.values[0], [[NAN, 0.4], [NAN, 0.5], [0.1, NAN]], equal_nan=True)
    assert both.missing(0) == {"no face": 1}
    assert both.starts.tolist() == [0, 1]
