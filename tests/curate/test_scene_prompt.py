"""Step `scene_prompt`: what is said of one person and of several, by a template, and by a captioner that is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from idtool.curate import prompts
from idtool.curate.scene_prompt import PARTS, ScenePrompt, ScenePrompts, ScenePromptSettings, TemplatePrompts
from idtool.curate.scene_words import from_boxes, question
from idtool.curate.vlm_caption import Writer
from idtool.engine.step import Binding, Env
from idtool.errors import MissingError
from idtool.evaluate.measures.base import Item
from idtool.models.ask import Answer, Ask
from idtool.models.caption_checks import Limits, Unavailable

BINDING = Binding("captioner", "toy")
IMAGE = np.zeros((8, 8, 3), np.uint8)
LEFT, RIGHT = [10.0, 20.0, 40.0, 60.0], [100.0, 22.0, 130.0, 62.0]


class Model:
    """Answers in turn, and remembers what it was asked. Stands in for a network whose random weights say nothing."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[Ask]()

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        self.asked += asks
        return [self.answers.pop(0) for _ in asks]


def described(*answers: Answer, limits: tuple[int, int] = (3, 400), **row: Any) -> tuple[dict[str, Any], Model]:
    writer = Writer(BINDING, PARTS, Limits(*limits), 256)
    model = writer.model = Model(*answers)
    (found,) = ScenePrompts(BINDING, writer)([Item(row, IMAGE)])
    assert isinstance(found, dict)
    return found, model


def people(*pictures: int, look: str = "short dark hair") -> Answer:
    """A description by the schema of so many people."""
    each = [{"picture": k, "appearance": look, "clothing": "a coat", "position": "standing"} for k in pictures]
    whole = {"scene": "a park", "light": "soft", "interaction": "they talk", "layout": "side by side"}
    return Answer(text="{}", data={"people": each, **whole})


def test_people_stand_where_their_faces_are_whatever_order_they_were_found_in() -> None:
    text = from_boxes([RIGHT, LEFT], [100, 160], {"brightness": 0.5})
    assert text.startswith("A photo of two people. The person of Picture 1: on the left")
    assert "Picture 2: on the right" in text and "side by side, heads at one height" in text
    assert text == from_boxes([LEFT, RIGHT], [100, 160], {"brightness": 0.5})


def test_who_is_nearer_or_higher_is_said() -> None:
    near = from_boxes([[0, 0, 60, 80], [100, 40, 120, 65]], [100, 160], {})
    assert "Picture 1 is nearest to the camera, that of Picture 2 farthest" in near
    high = from_boxes([[0, 0, 30, 40], [100, 60, 130, 100]], [100, 160], {})
    assert "heads at different heights" in high
    three = from_boxes([LEFT, RIGHT, [60, 20, 90, 60]], [100, 160], {})
    assert "A photo of three people" in three and "Picture 2: in the middle" in three


def test_the_template_says_what_was_measured_and_takes_fixed_words_and_columns() -> None:
    extra = '{"caption": "a man on a bench"}'
    rows = [
        {"id": "one", "people_boxes": [LEFT], "image_size": [100, 160], "extra": extra},
        {"id": "two", "people_boxes": [LEFT, RIGHT], "image_size": [100, 160], "extra": None},
    ]
    batch = pa.Table.from_pylist(rows)

    def prompts_of(by: str, text: str | None = None) -> list[tuple[str, str]]:
        told = TemplatePrompts(by, text, 0.6)(batch).to_pylist()
        return [(row["scene_prompt"], row["scene_prompt_by"]) for row in told]

    single, several = prompts_of("template")
    assert "person" in single[0] and several[0].startswith("A photo of two people")
    assert prompts_of("column")[0] == ("a man on a bench", "column") and prompts_of("column")[1][1] == "template"
    assert prompts_of("fixed", "a portrait") == [("a portrait", "fixed")] * 2


def test_one_person_is_described_in_two_parts_and_several_with_their_layout() -> None:
    found, model = described(Answer(text="A man in a coat."), Answer(text="A park in autumn."))
    assert found["scene_prompt"] == "A man in a coat. A park in autumn." and found["scene_prompt_by"] == "toy"
    assert [ask.prompt for ask in model.asked] == [prompts.PERSON.text, prompts.BACKGROUND.text]
    found, model = described(people(2, 1), people_boxes=[RIGHT, LEFT], image_size=[100, 160])
    assert found["scene_prompt"].startswith("A photo of two people. The person of Picture 1: short dark hair")
    assert "Layout: side by side" in found["scene_prompt"]
    (ask,) = model.asked
    assert "1: face at 16% of the width. 2: face at 72% of the width." in ask.prompt and len(ask.images) == 1
    assert ask.schema is not None and ask.schema["properties"]["people"]["minItems"] == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(None, reason="refused"), "refused"),
        (people(1, 1), "people"),
        (people(1, 2, look="x" * 600), "too_many_words"),
    ],
)
def test_what_is_no_description_of_everybody_is_no_prompt(answer: Answer, reason: str) -> None:
    limits = (3, 20) if reason == "too_many_words" else (3, 400)
    found, _ = described(answer, people_boxes=[LEFT, RIGHT], image_size=[100, 160], limits=limits)
    assert found["scene_prompt"] is None and found["scene_prompt_reason"] == reason


def test_a_name_is_asked_for_once_more_and_then_given_up() -> None:
    row = {"people_boxes": [LEFT, RIGHT], "image_size": [100, 160], "identity_label": "ada lovelace"}
    named = people(1, 2, look="Ada's dark hair")
    found, model = described(named, people(1, 2), **row)
    assert found["scene_prompt"] is not None and prompts.NO_NAMES.text in model.asked[1].prompt
    found, _ = described(named, named, **row)
    assert found["scene_prompt"] is None and found["scene_prompt_reason"] == "names_identity"


def test_a_model_that_cannot_be_asked_is_an_error_of_the_row_and_not_a_missing_prompt() -> None:
    with pytest.raises(Unavailable):
        described(Answer(None, reason="timeout"), people_boxes=[LEFT, RIGHT], image_size=[100, 160])


def test_the_question_numbers_people_from_left_to_right() -> None:
    first, second = (question(IMAGE, boxes, [100, 160]).prompt for boxes in ([LEFT, RIGHT], [RIGHT, LEFT]))
    assert first == second


def test_settings_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValidationError, match="by: fixed"):
        ScenePromptSettings(by="fixed")
    with pytest.raises(ValidationError, match="no prompt can pass"):
        ScenePromptSettings(min_words=9, max_words=3)
    with pytest.raises(MissingError, match="Prompts cannot be written"):
        ScenePrompt(ScenePromptSettings(by="captioner"), Env("toy", {})).reads({})
