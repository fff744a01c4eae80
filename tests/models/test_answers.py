"""Questions put, judged, counted and kept: what is shared by all captioners and judges, on a model made of a list."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.errors import MissingError, UsageError
from idtool.models import answers
from idtool.models.answers import AnswerCache, Usage
from idtool.models.ask import REASONS, Answer, Ask
from idtool.models.asking import Asking, is_refusal, judged
from idtool.models.judge import SCORE_SCHEMA

GOOD = json.dumps({"score": 2, "reasons": []})
IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class Listed(Asking):
    """Says one thing after another."""

    def __init__(self, *said: Answer | str, repairs: int = 2, cache: bool = False, name: str = "listed") -> None:
        super().__init__(repairs=repairs, cache=cache)
        self.said = [Answer(one, tokens_in=10, tokens_out=5) if isinstance(one, str) else one for one in said]
        self.prompts: list[str] = []
        self.name = name

    def fingerprint(self) -> dict[str, Any]:
        return {"model": self.name, **self._facts()}

    def _say(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        for number, ask in reversed(list(enumerate(asks))):
            self.prompts.append(ask.prompt)
            yield number, self.said[min(len(self.prompts), len(self.said)) - 1]


def test_answers_that_do_not_fit_are_asked_for_again_and_no_others() -> None:
    model = Listed(GOOD, "no json", "free text", "still none", GOOD)
    asks = [Ask("free"), Ask("bad", schema=SCORE_SCHEMA), Ask("good", schema=SCORE_SCHEMA)]
    free, bad, good = model.ask(asks)
    assert (free.text, free.data, free.ok) == ("free text", None, True)
    assert (good.data, good.tokens_in) == ({"score": 2, "reasons": []}, 10)
    assert (bad.data, bad.tokens_in, bad.tokens_out) == ({"score": 2, "reasons": []}, 30, 15)
    assert [prompt.partition("\n")[0] for prompt in model.prompts] == ["good", "bad", "free", "bad", "bad"]
    assert model.usage.totals() == {
        "asks": 3,
        "answered": 3,
        "cached": 0,
        "tokens_in": 50,
        "tokens_out": 25,
        "cost": None,
        "not_answered": {},
    }


def test_repairs_end() -> None:
    for repairs in (0, 1, 2):
        model = Listed("no json", repairs=repairs)
        answer = model.ask([Ask("bad", schema=SCORE_SCHEMA)])[0]
        assert (answer.reason, answer.data, len(model.prompts)) == ("invalid", None, repairs + 1)
    with pytest.raises(UsageError, match="repairs"):
        Listed("x", repairs=-1)


def test_what_comes_with_a_reason_is_not_asked_for_again() -> None:
    for reason in REASONS:
        model = Listed(Answer(None, reason=reason))
        assert model.ask([Ask("?", schema=SCORE_SCHEMA)])[0].reason == reason
        assert len(model.prompts) == 1
        assert model.usage.totals()["not_answered"] == {reason: 1}


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I can’t assist with identifying people.",
        "I am unable to identify the person in the image.",
        "Sorry, but I cannot compare these faces.",
        '"I can\'t say who this is."',
        "As an AI, I do not judge faces.",
        "I apologize, but this is not possible.",
        "I won't describe this.",
        "Unfortunately, I cannot see the image.",
        "**I'm unable to help with this.**",
    ],
)
def test_refusals_are_told_from_answers(text: str) -> None:
    assert is_refusal(text)
    for schema in (None, SCORE_SCHEMA):
        model = Listed(text)
        answer = model.ask([Ask("Who?", schema=schema)])[0]
        assert (answer.reason, len(model.prompts)) == ("refused", 1)


@pytest.mark.parametrize(
    "text",
    [
        "A woman who is sorry for what she did.",
        "I can see a man in a red coat.",
        "Unfortunately, I can see only half of her face.",
        "A poster that reads: I can't breathe.",
        "The person is unable to smile.",
        "I'm sorry, " + "a long description follows. " * 30,
    ],
)
def test_captions_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)
    assert Listed(text).ask([Ask("Describe.")])[0].ok


def test_how_answers_are_judged() -> None:
    ask = Ask("?", schema=SCORE_SCHEMA)
    thought = f'<think>Maybe {{"score": 1, "reasons": []}}?</think>\n{GOOD}'
    assert judged(Answer(thought), ask) == Answer(GOOD, {"score": 2, "reasons": []})
    assert judged(Answer("<think>hm</think> A man."), Ask("?")).text == "A man."
    assert judged(Answer("<think>hm</think>  "), Ask("?")).reason == "empty"
    assert judged(Answer(""), Ask("?")).reason == "empty"
    cut = Answer(f"{GOOD} This means", reason="cut", detail="no end")
    assert judged(cut, ask) == Answer(cut.text, {"score": 2, "reasons": []})  # whole before it was cut
    assert judged(replace(cut, text=GOOD[:-3]), ask).reason == "cut"
    assert judged(cut, Ask("?")) == cut
    refusing = Answer(f"I'm sorry that it is so low: {GOOD}")
    assert judged(refusing, ask).ok  # what fits the schema is an answer


def test_one_bad_question_takes_none_down() -> None:
    model = Listed("fine")
    bad = [Ask("?", (IMAGE.astype(np.float32),)), Ask("?", ("no array",)), Ask("?", schema={"type": 5})]  # type: ignore[arg-type]
    answers_ = model.ask([Ask("a"), *bad, Ask("?", max_tokens=0), Ask("b")])
    assert [answer.reason for answer in answers_] == [None, *["bad_input"] * 4, None]
    assert all(answer.detail for answer in answers_[1:-1])
    assert model.ask([]) == []


# -- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    return tmp_path / "answers"


def test_the_key_is_everything_that_an_answer_depends_on() -> None:
    ask = Ask("a", (IMAGE,), "s", SCORE_SCHEMA, 9)
    other = IMAGE.copy()
    other[0, 0, 0] ^= 1
    variants = [
        ask,
        replace(ask, prompt="b"),
        replace(ask, images=(IMAGE, IMAGE)),
        replace(ask, images=(other,)),
        replace(ask, images=(IMAGE.reshape(2, 8, 3),)),
        replace(ask, images=()),
        replace(ask, system=None),
        replace(ask, schema=None),
        replace(ask, max_tokens=10),
        replace(ask, repeat=1),
    ]
    assert len({answers.key({"model": "m"}, one) for one in variants}) == len(variants)
    assert answers.key({"model": "n"}, ask) != answers.key({"model": "m"}, ask)
    view = np.asfortranarray(IMAGE)
    assert answers.key({"model": "m"}, replace(ask, images=(view,))) == answers.key({"model": "m"}, ask)


def test_what_is_kept(cache: Path) -> None:
    """Answers, refusals and cut ones; nothing that another try may mend."""
    for reason in (None, *REASONS):
        said = Answer("text" if reason in (None, "cut") else None, reason=reason, tokens_in=7, cost=0.5)
        name = f"model for {reason}"
        first = Listed(said, cache=True, name=name).ask([Ask("?")])[0]
        assert first == said
        again = Listed(Answer("other"), cache=True, name=name)
        answer = again.ask([Ask("?")])[0]
        kept = reason in (None, "refused", "cut")
        assert answer.cached is kept, reason
        assert (answer.text == said.text and answer.reason == reason) is kept
        assert again.usage.cached == int(kept)
        if kept:
            assert (answer.tokens_in, answer.cost) == (0, 0.0)


def test_parsed_answers_come_back_parsed_and_unlike_models_do_not_share(cache: Path) -> None:
    ask = Ask("?", (IMAGE,), schema=SCORE_SCHEMA)
    Listed(GOOD, cache=True).ask([ask])
    assert Listed("x", cache=True).ask([ask])[0].data == {"score": 2, "reasons": []}
    assert not Listed(GOOD, cache=True, name="other").ask([ask])[0].cached
    assert not Listed(GOOD, cache=True, repairs=1).ask([ask])[0].cached
    assert not Listed(GOOD, cache=False).ask([ask])[0].cached


def test_damaged_entries_are_no_answers(cache: Path) -> None:
    Listed("fine", cache=True).ask([Ask("?")])
    [file] = cache.rglob("*.json")
    for content in ("", "{", "[]", "null", '{"text": "x", "unknown": 1}', "\ud800".encode("utf-8", "surrogatepass")):
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        model = Listed("new", cache=True)
        assert model.ask([Ask("?")])[0].text == "new"
        assert len(model.prompts) == 1
    assert not [one for one in cache.rglob("*") if one.is_file() and one.suffix != ".json"]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on without it would pay for every answer again."""
    (tmp_path / "answers").write_text("a file")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    with pytest.raises(MissingError, match="cannot be kept") as error:
        Listed("fine", cache=True)
    assert "cache: false" in error.value.hint
    store = AnswerCache(tmp_path / "other")
    (tmp_path / "other" / "ab").write_text("a file")
    with pytest.raises(MissingError, match="cannot be kept"):
        store.put("ab" + "0" * 62, Answer("x"))


def test_what_was_paid_for_is_kept_when_a_later_question_ends_the_run(cache: Path) -> None:
    class Ending(Listed):
        def _say(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
            yield 0, Answer("paid", tokens_in=3)
            raise MissingError("The server is gone.")

    model = Ending(cache=True)
    with pytest.raises(MissingError):
        model.ask([Ask("a"), Ask("b")])
    assert model.usage.tokens_in == 3
    assert Listed("new", cache=True).ask([Ask("a")])[0].text == "paid"


def _fill(place: str, start: int) -> None:
    store = AnswerCache(Path(place))
    for number in range(40):
        name = f"{number % 20:064x}"
        store.put(name, Answer(f"answer {number % 20} " + "x" * 5000, data=[number % 20]))
        found = store.get(f"{(number + start) % 20:064x}")
        assert found is None or (found.text is not None and len(found.text) > 5000)


def test_several_processes_and_threads_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers: list[Any] = [context.Process(target=_fill, args=(str(tmp_path), start)) for start in (1, 7)]
    workers += [threading.Thread(target=_fill, args=(str(tmp_path), start)) for start in (2, 11)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers[:2]] == [0, 0]
    store = AnswerCache(tmp_path)
    assert all((found := store.get(f"{number:064x}")) and found.cached for number in range(20))
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 20


def test_usage_is_counted_in_all_threads() -> None:
    usage = Usage()
    one = Answer("x", tokens_in=2, tokens_out=1, cost=0.5)

    def count() -> None:
        for _ in range(200):
            usage.add(one)
            usage.add(replace(one, text=None, reason="refused", cost=None, cached=True))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usage.totals() == {
        "asks": 1600,
        "answered": 800,
        "cached": 800,
        "tokens_in": 3200,
        "tokens_out": 1600,
        "cost": 400.0,
        "not_answered": {"refused": 800},
    }
