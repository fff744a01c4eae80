"""FID, KID and CMMD: the numbers of the libraries on the same features, and sets that are too small or too alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg

from idtool.engine.step import Binding, Env
from idtool.evaluate import samples
from idtool.evaluate.measures.clip import Clip
from idtool.evaluate.measures.inception import Inception
from idtool.evaluate.metrics.base import SetMetric, SetScore
from idtool.evaluate.metrics.frechet import Fid, Moments, frechet_distance
from idtool.evaluate.metrics.kernel_distance import (
    Cmmd,
    Kid,
    Reservoir,
    gaussian,
    mmd,
    over_subsets,
    polynomial,
)
from idtool.evaluate.samples import Sample
from idtool.evaluate.scoring import choose
from tests.evaluate.tiny_networks import row, saved, scored
from tests.zoo import Zoo
from tests.zoo.inception import FILE, inception

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(24, 24)) / 5
MADE = (np.abs(RNG.normal(size=(120, 24)) @ MIX)).astype(np.float32)
REAL = (np.abs(RNG.normal(size=(90, 24)) @ MIX * 1.2) + 0.1).astype(np.float32)
FEATURES, EMBEDDING = Inception.writes.names[0], Clip.writes.names[0]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def score(metric: SetMetric, made: Sequence[Any], real: Sequence[Any], *, force: bool = False) -> SetScore:
    column = EMBEDDING if isinstance(metric, Cmmd) else FEATURES
    one = metric.fresh()
    for features in real:
        one.add_real({column: list(features)})
    for features in made:
        one.add(Sample({"outcome": "made"}, {column: list(features)}))
    return one.finish(force=force)


def moments(rows: np.ndarray) -> Moments:
    found = Moments()
    for features in rows:
        found.add(features)
    return found


def fid(x: np.ndarray, y: np.ndarray) -> float:
    a, b = moments(x), moments(y)
    return frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())


# ------------------------------------------------------------------------------------------------------------- FID


def test_moments_are_those_of_numpy_however_large_the_mean() -> None:
    rows = RNG.normal(size=(700, 6)) + 1e8  # three blocks; sums of squares would lose every digit
    found = moments(rows)
    assert found.n == 700
    assert np.abs(found.mean() - rows.mean(0)).max() < 1e-6
    assert np.abs(found.covariance() - np.cov(rows, rowvar=False)).max() < 1e-6
    found.add(rows[0])  # goes on after it was asked
    assert np.abs(found.covariance() - np.cov([*rows, rows[0]], rowvar=False)).max() < 1e-6


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    a, b = np.cov(MADE, rowvar=False, dtype=np.float64), np.cov(REAL, rowvar=False, dtype=np.float64)
    gap = MADE.astype(np.float64).mean(0) - REAL.astype(np.float64).mean(0)
    expected = gap @ gap + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert expected > 0.1
    assert fid(MADE, REAL) == pytest.approx(expected, rel=1e-9)
    assert fid(REAL, MADE) == pytest.approx(expected, rel=1e-9)
    # Diagonal Gaussians have a closed form.
    one, other = np.diag([4.0, 9.0, 0.0]), np.diag([1.0, 16.0, 25.0])
    assert frechet_distance(np.zeros(3), one, np.ones(3), other) == pytest.approx(3 + 1 + 1 + 25)


@pytest.mark.parametrize("n", [2, 7, 23])
def test_singular_covariances_need_no_offset(n: int) -> None:
    """With fewer images than features the trace of the root is the nuclear norm of the product of the centred sets."""
    made, real = MADE[:n].astype(np.float64), REAL[:n].astype(np.float64)
    x, y = ((rows - rows.mean(0)) / np.sqrt(n - 1) for rows in (made, real))
    gap = made.mean(0) - real.mean(0)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = gap @ gap + (x * x).sum() + (y * y).sum() - 2 * root
    assert fid(MADE[:n], REAL[:n]) == pytest.approx(expected, rel=1e-7)
    assert fid(MADE[:n], MADE[:n]) == pytest.approx(0, abs=1e-7)


def test_fid_agrees_with_torch_fidelity_and_clean_fid() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `models`")
    theirs = pytest.importorskip("torch_fidelity.metric_fid", reason="needs the group `parity`")
    found = fid(MADE, REAL)
    statistics = [theirs.fid_features_to_statistics(torch.from_numpy(rows).double()) for rows in (MADE, REAL)]
    [expected] = theirs.fid_statistics_to_metric(*statistics, verbose=False).values()
    assert found == pytest.approx(expected, rel=1e-9)
    a, b = moments(MADE), moments(REAL)
    clean = clean_fid().frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())
    assert found == pytest.approx(clean, rel=1e-9)


def clean_fid() -> Any:
    return pytest.importorskip("cleanfid.fid", reason="needs the group `parity`")


def test_fid_of_too_few_images_is_refused_unless_forced() -> None:
    refused = score(Fid(), MADE, REAL)
    assert refused.value is None
    assert (refused.n, refused.n_real) == (120, 90)
    assert refused.note == "120 generated and 90 real images: FID needs 2,048 (or --force) on each side"
    forced = score(Fid(), MADE, REAL, force=True)
    assert forced.value == pytest.approx(fid(MADE, REAL), rel=1e-9)
    assert "comparable only with FIDs of as many" in forced.note
    assert (forced.n, forced.n_real) == (120, 90)


def test_fid_of_enough_images_needs_no_force() -> None:
    many = RNG.normal(size=(2048, 3))
    assert score(Fid(), many, many[:2047]).value is None
    assert score(Fid(), many, many).value == pytest.approx(0, abs=1e-9)
    assert score(Fid(), many + np.array([3, 0, 4]), many).value == pytest.approx(25)


# ------------------------------------------------------------------------------------------------- MMD, KID, CMMD


def dense(x: np.ndarray, y: np.ndarray, kernel: Any) -> tuple[float, float]:
    """Biased and unbiased squared MMD, all pairs at once, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)

    def apart(k: np.ndarray) -> float:
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return xx.mean() + yy.mean() - 2 * xy.mean(), apart(xx) + apart(yy) - 2 * xy.mean()


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def rbf(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-((x[:, None] - y[None]) ** 2).sum(2) / 200)


@pytest.mark.parametrize(("ours", "plain"), [(polynomial, cubic), (gaussian, rbf)])
def test_both_estimates_equal_all_pairs_at_once(ours: Any, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = unit(MADE), unit(REAL)
    expected = dense(x, y, plain)
    for block in (16, 90, 1024):  # the sets in many blocks, or in one
        monkeypatch.setattr("idtool.evaluate.metrics.kernel_distance.BLOCK", block)
        found = mmd(x, y, ours)
        assert (found.biased, found.unbiased) == pytest.approx(expected, rel=1e-5)
    assert expected[0] > expected[1] > 0


def test_kid_agrees_with_torch_fidelity_and_clean_fid() -> None:
    """On whole sets of one size, where no subset is drawn by chance."""
    torch = pytest.importorskip("torch", reason="needs the extra `models`")
    made, real = MADE[:90], REAL
    found = score(Kid(), made, real).value
    theirs = pytest.importorskip("torch_fidelity.metric_kid", reason="needs the group `parity`")
    features = [torch.from_numpy(rows) for rows in (made, real)]
    told = theirs.kid_features_to_metric(*features, kid_subsets=2, kid_subset_size=90, rng_seed=0, verbose=False)
    assert found == pytest.approx(told["kernel_inception_distance_mean"], rel=1e-4)
    assert found == pytest.approx(clean_fid().kernel_distance(made, real, num_subsets=2), rel=1e-4)


def test_kid_of_many_images_is_the_mean_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idtool.evaluate.metrics.kernel_distance.SUBSET", 40)
    found = score(Kid(), MADE, REAL)
    each = over_subsets(MADE, REAL, polynomial, 40)
    assert len(each) == 100
    assert (found.value, found.std) == (pytest.approx(each.mean()), pytest.approx(each.std()))
    assert found.note == "mean of 100 subsets of 40 images"
    whole = mmd(MADE, REAL, polynomial).unbiased
    assert found.value == pytest.approx(whole, abs=4 * each.std() / 10)  # unbiased, too
    assert score(Kid(), MADE, REAL) == found  # by a fixed seed


def test_kid_of_few_images_is_of_all_pairs_with_the_spread_of_halves() -> None:
    found = score(Kid(), MADE, REAL)
    assert found.value == pytest.approx(dense(MADE, REAL, cubic)[1], rel=1e-5)
    assert found.std == pytest.approx(over_subsets(MADE, REAL, polynomial, 45).std())
    assert found.std > 0
    assert (found.n, found.n_real) == (120, 90)
    assert found.note == "unbiased, of all images; spread of 100 subsets of 45"
    three = score(Kid(), MADE[:3], REAL)
    assert three.value is not None
    assert three.std is None


def test_kid_of_two_draws_from_one_distribution_is_about_0() -> None:
    draws = RNG.normal(size=(2, 400, 8)).astype(np.float32)
    found = score(Kid(), draws[0], draws[1])
    assert found.std is not None
    assert abs(found.value or 1) < found.std
    far = score(Kid(), draws[0] + 1, draws[1])
    assert (far.value or 0) > 10 * (far.std or 1)


def test_cmmd_is_the_direct_formula() -> None:
    made, real = unit(MADE), unit(REAL)
    found = score(Cmmd(), made, real)
    biased, unbiased = dense(made, real, rbf)
    assert found.value == pytest.approx(1000 * biased, rel=1e-6)
    assert found.note == f"{1000 * unbiased:.3f} without the bias of small sets"
    assert found.std is None


def test_cmmd_keeps_its_digits_where_sets_are_near() -> None:
    """The kernel of unit vectors is 1 to three places: in float32 the difference would be noise."""
    base = unit(RNG.normal(size=(50, 16)))
    near = unit(base + 1e-3 * RNG.normal(size=base.shape))
    expected = 1000 * dense(base, near, rbf)[0]
    assert 0 < expected < 1e-4
    assert score(Cmmd(), base, near).value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("metric", [Fid(), Cmmd()], ids=["fid", "cmmd"])
def test_identical_sets_are_0_apart(metric: SetMetric) -> None:
    rows = unit(MADE)
    assert score(metric, rows, rows[::-1], force=True).value == pytest.approx(0, abs=1e-7)
    assert score(metric, rows[:1].repeat(5, 0), rows[:1].repeat(9, 0), force=True).value == pytest.approx(0, abs=1e-7)


def test_identical_sets_have_a_kid_below_0() -> None:
    """The unbiased estimate takes equal images of two sets for chance, and rightly expects fewer of them."""
    assert (score(Kid(), MADE, MADE).value or 0) < 0


@pytest.mark.parametrize("metric", [Fid(), Kid(), Cmmd()], ids=["fid", "kid", "cmmd"])
@pytest.mark.parametrize(("made", "real"), [(1, 90), (90, 1), (0, 0)])
def test_one_image_is_no_set(metric: SetMetric, made: int, real: int) -> None:
    found = score(metric, unit(MADE[:made]), unit(REAL[:real]), force=True)
    assert (found.value, found.std) == (None, None)
    assert (found.n, found.n_real) == (made, real)
    assert f"{made} generated and {real} real" in found.note
    assert "needs 2 on each side" in found.note


def test_no_more_than_so_many_are_held_each_with_the_same_chance() -> None:
    held = Reservoir(50)
    for number in range(2000):
        held.add([number, 1])
    assert (len(held), held.seen) == (50, 2000)
    numbers = held.rows()[:, 0]
    assert len(set(numbers.tolist())) == 50
    assert 700 < numbers.mean() < 1300  # from all along the way
    metric = Kid(kept=60)
    found = score(metric, MADE, REAL[:50])
    assert (found.n, found.n_real) == (60, 50)
    assert found.note.endswith("; drawn from 120 generated and 50 real images")
    assert metric.fresh().settings()["kept"] == 60


# ---------------------------------------------------------------------------------------------------- under a profile


@pytest.fixture
def env(tiny: Zoo) -> Env:
    if not (folder := tiny.mirror / "tiny" / "inception").is_dir():
        folder.mkdir(parents=True)
        inception(folder)
    tiny("clip")
    options = {"format": "fid-inception", "file": FILE}
    inceptions = (Binding("inception", "hf:tiny/inception", options=options),)
    return Env("tiny", {"inception": inceptions, "clip": (Binding("clip", "hf:tiny/clip"),)})


def test_pictures_to_numbers(env: Env, tmp_path: Path) -> None:
    def pictures(name: str, count: int, drawn: Any) -> list[Path]:
        return [saved(tmp_path / f"{name}{k}.png", drawn(k).astype(np.uint8)) for k in range(count)]

    flat = pictures("flat", 3, lambda k: np.full((40, 40, 3), 60 * k + 40))
    noise = pictures("noise", 3, lambda k: RNG.integers(0, 256, (40, 40, 3)))
    like = pictures("like", 3, lambda k: RNG.integers(0, 256, (50, 40, 3)))
    families = ["fid", "kid", "cmmd"]
    found = {}
    for name, made in (("noise", noise), ("flat", flat)):
        rows = [row(f"{k}", one, [reference]) for k, (one, reference) in enumerate(zip(made, like, strict=True))]
        of = scored(tmp_path / name, env, families, rows)
        table = samples.write(tmp_path / name / "again", rows)
        found[name] = of.scorer.set_scores(table, of.scorer.references.rows.values(), force=True)
        assert [one["per"] for one in of.scorer.describe().values()] == ["set"] * 3
    assert list(found["noise"]) == ["fid/inception-v3@clean", "kid/inception-v3@clean", "cmmd/vit-w32-8-32"]
    for name, near in found["noise"].items():
        far = found["flat"][name]
        assert (near.n, near.n_real, far.n, far.n_real) == (3, 3, 3, 3)
        assert near.value is not None
        assert far.value is not None
        assert near.value < far.value  # noise is nearer to other noise than flat colours are
    refused = of.scorer.set_scores(table, of.scorer.references.rows.values())["fid/inception-v3@clean"]
    assert refused.value is None


def test_names_tell_the_way_of_resizing(env: Env) -> None:
    labels = {"inception": "inception-v3"}
    bound = env.bindings["inception"][0]
    old = Binding(bound.role, bound.model, options={**bound.options, "preproc": "torch-fidelity"})
    [metric] = Kid.instances(Env("old", {"inception": (old,)}))
    assert metric.name(labels) == "kid/inception-v3@torch-fidelity"


def test_without_a_network_they_are_skipped_with_the_reason() -> None:
    skipped = choose(["fid", "kid", "cmmd"], Env("none", {})).skipped
    assert skipped["fid"] == skipped["kid"] == "needs role inception; profile none binds none"
    assert skipped["cmmd"] == "needs role clip; profile none binds none"
