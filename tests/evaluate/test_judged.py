"""Judged measures: what the judge is asked and shown, over real HTTP on this machine; votes, refusals, failures; tiny
networks; and all metrics of CHARIS and DreamBench++ from end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding, Env
from idtool.evaluate import samples
from idtool.evaluate.charis import questions
from idtool.evaluate.charis.questions import ASKED, PARTS, SCORE, question
from idtool.evaluate.features import ensure
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.metrics import METRICS
from idtool.evaluate.scoring import images_of
from idtool.models.openai_wire import is_strict
from tests.evaluate import tiny_networks
from tests.evaluate.judging import QUESTIONS, asked, binding, scores
from tests.evaluate.offline import runtime
from tests.evaluate.tiny_networks import row, saved
from tests.models.chat_server import ChatServer, Reply, Request, fails, says
from tests.zoo import Zoo

JUDGEMENTS = [name for name in MEASURES if name.startswith("judge_")]
TEXT = "a dog that {text} in the snow"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    with ChatServer().running() as running:
        yield running


def env(server: ChatServer, **options: Any) -> Env:
    return Env("own", {"judge": (Binding("judge", **binding(server, **options)),)})


def grey(folder: Path, level: int, size: tuple[int, int] = (60, 80)) -> Path:
    """A picture by whose level the server tells samples apart."""
    return saved(folder / f"{level}.png", np.full((*size, 3), level, np.uint8))


def level(request: Request) -> int:
    return round(float(request.images[-1].mean()))


def judged(
    folder: Path, surroundings: Env, rows: list[dict[str, Any]], *names: str, **options: Any
) -> dict[str, dict[str, Any]]:
    """Id -> columns of the measures, as the engine makes and keeps them."""
    table = samples.write(folder / "samples", sorted(rows, key=lambda one: str(one["id"])))
    measures = [MEASURES.get(name) for name in names]
    how = runtime(surroundings, **options)
    features = ensure(folder / "features", images_of(folder / "images", table), measures, how, "tiny")
    found: dict[str, dict[str, Any]] = {}
    for one in features.values():
        for batch in one.table.batches():
            for each in batch.to_pylist():
                found.setdefault(each["id"], {}).update(each)
    return found


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_whole_and_their_schemas_strict(name: str) -> None:
    one = question(name)
    assert is_strict(one.schema)
    picture = np.zeros((4, 4, 3), np.uint8)
    ask = one.ask([picture], picture, TEXT)
    assert len(ask.images) == 2 and ask.system and "never name" in ask.system
    assert set(re.findall(r"\{\w+\}", ask.prompt)) <= {"{text}"}, "only the {text} that the prompt itself has"
    assert (TEXT in ask.prompt) == one.needs_text
    if name != "parts":
        assert re.findall(r"^\d(?=:)", ask.prompt, re.MULTILINE) == ["4", "3", "2", "1", "0"]
        order = list(one.schema["properties"])
        assert (order[0], order[-1]) == ("reasons", "score")
    assert {id(schema) for schema in (SCORE, ASKED, PARTS)} >= {id(one.schema)}


def test_wordings_have_hashes_of_their_own() -> None:
    assert len({question(name).hash for name in QUESTIONS}) == len(QUESTIONS)
    several = question("identity").ask([np.zeros((4, 4, 3), np.uint8)] * 3, np.zeros((4, 4, 3), np.uint8), "x")
    assert "first 3 pictures are the references" in several.prompt and len(several.images) == 4
    with pytest.raises(KeyError):
        question("nothing")


def test_what_the_judge_sees(server: ChatServer, tmp_path: Path) -> None:
    """References before the image, in their order, at most 768 px; the image alone where only that is judged."""
    server.script(
        lambda request: scores(3, "looks alike", **({"asked": True} if "diversity" in asked(request) else {}))
    )
    large = grey(tmp_path, 200, (1000, 900))
    rows = [row("a", large, [grey(tmp_path, 10), grey(tmp_path, 60)], TEXT)]
    found = judged(tmp_path, env(server), rows, *JUDGEMENTS)["a"]
    by_question: dict[str, list[Request]] = {}
    for request in server.requests:
        by_question.setdefault(asked(request), []).append(request)
    assert {name: len(some) for name, some in by_question.items()} == dict.fromkeys(QUESTIONS[:-1], 3)
    for name, some in by_question.items():
        alone = name in ("prompt", "following")
        for request in some:
            pictures = request.images
            levels = [round(float(one.mean())) for one in pictures]
            assert levels == ([200] if alone else [10, 60, 200])
            assert max(pictures[-1].shape) == 768
            assert request.body["temperature"] == 0.0
            assert request.body["messages"][0] == {"role": "system", "content": question("parts").system}
            form = request.body["response_format"]["json_schema"]
            assert form["strict"] and form["schema"] == question(name).schema
            assert (TEXT in request.prompt) == (name != "concept")
    for name in JUDGEMENTS:
        assert found[f"{name}_score"] == 0.75 and found[f"{name}_why"] is None
        count = 9 if name == "judge_diversity" else 3
        assert found[f"{name}_votes"] == [3.0] * count
        assert (found[f"{name}_unscored"], found[f"{name}_agreement"]) == (0, 1)
        assert (found[f"{name}_tokens_in"], found[f"{name}_tokens_out"]) == (100 * count, 20 * count)
        assert found[f"{name}_cost"] is None
    assert found["judge_identity_prompt_hash"] == question("identity").hash
    assert found["judge_identity_reasons"] == "looks alike"
    assert found["judge_diversity_reasons"].splitlines() == [f"{p}: looks alike" for p in ("pose", "scene", "framing")]


# -- what comes of it ------------------------------------------------------------------------------------------------


def test_votes_refusals_broken_answers_and_failures(server: ChatServer, tmp_path: Path) -> None:
    """Told apart by the image: votes that differ; a refusal; no JSON, ever; a refusal among votes; a server in need."""
    turns = iter((4, 3, 4))

    def reply(request: Request) -> Reply:
        return {
            10: lambda: scores(next(turns), "a reason", "a\nreason"),
            20: lambda: says(None, refusal="I cannot help with real people."),
            30: lambda: says("Well, I would say {three}."),
            40: lambda: says("I'm sorry, I can't compare faces.") if request.raw in seen else scores(2),
            50: lambda: fails(503, "overloaded"),
        }[level(request)]()

    seen: set[str] = set()

    def remembering(request: Request) -> Reply:
        said = reply(request)
        seen.add(request.raw)
        return said

    server.script(remembering)
    reference = grey(tmp_path, 200)
    rows = [row(str(k), grey(tmp_path, k), [reference], "a dog") for k in (10, 20, 30, 40, 50)]
    rows += [row("nobody", grey(tmp_path, 60), [], "a dog"), row("silent", grey(tmp_path, 70), [reference], " ")]
    options = {"price_in": 2.0, "price_out": 10.0, "concurrency": 1}
    found = judged(tmp_path, env(server, **options), rows, "judge_identity", max_error_rate=1.0)

    good = found["10"]
    assert good["judge_identity_score"] == pytest.approx(11 / 12)
    assert sorted(good["judge_identity_votes"]) == [3, 4, 4]
    assert good["judge_identity_agreement"] == pytest.approx(1 / 3)
    assert good["judge_identity_reasons"] == "a reason"
    assert good["judge_identity_cost"] == pytest.approx(3 * (100 * 2 + 20 * 10) / 1e6)

    refused = found["20"]
    assert (refused["status"], refused["judge_identity_score"]) == ("kept", None)
    assert refused["judge_identity_why"] == "no vote of the judge counts: refused 3"
    assert (refused["judge_identity_unscored"], refused["judge_identity_votes"]) == (3, [None] * 3)
    assert refused["judge_identity_agreement"] is None and refused["judge_identity_reasons"] is None

    broken = found["30"]
    assert broken["judge_identity_why"] == "no vote of the judge counts: invalid 3"
    assert broken["judge_identity_tokens_in"] == 600, "each was asked for once more"

    mixed = found["40"]
    assert mixed["judge_identity_score"] == 0.5 and mixed["judge_identity_unscored"] == 2

    assert (found["50"]["status"], found["50"]["reason"]) == ("error", "Unavailable")
    assert "overloaded" in found["50"]["message"] and found["50"]["judge_identity_score"] is None
    assert found["nobody"]["judge_identity_why"] == "no reference to compare with"
    assert found["silent"]["judge_identity_why"] == "no prompt to judge by"

    server.script(scores(1))
    again = judged(tmp_path, env(server, **options), rows, "judge_identity", max_error_rate=1.0)
    assert {level(request) for request in server.requests} == {50}, "only what failed is asked again"
    assert again["50"]["judge_identity_score"] == 0.25
    assert again["10"] == good


def test_answers_are_kept_and_cost_nothing_a_second_time(server: ChatServer, tmp_path: Path) -> None:
    server.script(scores(2))
    rows = [row("a", grey(tmp_path, 10), [grey(tmp_path, 200)], "a dog")]
    options = {"cache": True, "price_in": 2.0, "price_out": 10.0}
    first = judged(tmp_path / "one", env(server, **options), rows, "judge_concept")["a"]
    count = len(server.requests)
    second = judged(tmp_path / "two", env(server, **options), rows, "judge_concept")["a"]
    assert len(server.requests) == count == 3
    assert second["judge_concept_score"] == first["judge_concept_score"] == 0.5
    assert (first["judge_concept_cost"], second["judge_concept_cost"]) == (pytest.approx(0.0012), 0)
    assert second["judge_concept_tokens_in"] == 0


# -- diversity -------------------------------------------------------------------------------------------------------

Vote = tuple[bool, int]


@pytest.mark.parametrize(
    ("pose", "scene", "framing", "score", "parts", "why"),
    [
        ((True, 4), (True, 2), (True, 0), 0.5, (1.0, 0.5, 0.0), None),
        ((True, 4), (False, 0), (False, 0), 1.0, (1.0, None, None), None),
        ((True, 0), (True, 0), (False, 4), 0.0, (0.0, 0.0, None), None),
        ((False, 0), (False, 0), (False, 0), None, (None, None, None), "the prompt asks for no other pose"),
        ((True, 4), None, (True, 4), None, (1.0, None, 1.0), "scene: no vote of the judge counts: refused 3"),
    ],
)
def test_only_changes_that_are_asked_for_count(
    server: ChatServer,
    tmp_path: Path,
    pose: Vote | None,
    scene: Vote | None,
    framing: Vote | None,
    score: float | None,
    parts: tuple[float | None, ...],
    why: str | None,
) -> None:
    votes = {"diversity_pose": pose, "diversity_scene": scene, "diversity_framing": framing}

    def reply(request: Request) -> Reply:
        vote = votes[asked(request)]
        return scores(vote[1], asked=vote[0]) if vote else says(None, refusal="no")

    server.script(reply)
    rows = [row("a", grey(tmp_path, 10), [grey(tmp_path, 200)], "a dog that jumps")]
    found = judged(tmp_path, env(server), rows, "judge_diversity")["a"]
    assert found["judge_diversity_score"] == score
    assert tuple(found[f"judge_diversity_{part}"] for part in ("pose", "scene", "framing")) == parts
    assert (found["judge_diversity_why"] or "").startswith(why or "") and bool(found["judge_diversity_why"]) == bool(
        why
    )


def test_most_votes_decide_whether_a_change_is_asked_for(server: ChatServer, tmp_path: Path) -> None:
    told = {
        "diversity_pose": iter([(True, 4), (True, 2), (False, 0)]),
        "diversity_scene": iter([(True, 4), (False, 0), (False, 0)]),
        "diversity_framing": iter([(True, 4), (False, 0)]),
    }

    def reply(request: Request) -> Reply:
        vote = next(told[asked(request)], None)
        return scores(vote[1], asked=vote[0]) if vote else says(None, refusal="no")

    server.script(reply)
    rows = [row("a", grey(tmp_path, 10), [grey(tmp_path, 200)], "a dog that jumps")]
    found = judged(tmp_path, env(server, concurrency=1), rows, "judge_diversity")["a"]
    assert found["judge_diversity_pose"] == 0.75  # of the two votes that say so
    assert found["judge_diversity_scene"] is None
    assert found["judge_diversity_framing"] == 1.0  # half of those that count
    assert found["judge_diversity_score"] == pytest.approx(0.875)
    assert found["judge_diversity_unscored"] == 1


# -- a changed question is another measure ---------------------------------------------------------------------------


def test_a_changed_wording_is_judged_anew(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from idtool.evaluate.measures import judge

    before = judge.JudgeIdentity.made(env(server)).config()
    assert before["votes"] == 3 and before["long_side"] == 768
    monkeypatch.setattr(judge, "question", lambda name: replace(question(name), template="Same?"))
    assert judge.JudgeIdentity.made(env(server)).config()["questions"] != before["questions"]


# -- networks --------------------------------------------------------------------------------------------------------


def test_a_tiny_judge_votes_once(tiny: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It always answers alike. A random network never says JSON, and what it says is unscored."""
    monkeypatch.setattr(questions, "MAX_TOKENS", 16)  # all that fits into its context beside the question
    tiny("qwen3-vl")
    surroundings = Env("tiny", {"judge": (Binding("judge", "hf:tiny/qwen3-vl", options={"repairs": 0}),)})
    rows = [row("a", grey(tmp_path, 10), [grey(tmp_path, 200)], "a dog")]
    found = judged(tmp_path, surroundings, rows, "judge_concept")["a"]
    assert found["judge_concept_score"] is None and found["judge_concept_votes"] == [None]
    assert re.fullmatch(r"no vote of the judge counts: (cut|invalid|empty) 1", found["judge_concept_why"])
    assert found["judge_concept_tokens_in"] > 500 and 0 < found["judge_concept_tokens_out"] <= 16


@pytest.mark.fixtures
def test_every_metric_from_end_to_end(tiny: Zoo, server: ChatServer, tmp_path: Path, fixtures: Path) -> None:
    """Tiny networks and a scripted judge on real photos: every number follows from its columns, whatever those say."""

    def reply(request: Request) -> Reply:
        name = asked(request)
        if name == "parts":
            return says(json.dumps({"subject": "person", "parts": ["hair", "face", "shirt"]}))
        if name == "identity" and "refused" in request.prompt:
            return says(None, refusal="no")
        return scores(3, "because", **({"asked": True} if name.startswith("diversity") else {}))

    server.script(reply)
    photos = [fixtures / "singles" / name for name in ("freeman.jpg", "lifeifei.jpg")]
    surroundings = tiny_networks.bound(tiny, "clip", "iqa", "features", "grounder", "segmenter", most=1)
    surroundings = Env("tiny", {**surroundings.bindings, **env(server).bindings})
    families = [name for name in METRICS if name.startswith(("charis", "dreambench", "colorscore"))]
    rows = [row("a", photos[0], [photos[0]], "a man"), row("b", photos[1], [photos[0]], "refused, in a hat")]
    found = tiny_networks.scored(tmp_path, surroundings, families, rows)

    def of(family: str) -> list[float]:
        [name] = [name for name in found.names if name.split("/")[0] == family and "@" not in name]
        return found.of(name)

    assert of("charis_color")[0] == pytest.approx(1, abs=1e-5)  # the reference itself
    assert of("colorscore")[0] == of("charis_color")[0]
    assert of("charis_id") == [0.75, None]
    assert of("dreambench_cp") == [0.75, 0.75] and of("dreambench_cppf") == [0.5625, 0.5625]
    assert of("dreambench_cppf_debiased") == [0.5625, 0.5625]
    axes = [of(f"charis_{axis}") for axis in ("id", "prompt", "color", "quality")]
    assert of("charis")[0] == pytest.approx(np.prod([axis[0] for axis in axes]) ** 0.25)
    left = [axis[1] for axis in axes if axis[1] is not None]
    assert of("charis")[1] == pytest.approx(np.prod(left) ** (1 / len(left)))
    assert of("charis_axes") == [4, len(left)]
    assert [name for name in found.names if name.startswith("charis_prompt/")] == [
        "charis_prompt/tiny-judge+vit-w32-8-32"
    ]
    told = found.scorer.describe()["charis/tiny-judge"]
    assert {"judge_identity", "judge_prompt", "color_score", "clip", "prompt_clip", "iqa"} <= set(told["measures"])
    assert told["settings"]["weights"] == {"id": 0.25, "prompt": 0.25, "color": 0.25, "quality": 0.25}
