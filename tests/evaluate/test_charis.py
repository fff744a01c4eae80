"""CHARIS: the paper's tables from their axes, the means, and the metrics on columns made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding, Env
from idtool.evaluate.charis.aggregate import ALG2, BENCH, FILTER, Derived, corpus, geometric_mean
from idtool.evaluate.charis.agreement import agreement
from idtool.evaluate.metrics import METRICS
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.charis import DERIVED, Charis, CharisAxes, CharisPrompt, CharisPromptRescaled, ColorScore
from idtool.evaluate.metrics.judged import DERIVED as PRODUCTS
from idtool.evaluate.metrics.judged import JudgeAgreement
from idtool.evaluate.samples import Sample
from idtool.evaluate.scoring import choose
from tests.evaluate.offline import sample

# Instruct Identity: identity (CP), prompt (PF), colour (RC), quality (VQ) and CHARIS as printed.
TABLES = {
    "Table 1 UNO": ((0.844, 0.617, 0.464, 0.693), 0.640),
    "Table 1 DSD": ((0.750, 0.610, 0.590, 0.747), 0.670),
    "Table 1 OminiControl": ((0.781, 0.617, 0.604, 0.747), 0.683),
    "Table 1 ours": ((0.906, 0.662, 0.670, 0.788), 0.750),
    "Table 2 A": ((0.903, 0.635, 0.625, 0.771), 0.725),
    "Table 2 B": ((0.906, 0.638, 0.670, 0.788), 0.743),
    "Table 2 C": ((0.901, 0.624, 0.667, 0.779), 0.735),
    "Table 2 full loss": ((0.712, 0.514, 0.663, 0.749), 0.652),
}
# CP, PF and their product, plain and debiased.
PAIRS = (
    (0.809, 0.750, 0.607), (0.688, 0.781, 0.537), (0.594, 0.844, 0.501), (0.812, 0.938, 0.762),
    (0.778, 0.656, 0.510), (0.688, 0.625, 0.430), (0.688, 0.781, 0.537), (0.781, 0.906, 0.708),
    (0.700, 0.889, 0.622), (0.730, 0.861, 0.629), (0.538, 0.600, 0.323),
    (0.900, 0.830, 0.747), (0.899, 0.774, 0.696), (0.712, 0.605, 0.431),
)  # fmt: skip


@pytest.mark.parametrize("row", TABLES)
def test_the_tables_of_the_paper_follow_from_their_axes(row: str) -> None:
    axes, printed = TABLES[row]
    value = float(corpus(dict(zip(BENCH, axes, strict=True)), BENCH))
    assert value == pytest.approx(printed, abs=0.001)
    assert float(DERIVED["charis"](axes)) == pytest.approx(value, abs=1e-12)


def test_the_full_loss_row_is_rounded_the_other_way() -> None:
    assert float(DERIVED["charis"](TABLES["Table 2 full loss"][0])) == pytest.approx(0.6529, abs=5e-5)


@pytest.mark.parametrize(("concept", "following", "printed"), PAIRS)
def test_the_products_of_the_paper_follow_from_their_means(concept: float, following: float, printed: float) -> None:
    assert float(PRODUCTS["dreambench_cppf"]([concept, following])) == pytest.approx(printed, abs=0.001)


# -- means -----------------------------------------------------------------------------------------------------------


def test_weights_of_the_modes() -> None:
    assert set(BENCH.values()) == {0.25} and sum(FILTER.values()) == pytest.approx(1)
    assert list(ALG2) == ["id", "color", "quality", "diversity"]
    assert DERIVED["charis_filter"].families == (
        "charis_id", "charis_prompt", "charis_color", "charis_quality", "charis_diversity",
    )  # fmt: skip
    assert DERIVED["charis_rescaled"].families[1] == "charis_prompt_rescaled"
    assert all(family in METRICS for one in (*DERIVED.values(), *PRODUCTS.values()) for family in one.families)


def test_a_weighted_geometric_mean() -> None:
    assert float(geometric_mean([0.5, 0.5], [3, 1])) == pytest.approx(0.5)
    assert float(geometric_mean([0.9, 0.1], [3, 1])) == pytest.approx(0.9**0.75 * 0.1**0.25)
    assert float(geometric_mean([0.9, 0.1], [0.3, 0.1])) == pytest.approx(0.9**0.75 * 0.1**0.25)
    assert float(geometric_mean([0.9, 0.0], [1, 1])) == 0
    assert float(geometric_mean([0.9, 0.1, np.nan], [3, 1, 7])) == pytest.approx(0.9**0.75 * 0.1**0.25)
    assert float(geometric_mean([0.0, np.nan], [1, 1])) == 0
    assert math.isnan(float(geometric_mean([np.nan, np.nan], [1, 1])))
    rows = np.random.default_rng(0).uniform(0.01, 1, (5, 3, 4))
    rows[0, 0, 1] = np.nan
    found = geometric_mean(rows, list(BENCH.values()))
    assert found.shape == (5, 3)
    assert found[1, 2] == pytest.approx(np.prod(rows[1, 2]) ** 0.25)
    assert found[0, 0] == pytest.approx(np.prod(rows[0, 0, [0, 2, 3]]) ** (1 / 3))
    for values, weights in (([0.5, -0.1], [1, 1]), ([0.5], [1, 1]), ([0.5, 0.5], [1, 0])):
        with pytest.raises(ValueError, match="Expected"):
            geometric_mean(values, weights)


def test_a_corpus_number_for_every_bootstrap_replicate_at_once() -> None:
    means = {"id": np.array([0.9, 0.8]), "prompt": 0.6, "quality": [0.7, 0.5]}
    assert corpus(means, BENCH) == pytest.approx([(0.9 * 0.6 * 0.7) ** (1 / 3), (0.8 * 0.6 * 0.5) ** (1 / 3)])
    assert math.isnan(float(corpus({}, BENCH)))
    with pytest.raises(ValueError, match="has no weight"):
        corpus({"diversity": 0.5}, BENCH)
    product = Derived(("a", "b"), (1.0, 1.0), "product")
    assert product([np.array([0.5, 0.2]), 0.5]) == pytest.approx([0.25, 0.1])
    assert math.isnan(float(product([0.5, None])))


# -- metrics on columns ----------------------------------------------------------------------------------------------


def made(cosine: float = 0.3, **columns: Any) -> Sample:
    """A sample whose axes are id .75, prompt (1 + cosine) / 2, color .6, quality .8, diversity .5."""
    fixed = {
        "judge_identity_score": 0.75,
        "judge_prompt_score": 1.0,
        "judge_diversity_score": 0.5,
        "color_score": 0.6,
        "iqa": 0.8,
        "clip_embedding": [1.0, 0.0],
    }
    text = {"text_embedding": [cosine, math.sqrt(1 - cosine**2)]}
    return replace(sample(fixed | columns), prompt=text)


def test_the_axes_of_one_sample_and_their_mean() -> None:
    one = made()
    assert Charis().values(one) == pytest.approx({"id": 0.75, "prompt": 0.65, "color": 0.6, "quality": 0.8})
    assert Charis()(one) == pytest.approx((0.75 * 0.65 * 0.6 * 0.8) ** 0.25)
    by_family = {family: METRICS.get(family)() for family in ("charis_filter", "charis_alg2", "charis_rescaled")}
    assert by_family["charis_filter"](one) == pytest.approx(0.75**0.3 * 0.65**0.2 * 0.6**0.2 * 0.8**0.1 * 0.5**0.2)
    assert by_family["charis_alg2"](one) == pytest.approx((0.75**0.3 * 0.6**0.2 * 0.8**0.1 * 0.5**0.2) ** (1 / 0.8))
    assert by_family["charis_rescaled"](one) == pytest.approx((0.75 * 0.8 * 0.6 * 0.8) ** 0.25)
    assert CharisAxes()(one) == 4


def test_an_axis_of_0_is_0_and_an_axis_without_a_number_is_left_out() -> None:
    assert Charis()(made(judge_identity_score=0.0)) == 0
    refused = made(judge_identity_score=None, judge_identity_why="no vote of the judge counts: refused 3")
    assert Charis()(refused) == pytest.approx((0.65 * 0.6 * 0.8) ** (1 / 3))
    assert CharisAxes()(refused) == 3
    bare = replace(refused, image={})
    assert CharisAxes()(bare) == 0
    with pytest.raises(Unscored, match="none of the axes"):
        Charis()(bare)
    with pytest.raises(Unscored, match="judge_identity: no vote of the judge counts: refused 3"):
        METRICS.get("charis_id")()(refused)
    with pytest.raises(Unscored, match="color_score: no part is found"):
        METRICS.get("charis_color")()(made(color_score=None, color_why="no part is found in both pictures"))


@pytest.mark.parametrize(
    ("cosine", "raw", "rescaled"),
    [(0.15, 0.575, 0.5), (0.40, 0.70, 1.0), (0.275, 0.6375, 0.75), (0.05, 0.525, 0.5), (0.9, 0.95, 1.0)],
)
def test_the_scale_of_the_clip_cosine(cosine: float, raw: float, rescaled: float) -> None:
    assert CharisPrompt()(made(cosine)) == pytest.approx(raw)
    assert CharisPromptRescaled()(made(cosine)) == pytest.approx(rescaled)


def test_a_negative_cosine_takes_nothing_below_0() -> None:
    assert CharisPrompt()(made(-0.2, judge_prompt_score=0.1)) == 0
    assert Charis()(made(-0.2, judge_prompt_score=0.1)) == 0


def test_variants_of_colorscore() -> None:
    one = made(color_score_median=0.5, color_score_grey=0.9, color_coverage=0.5)
    assert {metric.variant: metric(one) for metric in ColorScore.instances(Env("p", {}))} == pytest.approx(  # type: ignore[operator]
        {"": 0.6, "@median": 0.5, "@grey-world": 0.9, "@covered": 0.3}
    )
    with pytest.raises(Unscored, match="color_score: no dog"):
        ColorScore("@covered")(made(color_score=None, color_coverage=None, color_why="no dog found in the image"))


def test_names_tell_the_networks() -> None:
    labels = {"judge_prompt": "gpt-x", "judge_identity": "gpt-x", "clip": "vit-b-32", "color_score": "sam"}
    assert CharisPrompt().name(labels) == "charis_prompt/gpt-x+vit-b-32"
    assert Charis().name(labels) == "charis/gpt-x"
    assert ColorScore("@median").name(labels) == "colorscore/sam@median"
    assert JudgeAgreement("judge_prompt").name(labels) == "judge_agreement/gpt-x@prompt"


def test_a_family_is_skipped_with_the_role_that_is_missing() -> None:
    chosen = choose(["charis", "charis_quality", "dreambench_cp"], Env("p", {"iqa": (Binding("iqa", "hf:tiny/clip"),)}))
    assert [metric.family for metric in chosen.metrics] == ["charis_quality"]
    assert chosen.skipped["dreambench_cp"] == "needs role judge; profile p binds none"
    assert "needs role" in chosen.skipped["charis"]


# -- agreement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["ordinal", "interval"])
def test_agreement_as_its_library_has_it(level: Any) -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="compared with the package krippendorff (GPL)")
    rng = np.random.default_rng(0)
    for raters, units in ((2, 5), (3, 12), (5, 40), (3, 300)):
        truth = rng.integers(0, 5, units)
        ratings = np.clip(truth + rng.integers(-1, 2, (raters, units)), 0, 4).astype(float)
        ratings[rng.random(ratings.shape) < 0.2] = np.nan
        assert agreement(ratings, level) == pytest.approx(
            krippendorff.alpha(reliability_data=ratings, level_of_measurement=level), abs=1e-12
        )


def test_agreement_known_answers() -> None:
    assert agreement([[0, 1, 4], [0, 1, 4]]) == 1
    assert agreement([[0, 1, np.nan], [0, 1, 3]], "interval") == 1  # the third unit has one rating
    assert agreement([[1, 0], [0, 1]], "interval") == pytest.approx(-0.5)
    assert agreement([[2, 2], [2, 2]]) is None and agreement([[0, np.nan], [np.nan, 1]]) is None
    assert agreement(np.zeros((0, 0))) is None
    for ratings, level in (([1, 2], "ordinal"), ([[1, 2]], "nominal")):
        with pytest.raises(ValueError, match="Expected ratings"):
            agreement(ratings, level)  # type: ignore[arg-type]


def test_agreement_of_a_judges_votes() -> None:
    metric = JudgeAgreement().fresh()
    assert metric.finish().value is None
    for votes in ([4, 4, 3], [0, 0, 1], [2, None, 2], [3, None, None], None):
        metric.add(sample({"judge_identity_votes": votes}))
    found = metric.finish()
    ratings = [[4, 0, 2, 3, np.nan], [4, 0, np.nan, np.nan, np.nan], [3, 1, 2, np.nan, np.nan]]
    assert (found.value, found.n, found.note) == (agreement(ratings), 3, "")
    once = JudgeAgreement().fresh()
    once.add(sample({"judge_identity_votes": [3]}))
    assert (once.finish().value, once.finish().note) == (None, "no image has two votes that count")
    alike = JudgeAgreement().fresh()
    alike.add(sample({"judge_identity_votes": [3, 3]}))
    assert (alike.finish().value, alike.finish().note) == (None, "all votes are alike")
