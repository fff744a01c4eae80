"""Captions by a model: what counts as one, names kept out, each image asked about once, and a tiny real model."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate import prompts
from idtool.curate.caption import Caption, CaptionSettings
from idtool.curate.caption_pairs import PairCaptions
from idtool.curate.describe import WRITES, Describe, DescribeSettings
from idtool.curate.vlm_caption import Writer, known_names
from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.models.ask import Answer, Ask
from idtool.models.caption_checks import Limits, Said, Unavailable, judged, mentions, tidy
from tests.zoo import Zoo

LIMITS = Limits(2, 12)
BINDING = Binding("captioner", "api:scripted")
Reply = Callable[[Ask], Answer]


class Scripted:
    """Answers as it is told: what a random tiny model cannot be made to say."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asks: list[Ask] = []

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        self.asks += asks
        return [self.reply(ask) for ask in asks]


def level(ask: Ask) -> int:
    """The grey level of the image that is asked about."""
    return int(ask.images[0][0, 0, 0])


def said(text: str | None, reason: str | None = None, names: Sequence[str] = ()) -> Said:
    return judged(Answer(text, reason=reason), LIMITS, names)


def writer(reply: Reply) -> Writer:
    made = Writer(BINDING, {"caption": prompts.PERSON, "background": prompts.BACKGROUND}, LIMITS, 64)
    made.model = Scripted(reply)
    return made


# -- what counts -----------------------------------------------------------------------------------------------------


def test_what_counts_as_a_caption() -> None:
    assert said('  Caption: "A person in\n a red coat." ') == Said("A person in a red coat.")
    assert said("“A person in a hat”") == Said("A person in a hat")
    for reason in ("refused", "cut", "invalid", "empty", "too_long", "bad_input"):
        assert said("I'm sorry, I can't.", reason) == Said(None, reason)
    assert said("Person.") == Said(None, "too_few_words")
    assert said("word " * 13) == Said(None, "too_many_words")
    assert said("word " * 12).text
    assert tidy("'") == "'" and tidy("") == ""
    for reason in ("timeout", "unavailable"):
        with pytest.raises(Unavailable, match="nobody there"):
            judged(Answer(None, reason=reason, detail="nobody there"), LIMITS, ())


@pytest.mark.parametrize(
    ("text", "label", "found"),
    [
        ("Barack Obama smiles.", "obama", True),
        ("barack obama smiles", "Barack Obama", True),
        ("A smiling man, Obama, at a desk", "barack_obama", True),
        ("A portrait of Bárack", "Barack", True),
        ("He holds a rose and a leaf", "rose_leslie", False),
        ("Rose Leslie holds a leaf", "rose_leslie", True),
        ("This is BarackObama", "barack obama", True),
        ("A person in a park", "person_01", False),
        ("Woman in a red coat", "woman 7", False),
        ("A man at the age of 42", "id42", False),
        ("Obamacare is on the sign", "obama", False),
        ("A person in a park", "cb_id0", False),
    ],
)
def test_names_are_found_and_common_words_are_not_taken_for_names(text: str, label: str, found: bool) -> None:
    assert mentions(text, [label]) == found
    assert said(text, names=[label]).reason == ("names_identity" if found else None)


def test_names_come_from_labels_and_not_from_hashes() -> None:
    assert known_names({"identity": "ada", "identity_label": "Ada L."}) == {"ada", "Ada L."}
    assert known_names({"identity": "id-00ff", "a_identity_label": "ada"}, "a_") == {"ada"}
    assert known_names({}) == frozenset()


# -- asking ----------------------------------------------------------------------------------------------------------


def test_an_answer_that_names_the_person_is_asked_for_once_more() -> None:
    def reply(ask: Ask) -> Answer:
        if ask.prompt.startswith(prompts.BACKGROUND.text):
            return Answer("A wall behind Ada.")
        return Answer("The person looks up." if ask.prompt.endswith(prompts.NO_NAMES.text) else "Ada looks up.")

    asking = writer(reply)
    grey = np.zeros((8, 8, 3), np.uint8)
    named, nameless = asking([grey, grey], [{"ada"}, {"bob"}])
    assert named == {"caption": Said("The person looks up."), "background": Said(None, "names_identity")}
    assert nameless == {"caption": Said("Ada looks up."), "background": Said("A wall behind Ada.")}
    assert len(asking.model.asks) == 4 + 2 and all(ask.max_tokens == 64 for ask in asking.model.asks)


def pairs(folder: Path, *couples: tuple[int, int], **columns: Any) -> pa.Table:
    """Pairs of images of one grey level each, named by it."""
    for shade in {shade for couple in couples for shade in couple}:
        Image.new("RGB", (16, 12), (shade,) * 3).save(folder / f"{shade}.png")
    rows: dict[str, Any] = {"id": [f"{a}~{b}" for a, b in couples]}
    for number, side in enumerate("ab"):
        rows[f"{side}_id"] = [str(couple[number]) for couple in couples]
        rows[f"{side}_media"] = [str(folder / f"{couple[number]}.png") for couple in couples]
    return pa.table(rows | columns)


def captioned(operator: PairCaptions, table: pa.Table) -> list[dict[str, Any]]:
    out = operator(table)
    assert out.column_names[: len(table.column_names)] == table.column_names
    assert out.column_names[-5:] == ["status", "reason", "value", "threshold", "message"]
    assert [out.schema.field(name) for name in operator.writes.names] == list(operator.writes)
    return list(out.to_pylist())


@pytest.fixture
def operated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], PairCaptions]:
    def made(reply: Reply) -> PairCaptions:
        step = Caption(CaptionSettings(batch=2), Env("p", {"captioner": (BINDING,)}))
        [made_by_step] = step.operators()
        operator: PairCaptions = pickle.loads(pickle.dumps(made_by_step))  # noqa: S301 - our own bytes
        model = Scripted(reply)
        monkeypatch.setattr(Writer, "load", lambda self, context: setattr(self, "model", model))
        operator.setup(Context(run_dir=str(tmp_path)))
        return operator

    return made


def test_every_image_is_asked_about_once_and_a_refusal_costs_its_caption_only(
    tmp_path: Path, operated: Callable[[Reply], PairCaptions]
) -> None:
    def reply(ask: Ask) -> Answer:
        if level(ask) == 30:
            return Answer("I'm sorry, I can't help with that.", reason="refused")
        return Answer(f"shade {level(ask)} {'wall' if 'around' in ask.prompt else 'person'}")

    operator = operated(reply)
    rows = captioned(operator, pairs(tmp_path, (10, 20), (10, 30), (20, 30)))
    asks = operator.writer.model.asks
    assert sorted(level(ask) for ask in asks) == [10, 10, 20, 20, 30, 30]
    assert [row["status"] for row in rows] == ["kept"] * 3
    assert [(row["a_caption"], row["b_background"]) for row in rows[:2]] == [
        ("shade 10 person", "shade 20 wall"),
        ("shade 10 person", None),
    ]
    assert rows[0]["a_caption_reason"] is None and rows[1]["b_caption_reason"] == "refused"
    assert {row["caption_by"] for row in rows} == {"api:scripted"}
    captioned(operator, pairs(tmp_path, (20, 10), (40, 10)))
    assert [level(ask) for ask in asks[6:]] == [40, 40]


def test_what_cannot_be_read_or_asked_costs_its_own_pairs_only(
    tmp_path: Path, operated: Callable[[Reply], PairCaptions]
) -> None:
    def reply(ask: Ask) -> Answer:
        if level(ask) == 30:
            return Answer(None, reason="timeout", detail="no answer in 60 s")
        if level(ask) == 40:
            raise ValueError("the network gave NaN")
        return Answer("a grey wall")

    table = pairs(tmp_path, (10, 20), (10, 30), (20, 40), (10, 50), (20, 60))
    (tmp_path / "50.png").write_bytes(b"")
    (tmp_path / "60.png").unlink()
    operator = operated(reply)
    rows = captioned(operator, table)
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("kept", None),
        ("error", "Unavailable"),
        ("error", "ValueError"),
        ("rejected", "empty"),
        ("rejected", "missing_file"),
    ]
    assert rows[1]["message"] == "no answer in 60 s" and rows[0]["a_caption"] == "a grey wall"
    before = len(operator.writer.model.asks)
    captioned(operator, table.slice(1, 1))
    assert {level(ask) for ask in operator.writer.model.asks[before:]} == {30}


def test_labels_of_each_side_and_the_identity_are_kept_out(
    tmp_path: Path, operated: Callable[[Reply], PairCaptions]
) -> None:
    table = pairs(tmp_path, (10, 20), identity=["carol"], a_identity_label=["Ada"], b_identity_label=[None])
    [row] = captioned(
        operated(lambda ask: Answer("Ada beside Carol" if level(ask) == 10 else "Ada stands alone")), table
    )
    assert (row["a_caption"], row["a_caption_reason"]) == (None, "names_identity")
    assert row["b_caption"] == "Ada stands alone"


# -- a real tiny model -----------------------------------------------------------------------------------------------


def test_a_tiny_model_captions_pairs_and_images(tiny: Zoo, tmp_path: Path) -> None:
    tiny("qwen2-vl")
    env = Env("tiny", {"captioner": (Binding("captioner", "hf:tiny/qwen2-vl"),)})
    settings = {"max_tokens": 8, "min_words": 1, "batch": 2}
    caption = Caption(CaptionSettings.model_validate(settings), env)
    assert caption.models() == list(env.all("captioner"))
    [operator] = caption.operators()
    operator.setup(Context(run_dir=str(tmp_path)))
    table = pairs(tmp_path, (10, 200), (10, 90))
    first, second = operator(table).to_pylist()
    for row in (first, second):
        assert row["status"] == "kept" and row["caption_by"] == "hf:tiny/qwen2-vl"
        for side in "ab":
            for part in ("caption", "background"):
                assert (row[f"{side}_{part}"] is None) == (row[f"{side}_{part}_reason"] is not None)
    assert first["a_caption_reason"] == second["a_caption_reason"] and first["a_caption"] == second["a_caption"]

    describe = Describe(DescribeSettings.model_validate(settings), env)
    [operator] = describe.operators()
    operator.setup(Context(run_dir=str(tmp_path)))
    size = pa.nulls(2, pa.int32())
    media = [str(tmp_path / f"{shade}.png") for shade in (10, 200)]
    images = pa.table({"id": ["10", "200"], "media": media, "width": size, "height": size})
    rows = operator(images).to_pylist()
    for row in rows:
        assert set(WRITES.names) <= set(row) and row["status"] == "kept"
        assert (row["face_caption"] is None) == (row["face_caption_reason"] is not None)


def test_images_are_described_where_a_captioner_is_bound() -> None:
    without = Describe(DescribeSettings(), Env("offline", {}))
    assert without.skip_reason() == "needs role captioner; profile offline binds none"
    assert set(without.provides_none()) == set(WRITES.names)
    bound = Describe(DescribeSettings(), Env("p", {"captioner": (BINDING,)}))
    assert bound.skip_reason() is None and not bound.provides_none()
    [operator] = bound.operators()
    config = operator.config()["measures"]["describe"]
    assert config["prompts"]["caption"]["text"].startswith("Please describe the people in the image")
    assert config["max_tokens"] == 512


def test_descriptions_keep_out_what_the_row_says_of_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Describe(DescribeSettings(batch=2), Env("p", {"captioner": (BINDING,)}))
    [operator] = step.operators()
    model = Scripted(lambda ask: Answer("Ada Lovelace is here" if level(ask) == 10 else "Ada on a hill"))
    monkeypatch.setattr(Writer, "load", lambda self, context: setattr(self, "model", model))
    operator.setup(Context(run_dir=str(tmp_path)))
    table = pairs(tmp_path, (10, 20))
    media = [*table["a_media"].to_pylist(), *table["b_media"].to_pylist()]
    columns = {"id": ["1", "2"], "media": media, "width": [16, 16], "height": [12, 12], "identity": ["ada", "id-7"]}
    named, free = operator(pa.table(columns)).to_pylist()
    assert (named["caption"], named["face_caption_reason"]) == (None, "names_identity")
    assert free["caption"] == free["face_caption"] == "Ada on a hill" and free["caption_reason"] is None
    assert {named["status"], free["status"]} == {"kept"}
