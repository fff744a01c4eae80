"""JSON out of free text: what is tolerated, what is a problem, and that no text whatever makes it crash."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.models import structured
from idtool.models.judge import SCORE_SCHEMA

ANSWER = {"score": 3, "reasons": ["same hair", "other coat"]}
PLAIN = json.dumps(ANSWER)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        json.dumps(ANSWER, indent=2),
        f"```json\n{PLAIN}\n```",
        f"```\n{PLAIN}\n```\nI hope this helps!",
        f"Here is my answer: {PLAIN} It follows the rules {{score, reasons}} of [the task].",
        '{"score": 3, "reasons": ["same hair", "other coat",],}',
        "{'score': 3, 'reasons': ['same hair', 'other coat']}",
        f"{PLAIN}\n{PLAIN}",  # said twice, the same both times
        f"[{PLAIN}]",
    ],
)
def test_read_among_other_text(text: str) -> None:
    assert structured.read(text, SCORE_SCHEMA) == (ANSWER, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON"),
        ("I would give it a 3.", "no JSON"),
        (PLAIN[:-1], "no end"),
        (PLAIN[:-10], "no end"),
        ('{"score": 3, "reasons": [', "no end"),
        ("{'score': 3, 'reasons': ['it", "no end"),
        (PLAIN + '\n{"score": 1, "rea', "no end"),
        ('{"score": 3, "score": 4, "reasons": []}', "malformed"),
        ('{"score": NaN, "reasons": []}', "malformed"),
        ('{"score": 1e999, "reasons": []}', "malformed"),
        ('{"score": 3 "reasons": []}', "malformed"),
        ('{"score": 3., "reasons": []}', "malformed"),
        ('{"score": 3, "reasons": ["\\ud800"]}', "malformed"),
        ("{'score': 3, 'reasons': ['it's the same']}", "malformed"),
        ('{"note": oops, "inner": {"score": 3, "reasons": []}}', "malformed"),
        ('{"score": 7, "reasons": []}', "score: 7 is not one of"),
        ('{"score": "3", "reasons": []}', "score: '3' is not"),
        ('{"score": true, "reasons": []}', "score: True is not"),
        ('{"score": 3}', "'reasons' is a required property"),
        ('{"score": 3, "reasons": [], "more": 1}', "more"),
        ('{"score": 3, "reasons": []} or {"score": 2, "reasons": []}', "2 different answers"),
        ('{"a":' * 500, "too deeply"),
        ("x" * (structured.LENGTH + 1), "characters"),
    ],
)
def test_nothing_is_guessed(text: str, problem: str) -> None:
    value, why = structured.read(text, SCORE_SCHEMA)
    assert value is None
    assert why is not None
    assert problem in why


def test_words_numbers_and_breaks_inside_strings() -> None:
    schema = {"type": "array"}
    text = "[True, null, 'x', -0.5, 1e3, \"two\nlines\", \"\\u00e9\\n\", {'a': {}}, []]"
    assert structured.read(text, schema)[0] == [True, None, "x", -0.5, 1000.0, "two\nlines", "é\n", {"a": {}}, []]


def test_a_reference_to_elsewhere_is_a_problem_not_a_request() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "https://nowhere.invalid/schema.json"}}}
    value, problem = structured.read('{"a": 1}', schema)
    assert value is None
    assert problem is not None
    assert "cannot be compared" in problem


def test_no_schema_is_a_clear_error() -> None:
    structured.check_schema(SCORE_SCHEMA)
    with pytest.raises(ValueError, match="no JSON schema"):
        structured.check_schema({"type": "nothing"})


def test_the_instruction_holds_the_schema() -> None:
    assert json.dumps(SCORE_SCHEMA) in structured.instruction(SCORE_SCHEMA)
    assert "no end" in structured.reminder("the JSON has no end")


JSON_LIKE = st.text(alphabet="{}[]\"':,\\ \n0129.-eEtrufalsnN\ud800é", max_size=60)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), JSON_LIKE), st.sampled_from([SCORE_SCHEMA, {}, {"type": "array"}]))
def test_never_crashes(text: str, schema: dict[str, Any]) -> None:
    value, problem = structured.read(text, schema)
    assert (value is None) or problem is None


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False)
    )
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.integers(0, 200))
def test_reads_what_json_writes_and_never_half_of_it(value: dict[str, Any], cut: int) -> None:
    text = json.dumps(value)
    assert structured.read(f"So: {text} .", {"type": "object"}) == (value, None)
    half = text[: min(cut, len(text) - 1)]
    assert structured.read(half, {"type": "object"})[0] is None


@pytest.mark.parametrize("piece", ["{", "[", '{"a":', "['a',", "{'", '"', "[1,", " ", "{} "])
def test_long_nonsense_is_read_fast(piece: str) -> None:
    text = (piece * structured.LENGTH)[: structured.LENGTH]
    start = time.perf_counter()
    structured.read(text, {})
    assert time.perf_counter() - start < 5
