"""Votes: how often a model is asked, in which orders, and what the votes come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from idtool.models.ask import Answer, Ask
from idtool.models.judge import SCORE_SCHEMA, Verdict, prompt_hash, verdicts, votes

IMAGES = tuple(np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30))


class Panel:
    """Answers by a function of the question and its number."""

    def __init__(self, reply: Callable[[int, Ask], Answer], deterministic: bool = False) -> None:
        self.deterministic = deterministic
        self.reply = reply
        self.asks: list[Ask] = []

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        start = len(self.asks)
        self.asks += asks
        return [self.reply(start + number, ask) for number, ask in enumerate(asks)]

    def fingerprint(self) -> dict[str, Any]:
        return {}


def scored(score: int, *reasons: str) -> Answer:
    return Answer("{}", {"score": score, "reasons": list(reasons)}, tokens_in=1)


def levels(ask: Ask) -> list[int]:
    return [int(image[0, 0, 0]) for image in ask.images]


def test_mean_agreement_and_reasons() -> None:
    verdict = votes(Panel(lambda number, _: scored((4, 4, 1)[number], f"reason {number}")), Ask("Same?", IMAGES[:2]))
    assert verdict.scores == (4, 4, 1)
    assert verdict.score == pytest.approx(3)
    assert verdict.agreement == pytest.approx(1 / 3)  # one of three pairs is equal
    assert verdict.spread == 3
    assert verdict.unscored == 0
    assert verdict.why_unscored == {}
    assert verdict.reasons == (("reason 0",), ("reason 1",), ("reason 2",))
    same = votes(Panel(lambda *_: scored(2)), Ask("Same?"), 5)
    assert (same.score, same.agreement, same.spread, len(same.answers)) == (2, 1, 0, 5)


def test_refused_and_unreadable_votes_are_unscored_not_zero() -> None:
    said = [scored(4), Answer(None, reason="refused"), Answer("hm", reason="invalid")]
    verdict = votes(Panel(lambda number, _: said[number]), Ask("Same?"))
    assert verdict.scores == (4, None, None)
    assert (verdict.score, verdict.unscored, verdict.agreement) == (4, 2, None)
    assert verdict.why_unscored == {"refused": 1, "invalid": 1}
    assert verdict.reasons == ((), (), ())
    nothing = votes(Panel(lambda *_: Answer(None, reason="timeout")), Ask("Same?"))
    assert (nothing.score, nothing.unscored, nothing.spread, nothing.agreement) == (None, 3, None, None)


def test_a_server_is_asked_again_and_a_deterministic_model_is_not() -> None:
    server = Panel(lambda *_: scored(1))
    votes(server, Ask("Same?", IMAGES[:2]))
    assert [(levels(ask), ask.repeat) for ask in server.asks] == [([10, 20], 0), ([10, 20], 1), ([10, 20], 2)]
    local = Panel(lambda *_: scored(1), deterministic=True)
    verdict = votes(local, Ask("Same?", IMAGES[:2]))
    assert len(local.asks) == 1
    assert verdict.agreement is None


def test_orders_of_images_are_votes_where_they_do_not_matter() -> None:
    local = Panel(lambda _, ask: scored(levels(ask)[0] // 10), deterministic=True)
    verdict = votes(local, Ask("Are they alike?", IMAGES), symmetric=True)
    assert [levels(ask) for ask in local.asks] == [[10, 20, 30], [20, 30, 10], [30, 10, 20]]
    assert verdict.score == 2
    assert {ask.repeat for ask in local.asks} == {0}
    votes(two := Panel(lambda *_: scored(1), deterministic=True), Ask("Alike?", IMAGES[:2]), symmetric=True)
    assert len(two.asks) == 2
    votes(server := Panel(lambda *_: scored(1)), Ask("Alike?", IMAGES[:2]), symmetric=True)
    assert [(levels(ask), ask.repeat) for ask in server.asks] == [([10, 20], 0), ([20, 10], 0), ([10, 20], 1)]
    votes(none := Panel(lambda *_: scored(1), deterministic=True), Ask("Is it?"), symmetric=True)
    assert len(none.asks) == 1


def test_all_votes_on_all_questions_go_out_at_once() -> None:
    panel = Panel(lambda number, _: scored(number % 5))
    found = verdicts(panel, [Ask("a"), Ask("b", IMAGES)], 2)
    assert [verdict.scores for verdict in found] == [(0, 1), (2, 3)]
    assert verdicts(panel, [], 2) == []


def test_the_schema() -> None:
    panel = Panel(lambda *_: scored(1))
    votes(panel, Ask("Same?"))
    assert panel.asks[0].schema == SCORE_SCHEMA
    own = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]}
    verdict = votes(Panel(lambda *_: Answer("", {"score": 0.25})), Ask("Same?", schema=own))
    assert verdict.score == 0.25
    assert verdict.reasons == ((), (), ())
    for schema in ({"type": "object"}, {**own, "required": []}, {"type": "array"}):
        with pytest.raises(ValueError, match="score"):
            votes(panel, Ask("Same?", schema=schema))
    with pytest.raises(ValueError, match="one vote"):
        votes(panel, Ask("Same?"), 0)


def test_wordings_are_told_apart_by_their_hash() -> None:
    ask = Ask("Same?", IMAGES, schema=SCORE_SCHEMA)
    assert prompt_hash(ask) == prompt_hash(replace(ask, images=(), max_tokens=9, repeat=2))
    others = [replace(ask, prompt="Same person?"), replace(ask, system="s"), replace(ask, schema=None)]
    assert len({prompt_hash(one) for one in (ask, *others)}) == 4
    assert votes(Panel(lambda *_: scored(1)), ask).prompt_hash == prompt_hash(ask)
    assert Verdict((), "").score is None
