"""Mining of preference pairs: known answers on planted scores, invariants of both rules, bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from idtool.commands import prefer as commands
from idtool.commands.errors import Commands
from idtool.commands.shared import Verbosity
from idtool.console import make_reporter
from idtool.curate.perturb import perturbed
from idtool.curate.prefer import dmid, idglow, judging
from idtool.curate.prefer.candidates import Candidates
from idtool.curate.prefer.crops import is_crop
from idtool.curate.prefer.inspecting import Inspector, Judge
from idtool.curate.prefer.losers import write_losers
from idtool.curate.prefer.mine import PreferRequest, prefer
from idtool.curate.prefer.pairs import Dropped, Pair
from idtool.engine.step import Binding
from idtool.errors import MissingError, QualityError, UsageError
from tests.curate.scored_bench import AES, CLIP, DINO, ID, Shot, build, rows_of, sample_id, write_manifest


def mine(bench: Path, output: Path, rule: str = "dmid", **more: Any) -> dict[str, Any]:
    own = {key: more.pop(key) for key in list(more) if key not in PreferRequest.__dataclass_fields__}
    request = PreferRequest(bench, rule, output, own, **more)  # type: ignore[arg-type]
    with make_reporter(quiet=True) as reporter:
        return prefer(None, request, reporter)


def pairs(run: Path) -> list[dict[str, Any]]:
    return rows_of(run / "preferences.parquet")


def rejects(run: Path) -> list[dict[str, Any]]:
    return rows_of(run / "rejects" / "00-prefer.parquet")


def generations(values: list[tuple[float | None, float]], prompt: str = "a person reading") -> list[Shot]:
    return [Shot({ID: face, CLIP: clip}, prompt=prompt, seed=seed) for seed, (face, clip) in enumerate(values)]


# -- rule dmid -------------------------------------------------------------------------------------------------------


def test_best_and_worst_by_the_paper_s_reward(tmp_path: Path) -> None:
    # R = 1.70, 1.92, 1.86: the second wins on CLIP although the third looks more like the person; the first loses.
    shots = generations([(0.70, 0.25), (0.72, 0.30), (0.80, 0.265)])
    result = mine(build(tmp_path / "bench", shots), tmp_path / "run", gap_quantile=0)
    [pair] = pairs(tmp_path / "run")
    assert (pair["chosen_seed"], pair["rejected_seed"]) == (1, 0)
    assert (pair["chosen_sample"], pair["rejected_sample"]) == (sample_id(shots[1]), sample_id(shots[0]))
    assert pair["margin"] == pytest.approx(0.22)
    assert [(one["part"], round(one["delta"], 6)) for one in pair["metrics"]] == [("id", 0.02), ("sem", 0.05)]
    assert pair["prompt"] == "a person reading"
    assert pair["references"] == [str(tmp_path / "bench" / "people" / "anna.png")]
    assert Path(pair["chosen"]).is_file()
    assert "best and worst of 3" in pair["reason"]
    assert result["kept"] == 1
    assert result["metrics"] == {"id": ID, "sem": CLIP}


def test_mu_and_reward_of_faces_alone_change_who_wins(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", generations([(0.70, 0.25), (0.72, 0.30), (0.80, 0.265)]))
    mine(bench, tmp_path / "faces", clip=False, gap_quantile=0)
    [pair] = pairs(tmp_path / "faces")
    assert (pair["chosen_seed"], pair["rejected_seed"], round(pair["margin"], 6)) == (2, 0, 0.1)
    assert [one["part"] for one in pair["metrics"]] == ["id"]
    mine(bench, tmp_path / "mu", mu=1.0, gap_quantile=0)  # R = .95, 1.02, 1.065
    assert pairs(tmp_path / "mu")[0]["chosen_seed"] == 2


def test_zscores_take_the_scale_out(tmp_path: Path) -> None:
    shots = generations([(0.6, 25.0), (0.7, 33.0), (0.8, 29.0)])
    shots = [Shot({ID: shot.scores[ID], "clipscore/x@x100": shot.scores[CLIP]}, seed=shot.seed) for shot in shots]
    bench = build(tmp_path / "bench", shots, metrics=(ID, "clipscore/x@x100"))
    named = {"sem": "clipscore/x@x100"}
    with pytest.raises(UsageError, match="R adds cosines, and clipscore/x@x100 is none"):
        mine(bench, tmp_path / "raw", metrics=named)
    mine(bench, tmp_path / "run", metrics=named, zscore=True, gap_quantile=0)
    # z of faces: -a, 0, a with a = 1.2247; z of CLIP: -1.2247, 1.2247, 0. Sums: -2.449, 1.2247, 1.2247; a tie: seed.
    [pair] = pairs(tmp_path / "run")
    assert pair["rejected_seed"] == 0
    assert pair["margin"] == pytest.approx(3 * math.sqrt(1.5))


def test_a_missing_clip_score_is_never_passed_over_in_silence(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", [Shot({ID: 0.6}), Shot({ID: 0.8}, seed=1)], metrics=(ID,))
    with pytest.raises(MissingError, match=r"no metric for part 'sem' \(clip_t\): profile offline binds no model"):
        mine(bench, tmp_path / "run")
    assert not (tmp_path / "run" / "preferences.parquet").exists()
    assert mine(bench, tmp_path / "run", clip=False)["kept"] == 1


def test_every_group_without_a_pair_says_why(tmp_path: Path) -> None:
    shots = [
        *generations([(0.9, 0.3), (0.5, 0.2)], "good"),
        *generations([(0.45, 0.3), (0.30, 0.2)], "not the person"),
        *generations([(0.9, 0.30), (None, 0.2), (None, 0.2)], "no faces"),
        *generations([(0.7, 0.3), (0.7, 0.3)], "all alike"),
        Shot({ID: 0.9, CLIP: 0.3}, prompt="alone"),
        Shot({}, prompt="alone", seed=1, media=None),
    ]
    result = mine(build(tmp_path / "bench", shots), tmp_path / "run", gap_quantile=0)
    assert [pair["prompt"] for pair in pairs(tmp_path / "run")] == ["good"]
    told = {row["prompt"]: row for row in rejects(tmp_path / "run")}
    assert {prompt: row["reason"] for prompt, row in told.items()} == {
        "not the person": "floor.id",
        "no faces": "too_few",
        "all alike": "gap.none",
        "alone": "too_few",
    }
    assert told["not the person"]["value"] == pytest.approx(0.45)
    assert told["not the person"]["threshold"] == ">= 0.5"
    assert told["no faces"]["message"] == "1 of 3 generations are scored (2 of 2: no face in the image)"
    assert told["alone"]["message"] == "1 of 2 generations are scored (1 of 1: no image)"
    assert result["reasons"] == {"too_few": 2, "floor.id": 1, "gap.none": 1}
    assert result["kept"] + result["rejected"] == result["groups"] == 5


def test_small_gaps_are_dropped_by_quantile(tmp_path: Path) -> None:
    shots = [
        shot
        for k, gap in enumerate((0.01, 0.05, 0.10, 0.20))
        for shot in generations([(0.6 + gap, 0.3), (0.6, 0.3)], f"prompt {k}")
    ]
    bench = build(tmp_path / "bench", shots)
    mine(bench, tmp_path / "run", gap_quantile=0.5)
    assert sorted(pair["prompt"] for pair in pairs(tmp_path / "run")) == ["prompt 2", "prompt 3"]
    for row in rejects(tmp_path / "run"):
        assert row["reason"] == "gap.quantile"
        assert row["threshold"] == ">= 0.075 (quantile 0.5)"
        assert row["chosen"]
        assert row["rejected"]
    mine(bench, tmp_path / "all", gap_quantile=0)
    assert len(pairs(tmp_path / "all")) == 4


def test_methods_and_baselines_do_not_mix(tmp_path: Path) -> None:
    shots = [Shot({ID: value, CLIP: 0.3}, seed=seed) for seed, value in enumerate((0.6, 0.7))]
    shots += [Shot({ID: value, CLIP: 0.3}, seed=seed, method="theirs") for seed, value in enumerate((0.8, 0.9))]
    shots += [Shot({ID: 1.0, CLIP: 0.3}, method="copy")]
    bench = build(tmp_path / "bench", shots, baselines=("copy",))
    mine(bench, tmp_path / "run", gap_quantile=0)
    assert sorted((pair["chosen_method"], pair["rejected_method"]) for pair in pairs(tmp_path / "run")) == [
        ("mine", "mine"),
        ("theirs", "theirs"),
    ]
    mine(bench, tmp_path / "across", across=True)
    [pair] = pairs(tmp_path / "across")
    assert (pair["chosen_method"], pair["rejected_method"]) == ("theirs", "mine")
    mine(bench, tmp_path / "one", methods=("mine",))
    assert {pair["chosen_method"] for pair in pairs(tmp_path / "one")} == {"mine"}


def test_no_pair_at_all_fails_and_leaves_the_reasons(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", generations([(0.2, 0.3), (0.1, 0.3)]))
    with pytest.raises(QualityError, match=r"No pair is left of 1 groups: floor.id 1"):
        mine(bench, tmp_path / "run")
    assert rejects(tmp_path / "run")[0]["reason"] == "floor.id"
    assert pairs(tmp_path / "run") == []


def test_the_same_again_gives_the_same_and_another_seed_order_too(tmp_path: Path) -> None:
    shots = generations([(0.7, 0.3), (0.7, 0.3), (0.6, 0.3), (0.6, 0.3)])
    for name, order in (("one", shots), ("two", shots[::-1])):
        mine(build(tmp_path / name / "bench", order), tmp_path / name / "run")
    one, two = pairs(tmp_path / "one" / "run"), pairs(tmp_path / "two" / "run")
    assert [row["chosen_seed"] for row in one] == [row["chosen_seed"] for row in two] == [1]
    assert [row["rejected_seed"] for row in one] == [row["rejected_seed"] for row in two] == [0 + 2]
    first = json.loads((tmp_path / "one" / "run" / "run.json").read_text())["pairs_hash"]
    mine(tmp_path / "one" / "bench", tmp_path / "one" / "run")
    assert json.loads((tmp_path / "one" / "run" / "run.json").read_text())["pairs_hash"] == first


def candidates(groups: list[int], **values: list[float]) -> Candidates:
    n = len(groups)
    keys = [str(k) for k in range(max(groups, default=-1) + 1)]
    return Candidates(
        [f"s{k:03d}" for k in range(n)],
        ["mine"] * n,
        [f"/m/{k}.png" for k in range(n)],
        list(range(n)),
        [2] * n,
        {},
        np.array(groups, np.int64),
        keys,
        {part: np.array(one, np.float64) for part, one in values.items()},
        {part: {} for part in values},
    )


VALUE = st.one_of(st.just(math.nan), st.floats(-1, 1).map(lambda v: round(v, 3)))


@given(st.lists(st.tuples(st.integers(0, 3), VALUE, VALUE), max_size=24), st.booleans(), st.floats(0, 0.9))
def test_dmid_invariants(rows: list[tuple[int, float, float]], zscore: bool, quantile: float) -> None:
    groups = sorted(row[0] for row in rows)
    groups = [sorted(set(groups)).index(group) for group in groups]
    told = candidates(groups, id=[row[1] for row in rows], sem=[row[2] for row in rows])
    own = dmid.DmidSettings(zscore=zscore, gap_quantile=quantile, floor=0.0)
    found = list(dmid.mine(told, own))
    assert sorted(one.group for one in found) == sorted(set(groups))  # each group says one thing
    for one in found:
        if isinstance(one, Dropped):
            assert one.message
            continue
        members = [k for k, group in enumerate(groups) if group == one.group]
        assert {one.chosen, one.rejected} <= set(members)
        scored = [k for k in members if np.isfinite(told.values["id"][k]) and np.isfinite(told.values["sem"][k])]
        reward = dmid.rewards({part: told.values[part][scored] for part in ("id", "sem")}, own)
        by_row = dict(zip(scored, reward, strict=True))
        assert by_row[one.chosen] == max(reward)
        assert by_row[one.rejected] == min(reward)
        assert one.margin == pytest.approx(max(reward) - min(reward))
        assert told.values["id"][one.chosen] >= 0.0


# -- rule idglow -----------------------------------------------------------------------------------------------------

TAU = np.array(list(idglow.TAU.values()))


def test_the_filter_as_printed_and_guarded() -> None:
    # The spec's case: identity much better, aesthetics far worse.
    deltas = np.array([[0.3, 0.0, 0.0, -2.0], [0.3, 0.0, 0.0, -0.2], [0.05, 0.05, 0.02, 0.3], [math.nan] * 4])
    assert idglow.passes(deltas, TAU, "paper").tolist() == [True, True, False, False]
    assert idglow.passes(deltas, TAU, "guarded").tolist() == [False, True, False, False]
    known = np.array([[0.1, math.nan, -0.02, math.nan]])
    assert idglow.margins(known, TAU).tolist() == [pytest.approx((0.1 / 0.05 - 1) / 2)]
    assert math.isnan(idglow.margins(deltas, TAU)[3])


@given(st.lists(st.lists(st.one_of(st.just(math.nan), st.floats(-3, 3)), min_size=4, max_size=4), min_size=1))
def test_guarded_keeps_no_more_than_paper(rows: list[list[float]]) -> None:
    deltas = np.array(rows)
    guarded, paper = idglow.passes(deltas, TAU, "guarded"), idglow.passes(deltas, TAU, "paper")
    assert not (guarded & ~paper).any()
    assert not (paper & idglow.passes(-deltas, TAU, "guarded") & guarded).any()  # guarded: never both ways


@given(
    st.lists(st.tuples(st.integers(0, 2), VALUE, VALUE, st.sampled_from(("mine", "photos", "worse"))), max_size=14),
    st.floats(-1, 0.5),
)
def test_idglow_invariants(rows: list[tuple[int, float, float, str]], floor: float) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    numbers = sorted({row[0] for row in rows})
    told = candidates(
        [numbers.index(row[0]) for row in rows], id=[row[1] for row in rows], aes=[row[2] for row in rows]
    )
    told = Candidates(**{**vars(told), "methods": [row[3] for row in rows]})
    own = {"use": ("id", "aes"), "photos": ("photos",), "perturbed": ("worse",), "floor": floor, "most": None}
    sets = {}
    for rule in ("paper", "guarded"):
        given_ = idglow.IdGlowSettings(filter=rule, **own)  # type: ignore[arg-type]
        found = list(idglow.mine(told, given_))
        assert {one.group for one in found} == set(range(len(numbers)))  # no group is lost without a word
        sets[rule] = {(one.chosen, one.rejected) for one in found if isinstance(one, Pair)}
        for one in (one for one in found if isinstance(one, Pair)):
            assert told.groups[one.chosen] == told.groups[one.rejected] == one.group
            kinds = (given_.kind(told.methods[one.chosen]), given_.kind(told.methods[one.rejected]))
            assert "/".join(kinds) == one.source
            assert kinds[0] != "perturbed"
            assert kinds[1] != "photo"
            if kinds[0] == "generated":
                assert told.values["id"][one.chosen] >= floor
    assert sets["guarded"] <= sets["paper"]
    assert not {(b, a) for a, b in sets["paper"]} & sets["paper"]


def scores(face: float | None, dino: float = 0.5, clip: float = 0.25, aesthetic: float = 5.0) -> dict[str, Any]:
    return {ID: face, DINO: dino, CLIP: clip, AES: aesthetic}


TWO = ("anna", "bert")
ALL = (ID, DINO, CLIP, AES)


def group_shots() -> list[Shot]:
    good = Shot(scores(0.70, aesthetic=5.5), TWO, seed=1, colour=(10, 200, 10))
    return [
        Shot(scores(0.60, 0.8, aesthetic=6.0), TWO, method="photos", colour=(200, 10, 10)),
        good,
        Shot(scores(0.30), TWO, seed=2),
        Shot(scores(0.40), TWO, seed=3),
        Shot(scores(0.65, aesthetic=4.0), TWO, method="worse", parent=sample_id(good)),
    ]


def test_photos_good_and_poor_generations_and_worse_copies(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", group_shots(), metrics=ALL)
    result = mine(bench, tmp_path / "run", "idglow", photos=("photos",), perturbed=("worse",))
    found = {pair["source"]: pair for pair in pairs(tmp_path / "run")}
    assert set(found) == {"photo/generated", "generated/generated", "generated/perturbed"}
    # The copy was made of the good generation, so it says nothing of the photo.
    assert found["generated/perturbed"]["chosen_seed"] == 1
    assert found["generated/perturbed"]["rejected_method"] == "worse"
    assert found["generated/generated"]["rejected_seed"] == 2
    # The photo is less like the references than the good generation: guarded lets only the poor ones lose to it.
    assert found["photo/generated"]["rejected_seed"] == 2
    told = {one["part"]: one for one in found["photo/generated"]["metrics"]}
    assert told["id"]["delta"] == pytest.approx(0.3)
    assert told["aes"]["tau"] == 0.3
    assert told["obj"]["metric"] == DINO
    assert found["photo/generated"]["margin"] == pytest.approx((0.3 / 0.05 + 0.3 / 0.05 + 0 + 1.0 / 0.3) / 4)
    assert result["sources"]["photo/generated"] == 1
    mine(bench, tmp_path / "all", "idglow", photos=("photos",), perturbed=("worse",), most=None)
    assert len(pairs(tmp_path / "all")) > len(found)


def test_groups_of_other_sizes_photos_of_others_and_bad_generations_are_told(tmp_path: Path) -> None:
    four = ("anna", "bert", "carl", "dora")
    shots = [
        Shot(scores(0.9), ("anna",)),
        Shot(scores(0.9), four),
        Shot(scores(0.10), TWO, method="photos", prompt="other people"),
        Shot(scores(0.20), TWO, prompt="other people", seed=1),
        Shot(scores(0.60), TWO, prompt="alike", seed=1),
        Shot(scores(0.61), TWO, prompt="alike", seed=2),
        Shot(scores(0.9), TWO, prompt="fine", seed=1),
        Shot(scores(0.5), TWO, prompt="fine", seed=2),
    ]
    bench = build(tmp_path / "bench", shots, metrics=ALL)
    mine(bench, tmp_path / "run", "idglow", photos=("photos",))
    assert [pair["prompt"] for pair in pairs(tmp_path / "run")] == ["fine"]
    told = [(row["prompt"], row["reason"]) for row in rejects(tmp_path / "run")]
    assert sorted(told) == [
        ("a person reading", "people.count"),
        ("a person reading", "people.count"),
        ("alike", "filter.guarded"),
        ("other people", "floor.id"),
        ("other people", "photo.other_people"),
    ]


def test_parts_that_are_missing_must_be_left_out_by_name(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", [Shot(scores(0.9), TWO), Shot(scores(0.5), TWO, seed=1)], metrics=(ID, CLIP))
    with pytest.raises(MissingError, match="no metric for part 'obj'"):
        mine(bench, tmp_path / "run", "idglow")
    assert mine(bench, tmp_path / "run", "idglow", use=("id", "sem"))["metrics"] == {"id": ID, "sem": CLIP}


def test_other_people_of_the_same_prompt_are_another_group(tmp_path: Path) -> None:
    shots = [Shot(scores(0.9 - k / 10), people) for k, people in enumerate((("a", "b"), ("a", "c"), ("b", "c")))]
    bench = build(tmp_path / "bench", shots, metrics=ALL)
    with pytest.raises(QualityError):
        mine(bench, tmp_path / "run", "idglow")
    assert {row["reason"] for row in rejects(tmp_path / "run")} == {"no_pair"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.floats(0.5, 1)), min_size=2, max_size=12))
def test_identities_never_mix(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, float]]) -> None:
    folder = tmp_path_factory.mktemp("mix")
    shots = [Shot({ID: v, CLIP: 0.3}, (who,), f"prompt {p}", seed) for seed, (who, p, v) in enumerate(rows)]
    # One reference picture for all: only the label tells the people apart.
    shots = [Shot(**{**vars(shot), "references": ("/people/one.png",)}) for shot in shots]
    bench = build(folder / "bench", shots, draw=False)
    try:
        mine(bench, folder / "run", gap_quantile=0)
    except QualityError:
        return
    by_id = {sample_id(shot): shot for shot in shots}
    for pair in pairs(folder / "run"):
        one, other = by_id[pair["chosen_sample"]], by_id[pair["rejected_sample"]]
        assert (one.people, one.prompt) == (other.people, other.prompt)
        assert pair["identity"] == one.people[0]


def test_worse_copies_are_written_with_tables_that_evaluate_reads(tmp_path: Path) -> None:
    from idtool.evaluate.pictures import rows_of_table

    shots = [Shot(scores(0.4 + k / 10), TWO, seed=k, colour=(40 * k, 90, 200 - 40 * k)) for k in range(4)]
    bench = build(tmp_path / "bench", shots, metrics=ALL)
    result = write_losers(bench, tmp_path / "losers", seed=3)
    assert result["copies"] == 3  # 0.5, 0.6 and 0.7 reach the floor
    mine_, worse = (list(rows_of_table(result["tables"][name])) for name in ("mine", "perturbed"))
    assert len(mine_) == 4
    assert {row["people"][0] for row in worse} == {"anna"}
    by_media = {row["media"]: row for row in mine_}
    for row in worse:
        told = json.loads(row["slices"])
        original = by_media[told["parent"]]
        keys = ("prompt", "references", "people", "identity", "seed")
        assert [row[key] for key in keys] == [original[key] for key in keys]
        how = json.loads(told["perturbation"])
        again = perturbed(np.asarray(Image.open(told["parent"]).convert("RGB")), how, how["seed"])
        assert (np.asarray(Image.open(row["media"])) == again).all()
        assert (again != np.asarray(Image.open(told["parent"]))).any()
    with pytest.raises(UsageError, match="is not empty"):
        write_losers(bench, tmp_path / "losers")
    with pytest.raises(QualityError, match="none reaches the floor"):
        write_losers(bench, tmp_path / "none", floor=0.9)


# -- references and judge --------------------------------------------------------------------------------------------


def test_references_cut_out_of_the_chosen_photo_are_seen(fixtures: Path, tmp_path: Path) -> None:
    groups = sorted((fixtures / "groups").rglob("*.jpg"))
    photo = Image.open(groups[0]).convert("RGB")
    width, height = photo.size
    part = photo.crop((width // 4, height // 4, 3 * width // 4, 3 * height // 4)).resize((500, 500 * height // width))
    part.save(tmp_path / "cut.jpg", quality=85)
    other = np.asarray(Image.open(groups[-1]).convert("RGB"))
    assert is_crop(np.asarray(part), np.asarray(photo))
    assert not is_crop(np.asarray(part), other)

    references = (str(tmp_path / "cut.jpg"), str(groups[-1]))
    shots = [
        Shot(scores(0.8), TWO, method="photos", media=str(groups[0]), references=references),
        Shot(scores(0.4), TWO, seed=1, references=references),
    ]
    bench = build(tmp_path / "bench", shots, metrics=ALL)
    mine(bench, tmp_path / "run", "idglow", photos=("photos",))
    assert pairs(tmp_path / "run")[0]["flags"] == ["reference_crop"]
    with pytest.raises(QualityError, match=r"reference\.crop 1"):
        mine(bench, tmp_path / "strict", "idglow", photos=("photos",), crops="drop")
    same = [Shot(**{**vars(shot), "references": (str(groups[0]), str(groups[-1]))}) for shot in shots]
    with pytest.raises(QualityError, match=r"reference\.is_chosen 1"):
        mine(build(tmp_path / "same", same, metrics=ALL), tmp_path / "never", "idglow", photos=("photos",))


def test_a_judge_keeps_the_pairs_whose_chosen_image_it_prefers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    pytest.importorskip("httpx")
    from idtool.models import load
    from tests.evaluate.judging import binding
    from tests.models.chat_server import ChatServer, Request, fails, says

    shots = [
        Shot({ID: face, CLIP: 0.3}, prompt=prompt, seed=seed, colour=(0, 0, 250) if seed else (250, 0, 0))
        for prompt in ("alpha", "beta", "gamma", "delta", "epsilon")
        for seed, face in enumerate((0.6, 0.8))
    ]
    bench = build(tmp_path / "bench", shots)

    def answer(request: Request) -> Any:
        """Prefers blue, the chosen one, for alpha, red for beta; has no preference, will not say, breaks down."""
        if "gamma" in request.prompt:
            return says('{"reasons": ["alike"], "score": 2}')
        if "delta" in request.prompt:
            return says("I'm sorry, but I can't help with that.")
        if "epsilon" in request.prompt:
            return fails(500)
        x = request.images[-2]
        blue_first = bool(x[24, 20, 2] > x[24, 20, 0])
        wanted = blue_first if "alpha" in request.prompt else not blue_first
        return says(json.dumps({"reasons": ["likeness"], "score": 0 if wanted else 4}))

    with ChatServer().running() as server:
        server.script(answer)
        entry = binding(server)
        judge = Judge(load(Binding("judge", entry["model"], options=entry["options"])), entry["model"])
        mine(bench, tmp_path / "run", gap_quantile=0)
        found = list(Inspector(judge=judge)(pairs(tmp_path / "run")))
    told = {row["prompt"]: outcome and (outcome["reason"], outcome["status"]) for row, outcome in found}
    assert told == {
        "alpha": None,
        "beta": ("judge.prefers_rejected", "rejected"),
        "gamma": ("judge.tie", "rejected"),
        "delta": ("judge.unscored", "rejected"),
        "epsilon": ("judge.unscored", "error"),
    }
    kept = next(row for row, outcome in found if outcome is None)
    assert (kept["judge_score"], kept["judge_reason"]) == (2.0, "likeness")


def test_the_question_names_the_pictures_and_draws_the_order() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    asked = judging.ask("a", [image, image], image + 1, image + 2, "{pictures} {prompt}")
    assert asked.prompt.startswith("The first 2 pictures are references")
    assert "{pictures} {prompt}" in asked.prompt  # what stands in a prompt is not filled in
    assert int(asked.images[2][0, 0, 0]) == (1 if judging.chosen_first("a") else 2)
    assert {judging.chosen_first(str(k)) for k in range(20)} == {True, False}


# -- bad input, the command line, scale ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"metrics": {"id": "facesmi"}}, "no metric 'facesmi'. .*facesim"),
        ({"metrics": {"face": ID}}, "no part 'face'"),
        ({"metrics": {"aes": ID}}, "for a part that is not used"),
        ({"methods": ("mien",)}, "no method 'mien'. Did you mean 'mine'"),
        ({"mu": -1.0}, "Rule dmid, mu: "),
        ({"flor": 0.1}, "Rule dmid, flor: .*floor"),
    ],
)
def test_wrong_requests_are_told_before_anything_is_written(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    bench = build(tmp_path / "bench", generations([(0.7, 0.3), (0.6, 0.3)]), draw=False)
    with pytest.raises(UsageError, match=says):
        mine(bench, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_folders_that_are_no_benchmark_or_hold_another_run(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", generations([(0.7, 0.3), (0.6, 0.3)]))
    with pytest.raises(UsageError, match=r"is no benchmark"):
        mine(tmp_path, tmp_path / "run")
    (bench / "scores.parquet").rename(bench / "scores")
    with pytest.raises(UsageError, match=r"has no scores\.parquet"):
        mine(bench, tmp_path / "run")
    (bench / "scores").rename(bench / "scores.parquet")
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"format": 1, "steps": [{"name": "ingest", "index": 0}]}')
    with pytest.raises(UsageError, match="holds another kind of run"):
        mine(bench, other)
    with pytest.raises(UsageError, match="photos and worse copies at once"):
        mine(bench, tmp_path / "run", "idglow", photos=("mine",), perturbed=("mine",))
    with pytest.raises(UsageError, match="tau: tau is above 0"):
        mine(bench, tmp_path / "run", "idglow", tau={"id": -1})


def application() -> Any:
    app = typer.Typer(cls=Commands)

    @app.callback()
    def options(ctx: typer.Context) -> None:
        ctx.obj = Verbosity()

    app.command("prefer")(commands.prefer)
    app.command("review")(commands.review)
    return app


def test_the_command_line(tmp_path: Path) -> None:
    bench = build(tmp_path / "bench", group_shots(), metrics=ALL)
    run = tmp_path / "run"
    told = ["--rule", "idglow", "--photos", "photos", "--perturbed", "worse", "--tau", "aes=0.4", "--people", "2"]
    done = CliRunner().invoke(application(), ["prefer", "--from", str(bench), "-o", str(run), *told, "--json", "-q"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["kept"] == 3
    settings_ = json.loads((run / "run.json").read_text())["settings"]
    assert settings_["tau"] == {"aes": 0.4}
    assert settings_["people"] == [2]
    bad = CliRunner().invoke(application(), ["prefer", "--from", str(bench), "-o", str(run), "--metric", "id", "-q"])
    assert bad.exit_code == 2
    assert CliRunner().invoke(application(), ["review", str(run), "--json"]).exit_code == 0


def test_memory_grows_by_little_more_than_the_ids(tmp_path: Path) -> None:
    import tracemalloc

    n, per = 16_000, 8
    folder = tmp_path / "bench"
    folder.mkdir()
    random = np.random.default_rng(0)
    ids = pa.array([f"{k:032x}" for k in range(n)])
    group = np.arange(n) // per
    prompts = pa.array([f"a person in scene {k}, with words that make it as long as captions are" for k in group])
    people = pa.array([[f"person {k % 500}"] for k in group])
    references = pa.array([[f"/somewhere/people/{k % 500:05d}.jpg"] for k in group])
    identity = pa.array([f"person {k % 500}" for k in group])
    nulls = {name: pa.nulls(n) for name in ("targets", "why", "seconds", "peak_memory", "nsfw")}
    fixed = {"suite": "fake", "method": "mine", "slices": "{}", "outcome": "made"}
    columns = {
        **{name: pa.array([value] * n) for name, value in fixed.items()},
        **nulls,
        "id": ids,
        "media": pa.array([f"methods/mine/media/{k:08d}.png" for k in range(n)]),
        "references": references,
        "people": people,
        "identity": identity,
        "prompt": prompts,
        "seed": pa.array(np.arange(n) % per),
    }
    from idtool.evaluate.score_methods import SAMPLES
    from idtool.evaluate.scoring import SCHEMA

    pq.write_table(
        pa.table([columns[f.name].cast(f.type) for f in SAMPLES], schema=SAMPLES), folder / "samples.parquet"
    )
    face = random.uniform(0.4, 0.9, n)
    with pq.ParquetWriter(folder / "scores.parquet", SCHEMA) as writer:
        for name, values in ((ID, face), (CLIP, random.normal(0.3, 0.01, n))):
            own = {"sample": ids, "value": pa.array(values), "prompt": prompts, "identity": identity}
            told = {"suite": "fake", "profile": "offline", "method": "mine", "metric": name, "slices": "{}"}
            own |= {key: pa.array([value] * n) for key, value in told.items()}
            own |= {"missing": pa.nulls(n), "seed": columns["seed"]}
            writer.write_table(pa.table([own[f.name].cast(f.type) for f in SCHEMA], schema=SCHEMA))
    write_manifest(folder, ("mine",), (ID, CLIP), (), {ID: "cosine", CLIP: "cosine"})
    del columns, prompts, people, references, identity, ids
    tracemalloc.start()
    result = mine(folder, tmp_path / "run", gap_quantile=0.25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result["groups"] == n // per
    assert result["kept"] + result["rejected"] == n // per
    assert peak < 20e6 + 1500 * n
    run = pq.read_table(tmp_path / "run" / "preferences.parquet", columns=["chosen_seed", "group"])
    assert len(set(run["group"].to_pylist())) == result["kept"]
