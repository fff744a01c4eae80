"""Prompts that a model writes: the question, what counts as a description, and IdGlow with a server, with a tiny
captioner and without one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.errors import RunFailed
from idtool.generate import dynamic_prompt, methods
from idtool.generate.idglow import IdGlow, IdGlowSettings
from idtool.generate.method import Person, Request, Spec
from idtool.generate.requests import Wish
from idtool.models.ask import REASONS, Answer
from tests.generate import idglow_runs
from tests.generate.idglow_runs import PROMPT, Configure, loaded, picture, request
from tests.generate.made import configuration, run, table
from tests.models.chat_server import ChatServer, fails, says
from tests.zoo import Zoo

pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

TOLD = {
    "people": [
        {"picture": 2, "appearance": "white hair", "clothing": "a grey coat", "position": "on the right, seated"},
        {"picture": 1, "appearance": "short dark hair.", "clothing": "a blue suit", "position": "on the left"},
    ],
    "scene": "a kitchen with green tiles",
    "light": "soft daylight from the left",
    "interaction": "they shake hands",
    "layout": "both from the waist up, the table in front",
}


@pytest.fixture
def configure(tiny: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    return Configure(tmp_path, tiny, monkeypatch)


@pytest.fixture
def photos(fixtures: Path) -> tuple[str, str]:
    return idglow_runs.photos(fixtures)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    with ChatServer().running() as running:
        yield running


def remote(server: ChatServer) -> dict[str, Any]:
    options = {"base_url": server.url, "cache": False, "backoff": 0.01, "timeout": 5.0, "retries": 0, "repairs": 1}
    return {"model": "api:tiny-vlm", "options": options}


def asked(*labels: str, prompt: str = PROMPT, box: tuple[float, float, float, float] | None = None) -> Request:
    grey = np.zeros((32, 32, 3), np.uint8)
    people = tuple(Person(label, grey, label=label, box=box) for label in labels)
    return Request("1", prompt, people, 0, 64, 64, IdGlowSettings())


def test_the_question_is_about_these_pictures() -> None:
    import jsonschema

    ask = dynamic_prompt.question(asked("ada", "bob", prompt="  two\nfriends "))
    assert "There are 2 pictures: Picture 1, Picture 2." in ask.prompt
    assert "wished for: two friends\n" in ask.prompt
    assert len(ask.images) == 2 and "ada" not in ask.prompt
    assert ask.schema is not None
    jsonschema.validate(TOLD, ask.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**TOLD, "people": TOLD["people"][:1]}, ask.schema)
    alone = dynamic_prompt.question(asked("ada", box=(0.5, 0.0, 1.0, 0.8)))
    assert "There is one picture: Picture 1." in alone.prompt
    assert "Picture 1: 50% to 100% of the width from the left, 0% to 80% of the height from the top." in alone.prompt
    from idtool.models.openai_wire import is_strict

    assert is_strict(alone.schema), "servers can hold answers to it"


def test_a_description_becomes_a_prompt() -> None:
    one = dynamic_prompt.read(Answer("{}", TOLD), asked("ada", "bob"))
    assert one.reason is None
    assert one.prompt == (
        "two men at a table. "
        "The person of Picture 1: short dark hair, a blue suit, on the left. "
        "The person of Picture 2: white hair, a grey coat, on the right, seated. "
        "Interaction: they shake hands. Scene: a kitchen with green tiles. Light: soft daylight from the left. "
        "Layout: both from the waist up, the table in front. "
        "Keep the face of every person as in their picture; nothing of one person goes over to another."
    )
    assert one.facts() == {"dynamic_prompt": "used", "final_prompt": one.prompt, "description": TOLD}
    assert one.required() is one


def test_what_is_no_description_is_told_and_not_used() -> None:
    twice = {**TOLD, "people": [TOLD["people"][0]] * 2}
    named = {**TOLD, "interaction": "Ada waves"}
    for answer, reason in [
        (Answer("{}", twice), "invalid_pictures"),
        (Answer("{}", named), "names_identity"),
        (Answer(None, reason="refused", detail="no faces, please"), "refused"),
        (Answer("x", reason="invalid", detail="it holds no JSON"), "invalid"),
    ]:
        one = dynamic_prompt.read(answer, asked("ada", "bob"))
        assert (one.prompt, one.reason) == (PROMPT, reason)
        assert one.facts()["dynamic_prompt"] == reason and one.facts()["dynamic_prompt_detail"]
        with pytest.raises(Rejected) as rejected:
            one.required()
        assert rejected.value.reason == f"dynamic_prompt.{reason}"
    assert dynamic_prompt.read(Answer("{}", named), asked("ada", "bob", prompt="Ada and a friend")).reason is None
    down = dynamic_prompt.read(Answer(None, reason="unavailable"), asked("ada", "bob"))
    with pytest.raises(RuntimeError, match="unavailable"):
        down.required()


@pytest.mark.offline_weights
def test_a_server_writes_the_prompt(
    configure: Configure, server: ChatServer, photos: tuple[str, str], tmp_path: Path
) -> None:
    config = configure(remote(server), dynamic_prompt="require")
    server.script(says(json.dumps(TOLD)))
    wish = Wish(PROMPT, photos, ("obama", "biden"))
    run("mine", [wish], tmp_path / "run", config=config, profile="mine")
    [row] = table(tmp_path / "run")
    facts = json.loads(row["facts"])
    assert facts["dynamic_prompt"] == "used"
    assert facts["final_prompt"].startswith("two men at a table. The person of Picture 1: short dark hair, a blue suit")
    assert facts["description"] == TOLD
    assert row["prompt"] == PROMPT
    assert len(server.requests) == 1 and len(server.requests[0].images) == 2
    assert json.loads(row["preprocessing"])["captioner"]["model"] == "api:tiny-vlm"
    run("mine", [wish], tmp_path / "off", config=configure(), profile="mine")
    assert table(tmp_path / "off")[0]["media"] != row["media"], "another prompt, another image"
    run("mine", [Wish(facts["final_prompt"], photos)], tmp_path / "same", config=configure(), profile="mine")
    assert np.array_equal(picture(tmp_path / "same", table(tmp_path / "same")[0]), picture(tmp_path / "run", row))


@pytest.mark.offline_weights
def test_refusals_are_rejected_or_told_as_asked_for(
    configure: Configure, server: ChatServer, photos: tuple[str, str], tmp_path: Path
) -> None:
    def reply(request: Any) -> Any:
        if "refuse" in request.prompt:
            return says("I'm sorry, but I can't describe people.")
        return fails(500) if "break" in request.prompt else says("no JSON at all")

    wishes = [Wish("refuse this", photos), Wish("break this", photos), Wish("say nonsense", photos)]
    server.script(says(json.dumps(TOLD)), reply)
    for mode in ("require", "prefer"):
        config = configure(remote(server), dynamic_prompt=mode)
        first = [Wish(f"{mode} first", photos)]  # so that the server is known to be there
        server.script(says(json.dumps(TOLD)), reply)
        run("mine", first, tmp_path / f"{mode} first", config=config, profile="mine")
        with pytest.raises(RunFailed) if mode == "require" else contextlib.nullcontext():
            run("mine", wishes, tmp_path / mode, config=config, profile="mine", max_error_rate=1.0)
    required = {row["prompt"]: (row["status"], row["reason"]) for row in table(tmp_path / "require")}
    assert required == {
        "refuse this": ("rejected", "dynamic_prompt.refused"),
        "break this": ("error", "RuntimeError"),
        "say nonsense": ("rejected", "dynamic_prompt.invalid"),
    }
    preferred = {row["prompt"]: (row["status"], json.loads(row["facts"])) for row in table(tmp_path / "prefer")}
    assert {status for status, _ in preferred.values()} == {"kept"}
    assert [preferred[wish.prompt][1]["dynamic_prompt"] for wish in wishes] == ["refused", "unavailable", "invalid"]
    assert all(facts["final_prompt"] == prompt for prompt, (_, facts) in preferred.items())


def test_a_tiny_captioner_is_asked_for_real(
    configure: Configure, photos: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights write no JSON: the request's own prompt is taken, and the facts say why."""
    monkeypatch.setattr(dynamic_prompt, "MAX_TOKENS", 8)
    captioner = {"model": "hf:tiny/qwen2-vl", "options": {"batch": 2, "repairs": 0, "cache": False}}
    method = loaded(configure(captioner, dynamic_prompt="prefer"), tmp_path)
    [made] = method.generate([request(method, photos[0], prompt="a man")])
    assert not isinstance(made, Exception)
    assert made.facts["dynamic_prompt"] in REASONS
    assert made.facts["final_prompt"] == "a man"


def test_without_a_captioner(configure: Configure, photos: tuple[str, str], tmp_path: Path) -> None:
    def why(mode: str) -> str | None:
        file = configuration(configure(dynamic_prompt=mode))
        cls, spec = methods.resolve(file, "mine")
        assert cls is IdGlow and isinstance(spec, Spec)
        return cls.why_not(spec, file.profile("mine").bindings())

    assert why("off") is None and why("prefer") is None
    assert "needs role captioner" in str(why("require"))
    method = loaded(configure(dynamic_prompt="prefer"), tmp_path)
    [made] = method.generate([request(method, photos[0])])
    assert not isinstance(made, Exception)
    assert made.facts["dynamic_prompt"] == "not_bound"
