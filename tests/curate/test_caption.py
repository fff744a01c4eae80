from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from idtool.curate.caption import WRITES, Caption, CaptionSettings
from idtool.curate.template_caption import background, given_caption, person
from idtool.engine.operator import OUTCOME
from idtool.engine.plan import plan_steps
from idtool.engine.step import Binding, Env
from idtool.errors import MissingError

NONE = Env("offline", {})
BOUND = Env("paper", {"captioner": (Binding("captioner", "hf:some/model"),)})
UNKNOWN = Env("own", {"captioner": (Binding("captioner", "hf:some/model", options={"format": "vlmm"}),)})
GUESSES = re.compile(r"\b(man|woman|male|female|girl|boy|old|young|asian|white|black|he|she|his|her)\b", re.I)


def captioned(rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    step = Caption(CaptionSettings.model_validate(settings), NONE)
    table = pa.Table.from_pylist(rows)
    [planned] = plan_steps([("caption", step)], table.schema)
    [operator] = step.operators()
    out = operator(table)
    assert out.schema.names == [name for name in planned.schema.names if name != "input_id"]
    assert [field.type for field in out.schema if field.name in WRITES.names] == WRITES.types
    assert [field for field in out.schema if field.name in OUTCOME.names] == list(OUTCOME)
    return out.to_pylist()


def row(key: str, **columns: Any) -> dict[str, Any]:
    return {"id": key, "a_uri": "/in/a.jpg", **columns}


def test_only_what_was_measured_is_said() -> None:
    facts = {
        "expression": "happy",
        "expression_p": 0.9,
        "yaw": 30.0,
        "pitch": -25.0,
        "face_share": 0.4,
        "eyes_open": 0.05,
    }
    text = person(facts, "x", 0.6)
    assert re.search("happy|smile", text) and "close-up" in text
    assert "head turned to the right of the picture and head lowered" in text and "eyes closed" in text
    assert "mouth" not in text
    bare = person({}, "x", 0.6)
    assert "person" in bare and not re.search("happy|smile|camera|eyes|mouth|head", bare)
    unsure = person({**facts, "expression_p": 0.5}, "x", 0.6)
    assert not re.search("happy|smile", unsure)


@pytest.mark.parametrize(
    ("yaw", "pitch", "said"),
    [
        (0.0, 0.0, "facing the camera"),
        (-15.0, 0.0, "head turned slightly to the left of the picture"),
        (-50.0, 0.0, "head turned far to the left of the picture"),
        (0.0, 18.0, "chin raised"),
        # Portraits at eye level read -5 to -10.
        (0.0, -16.0, "facing the camera"),
        (0.0, -24.0, "head lowered"),
        (None, None, ""),
    ],
)
def test_direction_of_the_head(yaw: float | None, pitch: float | None, said: str) -> None:
    text = person({"yaw": yaw, "pitch": pitch}, "x", 0.6)
    assert text.endswith(f"; {said}." if said else ".") and (said != "" or ";" not in text)


def test_no_guesses_about_people_in_any_wording() -> None:
    moods = ("happy", "surprise", "sad", "anger", "disgust", "fear", "neutral", "something else", None)
    texts = {
        person(
            {"expression": mood, "expression_p": 1.0, "yaw": 20.0, "face_share": share, "mouth_open": 0.9}, f"{k}", 0.5
        )
        for mood in moods
        for share in (0.01, 0.05, 0.2, 0.5, None)
        for k in range(40)
    }
    assert len(texts) > 100
    assert not [text for text in texts if GUESSES.search(text)]
    assert all(text[0].isupper() and text.endswith(".") and "{" not in text for text in texts)


def test_wording_varies_with_the_pair_and_not_with_the_run() -> None:
    rows = [row(f"{k}~{k}", a_expression="happy", a_expression_p=0.9, b_expression=None) for k in range(30)]
    first, second = captioned(rows), captioned(list(reversed(rows)))
    assert len({r["a_caption"] for r in first}) > 3
    assert {r["id"]: r for r in first} == {r["id"]: r for r in second}
    assert {r["caption_by"] for r in first} == {"template"}
    assert {r["status"] for r in first} == {"kept"} and first[0]["a_uri"] == "/in/a.jpg"


def test_background_is_not_made_up() -> None:
    assert background({}) == "Background not described (template caption)."
    assert background({"brightness": 0.1}).startswith("Dark picture; background not described")
    [out] = captioned([row("x", a_brightness=0.8, b_brightness=0.5)])
    assert out["a_background"].startswith("Bright") and out["b_background"].startswith("Picture of medium brightness")


def test_captions_that_came_with_the_images() -> None:
    given = [
        row("1", a_extra=json.dumps({"caption": "  a red\n coat "}), b_extra=json.dumps({"text": "a hat"})),
        row("2", a_extra=json.dumps({"caption": ""}), b_extra=json.dumps({"text": "a hat"})),
        row("3", a_extra="not json", b_extra=None),
        row("4", a_extra="[1]", b_extra=json.dumps({"caption": 3})),
    ]
    out = captioned(given, by="column")
    assert (out[0]["a_caption"], out[0]["b_caption"], out[0]["caption_by"]) == ("a red coat", "a hat", "column")
    assert [r["caption_by"] for r in out[1:]] == ["column+template", "template", "template"]
    assert all("person" in r["a_caption"] for r in out[1:])
    assert {r["caption_by"] for r in captioned(given, by="template")} == {"template"}
    assert given_caption(json.dumps({"caption": "x"})) == "x"


def test_a_captioner_is_never_replaced_in_silence() -> None:
    assert "needs role captioner" in Caption(CaptionSettings(), NONE).notes()[0]
    bound = Caption(CaptionSettings(), BOUND)
    assert bound.notes() == [] and bound.models() == [Binding("captioner", "hf:some/model")]
    assert {"a_caption_reason", "b_background_reason"} <= set(bound.writes({}).names)
    assert {"a_media", "b_id"} <= set(bound.reads({}))
    [note] = Caption(CaptionSettings(), UNKNOWN).notes()
    assert "captions come from the template: role captioner is bound to hf:some/model, and format 'vlmm'" in note
    template = Caption(CaptionSettings(by="template"), BOUND)
    assert template.notes() == [] and template.models() == [] and template.writes({}) == WRITES
    with pytest.raises(MissingError, match="format 'vlmm' is unknown"):
        Caption(CaptionSettings(by="captioner"), UNKNOWN).reads({})
    with pytest.raises(MissingError, match="captioner"):
        Caption(CaptionSettings(by="captioner"), NONE).reads({})


def test_the_wording_is_part_of_the_fingerprint_and_what_serves_another_way_of_writing_is_not() -> None:
    def own(env: Env, **settings: Any) -> Any:
        step = Caption(CaptionSettings.model_validate(settings), env)
        return step.config(), [operator.config() for operator in step.operators()]

    assert own(NONE, expression_p=0.2) != own(NONE, expression_p=0.9)
    assert own(NONE) == own(NONE, max_words=50, prompts={"caption": "Who is this?"})
    assert own(BOUND) == own(BOUND, expression_p=0.9, batch=2, gpus=0.5)
    changed = [own(BOUND, **one) for one in ({"max_words": 50}, {"max_tokens": 9}, {"prompts": {"caption": "Say!"}})]
    assert own(BOUND) not in changed
    [operator] = own(BOUND)[1]
    assert set(operator["prompts"]["background"]) == {"version", "text", "source"}


def test_settings_are_checked() -> None:
    for wrong in ({"min_words": 9, "max_words": 3}, {"prompts": {"capton": "x"}}, {"gpus": 1.5}, {"by": "me"}):
        with pytest.raises(ValidationError):
            CaptionSettings.model_validate(wrong)
