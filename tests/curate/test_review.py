"""The review page (its script in Node, the page in a real browser) and what becomes of decisions."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idtool.curate.prefer import decisions, table
from idtool.curate.prefer.review import chosen_left, write_pages
from idtool.errors import QualityError, UsageError
from tests.curate.scored_bench import CLIP, ID, Shot, build, rows_of
from tests.curate.test_prefer import mine, pairs

TEMPLATES = Path(table.__file__).parent / "templates"
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")


def run_with(tmp_path: Path, count: int = 4, **more: Any) -> Path:
    shots = [
        Shot(
            {ID: 0.6 + 0.1 * seed, CLIP: 0.3},
            prompt=f"scene {k} </script><b>",
            seed=seed,
            colour=(200 * seed, 40 * k, 90),
        )
        for k in range(count)
        for seed in range(2)
    ]
    mine(build(tmp_path / "bench", shots), tmp_path / "run", gap_quantile=0, **more)
    return tmp_path / "run"


def said(run: Path, folder: Path, name: str, votes: list[str | None], **more: Any) -> Path:
    """A decisions file on the mined pairs in order; None: nothing is said."""
    ids = [row["id"] for row in pairs_as_mined(run)]
    told = {pair: vote for pair, vote in zip(ids, votes, strict=False) if vote is not None}
    content = {"format": 1, "kind": "idtool-review", "run": pairs_hash(run), "reviewer": name, "blind": False}
    content |= {"made": "2026-01-01T00:00:00Z", "decisions": told, **more}
    path = folder / f"{name or 'nameless'}.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def pairs_hash(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["pairs_hash"])


def pairs_as_mined(run: Path) -> list[dict[str, Any]]:
    return rows_of(run / "steps" / "00-prefer" / "table")


# -- decisions -------------------------------------------------------------------------------------------------------


def test_pairs_are_kept_swapped_dropped_or_left_alone(tmp_path: Path) -> None:
    run = run_with(tmp_path, 5)
    before = pairs_as_mined(run)
    file = said(run, tmp_path, "eva", ["chosen", "rejected", "tie", "defect", "skip"])
    result = decisions.apply(run, [file])
    assert result["decisions"] == {"kept": 1, "swapped": 1, "dropped": 2, "undecided": 1}
    assert result["reasons"] == {"review.tie": 1, "review.defect": 1}
    after = {row["id"]: row for row in pairs(run)}
    assert [after[row["id"]]["decision"] for row in before if row["id"] in after] == ["kept", "swapped", None]
    old, new = before[1], after[before[1]["id"]]
    for end in ("", "_sample", "_method", "_seed"):
        assert (new[f"chosen{end}"], new[f"rejected{end}"]) == (old[f"rejected{end}"], old[f"chosen{end}"])
    assert new["margin"] == -old["margin"]
    for one, other in zip(new["metrics"], old["metrics"], strict=True):
        assert (one["chosen"], one["rejected"], one["delta"]) == (other["rejected"], other["chosen"], -other["delta"])
    lost = rows_of(run / "rejects" / "01-review.parquet")
    assert {row["id"]: row["reason"] for row in lost} == {
        before[2]["id"]: "review.tie",
        before[3]["id"]: "review.defect",
    }
    assert pairs_as_mined(run) == before
    assert (run / "review" / "decisions" / "eva.json").is_file()


def test_applying_again_starts_from_the_mined_pairs(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    file = said(run, tmp_path, "eva", ["rejected", "tie", "chosen"])
    decisions.apply(run, [file])
    first = pairs(run)
    decisions.apply(run, [run / "review" / "decisions" / "eva.json"])
    assert pairs(run) == first
    result = decisions.apply(run, [file], swap=False)
    assert result["decisions"] == {"kept": 1, "swapped": 0, "dropped": 2, "undecided": 0}


def test_the_majority_decides_and_agreement_is_told(tmp_path: Path) -> None:
    run = run_with(tmp_path, 4)
    files = [
        said(run, tmp_path, "eva", ["chosen", "chosen", "tie", "chosen"]),
        said(run, tmp_path, "ida", ["chosen", "rejected", "tie", "skip"]),
        said(run, tmp_path, "ole", ["rejected", "tie", "chosen", None]),
    ]
    result = decisions.apply(run, files)
    assert result["decisions"] == {"kept": 2, "swapped": 0, "dropped": 2, "undecided": 0}
    assert result["reasons"] == {"review.split": 1, "review.tie": 1}
    assert result["reviewers"] == {"eva": 4, "ida": 4, "ole": 3}
    # P_i of three pairs: 1/3, 0, 1/3.
    assert result["agreement"]["pairs"] == 3
    assert result["agreement"]["equal"] == pytest.approx(2 / 9)
    assert result["agreement"]["alpha"] is not None
    kept = {row["decision_reason"] for row in pairs(run)}
    assert kept == {"2 chosen, 1 rejected", "1 chosen"}


@given(st.lists(st.sampled_from(("chosen", "rejected", "tie", "defect", "skip")), max_size=9))
def test_settling_needs_more_than_half(votes: list[Any]) -> None:
    verdict = decisions.settle(votes)
    given_ = [vote for vote in votes if vote != "skip"]
    if not given_:
        assert verdict is None
        return
    assert verdict is not None
    winners = [vote for vote in set(given_) if 2 * given_.count(vote) > len(given_)]
    assert verdict.reason == f"review.{winners[0] if winners else 'split'}"
    assert verdict.outcome == {"chosen": "kept", "rejected": "swapped"}.get(verdict.reason[7:], "dropped")


def test_two_files_of_one_reviewer_are_one(tmp_path: Path) -> None:
    run = run_with(tmp_path, 2)
    one = said(run, tmp_path, "eva", ["tie", "chosen"])
    later = tmp_path / "later.json"
    told = json.loads(said(run, tmp_path, "x", ["chosen"]).read_text()) | {"reviewer": "eva", "made": "2026-02-01"}
    later.write_text(json.dumps(told))
    assert decisions.apply(run, [later, one])["decisions"]["kept"] == 2


def test_files_that_do_not_fit_are_refused_before_anything_changes(tmp_path: Path) -> None:
    run = run_with(tmp_path, 2)
    before = pairs(run)
    good = json.loads(said(run, tmp_path, "eva", ["chosen"]).read_text())
    for change, says in (
        ({"run": "0" * 24}, "was made on other pairs"),
        ({"decisions": {"f" * 32: "chosen"}}, "decides on pair 'ffff"),
        ({"decisions": {before[0]["id"]: "maybe"}}, "holds no decisions: decisions"),
        ({"kind": "shopping list"}, "holds no decisions: kind"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(good | change))
        with pytest.raises(UsageError, match=says):
            decisions.apply(run, [tmp_path / "bad.json"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        decisions.apply(run, [tmp_path / "bad.json"])
    with pytest.raises(UsageError, match="cannot be read"):
        decisions.apply(run, [tmp_path / "nowhere.json"])
    with pytest.raises(UsageError, match="is not a run"):
        decisions.apply(tmp_path, [tmp_path / "eva.json"])
    assert pairs(run) == before
    with pytest.raises(QualityError, match="leaves no pair"):
        decisions.apply(run, [said(run, tmp_path, "eva", ["tie", "tie"])])


def test_reviewed_pairs_are_not_mined_over(tmp_path: Path) -> None:
    run = run_with(tmp_path, 2)
    decisions.apply(run, [said(run, tmp_path, "eva", ["chosen", "chosen"])])
    with pytest.raises(UsageError, match="have been reviewed"):
        mine(tmp_path / "bench", run, gap_quantile=0)


# -- the page --------------------------------------------------------------------------------------------------------


def content_of(page: Path) -> dict[str, Any]:
    text = page.read_text("utf-8")
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert block
    told: dict[str, Any] = json.loads(block[1])
    return told


def test_the_page_holds_everything_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    result = write_pages(run)
    text = Path(result["first"]).read_text("utf-8")
    assert not re.search(r"https?://", text)
    assert text.count("</script>") == 2  # the prompt's own is escaped
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(text)
    told = content_of(Path(result["first"]))
    assert [pair["id"] for pair in told["pairs"]] == [row["id"] for row in pairs_as_mined(run)]
    assert told["run"] == pairs_hash(run)
    for pair in told["pairs"]:
        assert pair["sides"] == ["chosen", "rejected"]
        for name in (*pair["images"], *pair["references"]):
            assert told["pictures"][name].startswith("data:image/jpeg;base64,")


def test_blind_pages_hide_scores_and_draw_sides(tmp_path: Path) -> None:
    run = run_with(tmp_path, 12)
    pages = {seed: content_of(Path(write_pages(run, blind=True, seed=seed)["first"])) for seed in (0, 1)}
    for seed, told in pages.items():
        sides = [pair["sides"][0] for pair in told["pairs"]]
        assert set(sides) == {"chosen", "rejected"}
        assert sides == ["chosen" if chosen_left(p["id"], seed, True) else "rejected" for p in told["pairs"]]
        assert not any(
            key in pair for pair in told["pairs"] for key in ("metrics", "margin", "methods", "seeds", "reason")
        )
    assert [p["sides"] for p in pages[0]["pairs"]] != [p["sides"] for p in pages[1]["pairs"]]


def test_large_runs_are_cut_into_pages_by_number_and_by_bytes(tmp_path: Path) -> None:
    run = run_with(tmp_path, 7)
    result = write_pages(run, per_page=3)
    names = sorted(path.name for path in (run / "review").glob("*.html"))
    assert names == ["page-001.html", "page-002.html", "page-003.html"]
    told = [content_of(run / "review" / name) for name in names]
    assert [len(one["pairs"]) for one in told] == [3, 3, 1]
    assert [one["last"] for one in told] == [False, False, True]
    assert result["pages"] == 3
    # What the pictures of one more pair may take is no longer there after the first.
    assert write_pages(run, budget=400_000)["pages"] == 7
    assert write_pages(run)["pages"] == 1
    assert len(list((run / "review").glob("*.html"))) == 1


def test_only_undecided_pairs_are_shown_again(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    decisions.apply(run, [said(run, tmp_path, "eva", ["chosen", "tie"])])
    told = content_of(Path(write_pages(run, again=True)["first"]))
    assert [pair["id"] for pair in told["pairs"]] == [pairs_as_mined(run)[2]["id"]]
    decisions.apply(run, [said(run, tmp_path, "eva", ["chosen", "tie", "chosen"])])
    with pytest.raises(UsageError, match="no pair to review"):
        write_pages(run, again=True)


def test_a_picture_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    run = run_with(tmp_path, 1)
    Path(pairs(run)[0]["rejected"]).unlink()
    [pair] = content_of(Path(write_pages(run)["first"]))["pairs"]
    assert pair["images"][0] is not None
    assert pair["images"][1] is None


STATE = """
const vm = require("vm"), fs = require("fs");
const page = vm.createContext({});
vm.runInContext(fs.readFileSync(process.argv[1], "utf8"), page);
const {emptyState, decide, undo, nextOpen, voteOf, merged, toFile, fromFile, countDecided} = page;
const about = {format: 1, run: "abc", blind: true, seed: 3};
let s = emptyState();
s = decide(s, "a", "chosen"); s = decide(s, "b", "tie"); s = decide(s, "a", "rejected");
const out = {twice: s};
out.next = [nextOpen(["a","b","c"], s, 0), nextOpen(["a","b"], s, 1), nextOpen(["c","a"], s, 1)];
out.undo = [undo(s, ["a","b"]), undo(s, ["b"]), undo(s, ["z"])];
const sides = ["rejected","chosen"];
out.votes = [voteOf("left", sides), voteOf("right", sides), voteOf("tie", sides), voteOf("x", sides)];
out.count = countDecided(["a","z"], s);
out.merged = merged(s, decide(emptyState(), "b", "defect"));
out.file = toFile(about, s, "eva", "now");
out.back = fromFile(about, JSON.parse(JSON.stringify(out.file)));
out.refused = [{}, null, {...out.file, run: "other"}, {...out.file, decisions: {a: "maybe"}}].map((one) => {
  try { fromFile(about, one); return null; } catch (error) { return error.message; }
});
try { decide(s, "a", "maybe"); } catch (error) { out.wrong = error.message; }
console.log(JSON.stringify(out));
"""


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_page_s_logic_in_node(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(NODE), "-e", STATE, str(TEMPLATES / "review_state.js")], capture_output=True, text=True, check=True
    )
    out = json.loads(done.stdout)
    assert out["twice"] == {"decisions": {"a": "rejected", "b": "tie"}, "order": ["b", "a"]}
    assert out["next"] == [2, -1, 0]
    assert out["undo"][0] == {"state": {"decisions": {"b": "tie"}, "order": ["b"]}, "pair": "a"}
    assert out["undo"][1]["pair"] == "b"
    assert out["undo"][2] == {"state": out["twice"], "pair": None}
    assert out["votes"] == ["rejected", "chosen", "tie", None]
    assert out["count"] == 1
    assert out["merged"] == {"decisions": {"a": "rejected", "b": "defect"}, "order": ["a", "b"]}
    assert out["back"] == {"decisions": {"a": "rejected", "b": "tie"}, "order": ["a", "b"]}
    assert out["refused"] == ["this is no file of decisions"] * 2 + [
        "these decisions were made on other pairs",
        "no such decision: maybe",
    ]
    assert out["wrong"] == "no such decision: maybe"
    file = out["file"] | {"run": "x"}
    path = tmp_path / "eva.json"
    path.write_text(json.dumps(file))
    assert decisions.read(path).decisions == {"a": "rejected", "b": "tie"}
    for name in ("review_state.js", "review_page.js"):
        subprocess.run([str(NODE), "--check", str(TEMPLATES / name)], check=True)


BROWSER = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars")


def dom(page: Path, profile: Path) -> str:
    """The page as a browser has it after its script ran."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            *BROWSER,
            *QUIET,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_keys_in_a_real_browser_decide_undo_and_are_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    page = Path(write_pages(run)["first"])
    text = page.read_text("utf-8")
    # A page that presses keys: the product's page, unchanged, and one more script that its policy is told of.
    press = """
    for (const key of ["ArrowLeft", "ArrowRight", "u", "t", "d"]) {
      document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    }
    document.body.dataset.kept = JSON.stringify(Object.values(localStorage).map((one) => JSON.parse(one)));
    document.body.dataset.file = document.getElementById("progress").textContent;
    """
    digest = base64.b64encode(hashlib.sha256(press.encode()).digest()).decode()
    driven = text.replace("script-src ", f"script-src 'sha256-{digest}' ").replace(
        "</body>", f"<script>{press}</script></body>"
    )
    (tmp_path / "driven.html").write_text(driven, "utf-8")
    seen = dom(tmp_path / "driven.html", tmp_path / "profile")
    ids = [row["id"] for row in pairs_as_mined(run)]
    kept = json.loads(re.search(r'data-kept="(.*?)"', seen)[1].replace("&quot;", '"'))  # type: ignore[index]
    assert kept == [{"decisions": {ids[0]: "chosen", ids[1]: "tie", ids[2]: "defect"}, "order": ids}]
    assert 'data-file="all 3 decided: save your decisions"' in seen
    assert "<b>" not in seen  # the prompt is text, not markup
    assert "scene 0 &lt;/script&gt;&lt;b&gt;" in seen or "&lt;b&gt;" in seen
    # Closed and opened again, from another file of the same run: all is still there.
    again = dom(page, tmp_path / "profile")
    assert "all 3 decided" in again
