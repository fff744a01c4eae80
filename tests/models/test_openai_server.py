"""Remote models over real HTTP: what is sent, every way in which a server may fail, and that the key stays put."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import IdtoolError, MissingError, UsageError
from idtool.models import http_tries, load, openai_wire
from idtool.models.ask import Answer, Ask
from idtool.models.judge import SCORE_SCHEMA, votes
from idtool.models.openai_server import OpenAiServer
from tests.models.chat_server import ChatServer, Reply, Request, fails, says, sends

KEY = "sk-not-a-real-key-4711"
GOOD = json.dumps({"score": 3, "reasons": ["same face"]})
NUMBERS = itertools.count()
PICTURE = np.kron(np.random.default_rng(0).integers(0, 256, (9, 12, 3)), np.ones((10, 10, 1))).astype(np.uint8)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    with ChatServer().running() as running:
        yield running


def model(server: ChatServer, **options: Any) -> OpenAiServer:
    """A fresh one: `load` keeps one for every setting, so one setting that changes nothing is always another."""
    settings = {"base_url": server.url, "cache": False, "backoff": 0.01, "timeout": 5.0, "retries": 2}
    settings |= {"max_wait": 100.0 + next(NUMBERS), **options}
    found: OpenAiServer = load(Binding("judge", "api:tiny-vlm", options=settings))
    return found


def one(server: ChatServer, ask: Ask | None = None, **options: Any) -> Answer:
    return model(server, **options).ask([ask or Ask("Who?", (PICTURE,))])[0]


def works_then(server: ChatServer, *replies: Reply, **options: Any) -> Answer:
    """The answer to a second question, after a first one went well."""
    remote = model(server, **options)
    assert remote.ask([Ask("first")])[0].ok
    server.script(*replies)
    return remote.ask([Ask("second")])[0]


def test_what_the_server_gets(server: ChatServer) -> None:
    server.script(says(GOOD))
    ask = Ask("Same person?", (PICTURE, PICTURE[:, ::-1]), system="Be strict.", schema=SCORE_SCHEMA, max_tokens=99)
    answer = one(server, ask, image_format="png")
    assert answer == Answer(GOOD, {"score": 3, "reasons": ["same face"]}, tokens_in=100, tokens_out=20)
    request = server.requests[0]
    body = request.body
    assert request.path == "/v1/chat/completions"
    assert body["model"] == "tiny-vlm"
    assert body["temperature"] == 0
    assert body["max_tokens"] == 99
    assert body["messages"][0] == {"role": "system", "content": "Be strict."}
    form = body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"] == SCORE_SCHEMA
    assert form["json_schema"]["strict"] is True
    assert [part["type"] for part in request.parts] == ["image_url", "image_url", "text"]
    assert request.prompt == "Same person?"  # the server holds it to the schema, the prompt need not
    assert request.parts[0]["image_url"]["detail"] == "high"
    np.testing.assert_array_equal(request.images[0], PICTURE)
    np.testing.assert_array_equal(request.images[1], PICTURE[:, ::-1])
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in request.raw


def test_images_are_reduced_and_jpeg_stays_close(server: ChatServer, fixtures: Path) -> None:
    from PIL import Image

    photo = np.asarray(Image.open(sorted((fixtures / "identities").glob("*/*"))[0]).convert("RGB"))
    large = np.concatenate([np.concatenate([photo, photo], 1)] * 2)
    one(server, Ask("Who?", (large, PICTURE)), long_side=200)
    first, second = server.requests[0].images
    assert max(first.shape) == 200
    assert first.shape[0] / first.shape[1] == pytest.approx(large.shape[0] / large.shape[1], rel=0.02)
    assert server.requests[0].parts[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert second.shape == PICTURE.shape
    assert np.abs(second.astype(int) - PICTURE).mean() < 2


def test_other_settings_are_explicit_choices(server: ChatServer) -> None:
    server.script(says(GOOD))
    ask = Ask("Same?", schema=SCORE_SCHEMA)
    assert one(server, ask, structured="json", temperature=None, limit_field="max_completion_tokens").ok
    body = server.requests[0].body
    assert body["response_format"] == {"type": "json_object"}
    assert "temperature" not in body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 512
    assert json.dumps(SCORE_SCHEMA) in server.requests[0].prompt
    assert one(server, ask, structured="prompt", detail=None).ok
    assert "response_format" not in server.requests[1].body
    fingerprints = [json.dumps(model(server, structured=s).fingerprint()) for s in ("schema", "json", "prompt")]
    assert len(set(fingerprints)) == 3
    for name, value in (("structured", "xml"), ("detail", "best"), ("retries", -1), ("timeout", 0), ("repairs", -1)):
        with pytest.raises(UsageError, match=name):
            model(server, **{name: value})


def test_strict_only_for_schemas_that_servers_take_as_strict() -> None:
    assert openai_wire.is_strict(SCORE_SCHEMA)
    assert not openai_wire.is_strict({"type": "object", "properties": {"a": {"type": "string"}}})
    inner = {"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False}
    assert not openai_wire.is_strict({"type": "array", "items": inner})


@pytest.mark.parametrize(
    ("reply", "reason", "detail"),
    [
        (says(None, refusal="I will not identify people."), "refused", "identify"),
        (says("half a", finish="content_filter"), "refused", "content filter"),
        (says("I'm sorry, but I can't help with identifying people."), "refused", "sorry"),
        (fails(400, "Your request was rejected", code="content_policy_violation"), "refused", "HTTP 400"),
        (fails(403, "flagged by moderation"), "refused", "HTTP 403"),
        (says("and then", finish="length"), "cut", "20 tokens"),
        (says(""), "empty", "stop"),
        (says(None), "empty", "stop"),
        (fails(400, "maximum context length is 4096 tokens"), "too_long", "4096"),
        (fails(413, "body too large"), "too_long", "413"),
        (fails(400, "image must be larger than 10 px", code="invalid_image"), "bad_input", "10 px"),
        (fails(422, "no"), "bad_input", "422"),
        (fails(429), "unavailable", "429"),
        (Reply(body=b'{"choices": [' + b" " * (9 << 20)), "unavailable", "8 MB"),
        (Reply(delay=2.0), "timeout", "0.2 s"),
        (Reply(body=b" " * 50, trickle=0.03), "timeout", "0.2 s"),
    ],
)
def test_rows_that_have_no_answer(server: ChatServer, reply: Reply, reason: str, detail: str) -> None:
    """The server is there, so these are about the row, also when it is the first."""
    server.script(reply)
    remote = model(server, timeout=0.2 if reason == "timeout" else 5.0)
    answer = remote.ask([Ask("Who?")])[0]
    assert (answer.reason, answer.ok) == (reason, False)
    assert detail in answer.detail
    assert answer.data is None
    assert remote.usage.totals()["not_answered"] == {reason: 1}
    tries = {"unavailable": 3, "timeout": 3}.get(reason, 1) if "8 MB" not in detail else 1
    assert len(server.requests) == tries


BROKEN = [
    fails(500, "boom"),
    fails(503, "overloaded"),
    Reply(hang_up="before"),
    Reply(body=GOOD.encode(), hang_up="middle"),
    Reply(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"}),
    Reply(body=b"{" * 5),
    Reply(body=b"[" * 100_000),
    sends({}),
    sends([]),
    sends({"choices": []}),
    sends({"choices": [{"finish_reason": "stop"}]}),
    sends({"choices": ["text"]}),
    sends({"error": {"message": "upstream"}}),
    Reply(body=b"no zip", headers={"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize("reply", BROKEN)
def test_a_broken_server_is_tried_again_and_is_null_or_an_error(server: ChatServer, reply: Reply) -> None:
    """Again until it works; null when it worked before; and no run at all when it never did."""
    server.script(reply, says("fine"))
    answer = one(server)
    assert answer.ok
    assert answer.text == "fine"
    assert len(server.requests) == 2
    server.script(says("fine"))
    answer = works_then(server, reply)
    assert answer.reason == "unavailable"
    assert answer.detail
    assert len(server.requests) == 3
    server.script(reply)
    with pytest.raises(MissingError, match="gives no answer") as error:
        one(server)
    assert "base_url" in error.value.hint


def test_missing_fields_that_do_not_matter(server: ChatServer) -> None:
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]
    server.script(sends({"choices": [{"message": {"content": parts}}], "usage": {"prompt_tokens": "many"}}))
    assert one(server) == Answer("two parts")


def test_server_down(server: ChatServer) -> None:
    remote = model(server)
    assert remote.ask([Ask("first")])[0].ok
    server.stop()
    answers = remote.ask([Ask("second"), Ask("third")])
    assert [answer.reason for answer in answers] == ["unavailable"] * 2
    with pytest.raises(MissingError, match="gives no answer"):
        one(server)


@pytest.mark.parametrize("dated", [False, True])
def test_rate_limit_is_waited_for_by_all(server: ChatServer, dated: bool) -> None:
    """One 429 holds back every request until its time has come; a date counts whole seconds."""

    def limited(_: Request) -> Reply:
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if dated else "0.6"
        return fails(429, headers={"Retry_After": value})

    server.script(limited, says("fine"))
    remote = model(server, concurrency=1)
    answers = remote.ask([Ask("a"), Ask("b"), Ask("c")])
    assert all(answer.ok for answer in answers)
    times = [request.at for request in server.requests]
    assert len(times) == 4
    assert times[1] - times[0] >= 0.5
    server.script(fails(429, headers={"Retry_After": "3600"}))
    started = time.monotonic()
    answer = remote.ask([Ask("d")])[0]
    assert answer.reason == "unavailable"
    assert "3600 s" in answer.detail
    assert time.monotonic() - started < 30


def test_a_pause_holds_back_other_threads(server: ChatServer) -> None:
    def reply(request: Request) -> Reply:
        limited = request.prompt == "a" and sum(one.prompt == "a" for one in server.requests) == 1
        return (
            fails(429, headers={"Retry_After": "0.8"}) if limited else Reply(**says("fine").__dict__ | {"delay": 0.3})
        )

    server.script(reply)
    remote = model(server, concurrency=2)
    assert all(answer.ok for answer in remote.ask([Ask(name) for name in "abcdef"]))
    times = {request.prompt: request.at for request in server.requests}
    first = server.requests[0].at
    later = [at - first for name, at in times.items() if name in "cdef"]
    assert min(later) >= 0.7


def test_retry_after_in_words() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert http_tries.retry_after("7") == 7
    assert http_tries.retry_after(format_datetime(now + timedelta(seconds=30), usegmt=True), now) == 30
    assert http_tries.retry_after(format_datetime(now - timedelta(seconds=30), usegmt=True), now) == 0
    for nonsense in (None, "", "soon", "nan", "-3", "1e9"):
        assert http_tries.retry_after(nonsense) is None


def test_requests_run_side_by_side_and_keep_their_places(server: ChatServer) -> None:
    server.script(lambda request: Reply(**says(f"re: {request.prompt}").__dict__ | {"delay": 0.05}))
    remote = model(server, concurrency=4)
    asks = [Ask(f"question {number}") for number in range(12)]
    threads: list[list[Answer]] = []
    workers = [threading.Thread(target=lambda: threads.append(remote.ask(asks))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for answers in threads:
        assert [answer.text for answer in answers] == [f"re: question {number}" for number in range(12)]
    assert 2 <= server.most_at_once <= 4
    assert remote.usage.totals()["asks"] == 24
    assert remote.ask([]) == []


def test_bad_json_is_asked_for_again_with_the_problem(server: ChatServer) -> None:
    server.script(says("Score: 3"), says('{"score": 9, "reasons": []}'), says(GOOD))
    remote = model(server, price_in=2.0, price_out=10.0)
    answer = remote.ask([Ask("Same?", schema=SCORE_SCHEMA)])[0]
    assert answer.data == {"score": 3, "reasons": ["same face"]}
    assert (answer.tokens_in, answer.tokens_out) == (300, 60)  # all tries are paid for
    assert answer.cost == pytest.approx((300 * 2 + 60 * 10) / 1e6)
    prompts = [request.prompt for request in server.requests]
    assert prompts[0] == "Same?"
    assert "it holds no JSON" in prompts[1]
    assert "score: 9 is not one of" in prompts[2]
    assert json.dumps(SCORE_SCHEMA) in prompts[1]
    assert all(request.body["temperature"] == 0 for request in server.requests)
    server.script(says("Score: 3"))
    answer = remote.ask([Ask("Same?", schema=SCORE_SCHEMA)])[0]
    assert (answer.reason, answer.data, answer.text) == ("invalid", None, "Score: 3")
    assert len(server.requests) == 3
    assert remote.usage.totals()["cost"] == pytest.approx(2 * (300 * 2 + 60 * 10) / 1e6)


def test_one_bad_question_takes_none_down(server: ChatServer) -> None:
    bad = Ask("grey", (np.zeros((4, 4), np.uint8),))  # type: ignore[arg-type]
    answers = model(server).ask([Ask("a"), bad, Ask("b", schema={"type": "nothing"}), Ask("c", max_tokens=0), Ask("d")])
    assert [answer.reason for answer in answers] == [None, "bad_input", "bad_input", "bad_input", None]
    assert "HxWx3" in answers[1].detail
    assert len(server.requests) == 2


def secrets(error: IdtoolError) -> str:
    chain, found = [error, error.__cause__, error.__context__], ""
    for link in chain:
        found += f"{link!r} {link} "
    return found + f"{error.message} {error.hint}"


def test_the_key_is_named_never_shown(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script(fails(401, f"Incorrect API key provided: {KEY}"))
    remote = model(server)
    with pytest.raises(MissingError, match="OPENAI_API_KEY is not accepted") as error:
        remote.ask([Ask("Who?")])
    assert KEY not in secrets(error.value)
    assert len(server.requests) == 1
    server.script(fails(400, f"bad image, {KEY}"))
    answer = remote.ask([Ask("Who?")])[0]
    assert KEY not in answer.detail
    assert "***" in answer.detail
    for reply in (fails(500, KEY), fails(404, KEY), fails(400, KEY, param="temperature"), fails(403, KEY)):
        server.script(reply)
        with pytest.raises(IdtoolError) as failed:
            one(server)
        assert KEY not in secrets(failed.value)
    assert KEY not in json.dumps(remote.fingerprint())
    assert server.url not in json.dumps(remote.fingerprint())
    assert KEY not in repr(remote)
    assert KEY not in caplog.text
    monkeypatch.setenv("MY_KEY", "other-key")
    server.script(says("fine"))
    assert one(server, key_env="MY_KEY").ok
    assert server.requests[0].headers["Authorization"] == "Bearer other-key"
    monkeypatch.delenv("OPENAI_API_KEY")
    server.script(says("fine"))
    assert one(server, retries=1).ok  # local servers want none
    assert "Authorization" not in server.requests[0].headers
    server.script(fails(401))
    with pytest.raises(MissingError, match="OPENAI_API_KEY is not set"):
        one(server, retries=1)
    monkeypatch.setenv("BAD_KEY", "two\nlines")
    with pytest.raises(MissingError, match="BAD_KEY holds no key"):
        model(server, key_env="BAD_KEY")


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (fails(404, "The model does not exist"), MissingError, "has no model 'tiny-vlm'"),
        (fails(403, "not allowed"), MissingError, "wants a key"),
        (fails(429, "You exceeded your quota", code="insufficient_quota"), MissingError, "no credit"),
        (fails(402, "pay"), MissingError, "no credit"),
        (sends({}, 302, Location="http://elsewhere.invalid"), MissingError, "elsewhere"),
        (fails(400, "Invalid parameter", param="response_format"), UsageError, "structured"),
        (fails(400, "Unsupported parameter: use max_completion_tokens"), UsageError, "limit_field"),
        (fails(400, "tiny-vlm is not a multimodal model"), UsageError, "not a multimodal"),
    ],
)
def test_what_would_fail_for_every_row_ends_the_run(
    server: ChatServer, reply: Reply, kind: type[IdtoolError], words: str
) -> None:
    server.script(reply)
    with pytest.raises(kind) as error:
        one(server)
    assert words in str(error.value)
    assert len(server.requests) == 1


def test_the_address_of_the_server(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDTOOL_API_BASE", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(MissingError, match="needs the address of its server") as error:
        model(server, base_url=None)
    assert "IDTOOL_API_BASE" in error.value.hint
    for address in ("localhost:80", "ftp://host/v1", "http://user:secret@host/v1", "https://host/v1?key=secret"):
        with pytest.raises(UsageError, match="no plain address") as refused:
            model(server, base_url=address)
        assert "secret" not in str(refused.value)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("IDTOOL_API_BASE", f"{server.url}/chat/completions/")
    assert one(server, base_url=None, retries=0).ok
    with pytest.raises(UsageError, match="has no option"):
        model(server, batch=3)


def test_an_error_ends_the_waiting_of_the_others(server: ChatServer) -> None:
    """The others would wait a minute for another try."""
    server.script(lambda request: fails(401) if request.prompt == "b" else fails(429, headers={"Retry_After": "60"}))
    remote = model(server, concurrency=2)
    started = time.monotonic()
    with pytest.raises(MissingError, match="wants a key"):
        remote.ask([Ask("b"), Ask("a"), Ask("a")])
    remote._pool.shutdown(wait=True)
    assert time.monotonic() - started < 30


def test_answers_are_cached_and_cost_nothing_again(server: ChatServer) -> None:
    server.script(lambda request: says(None, refusal="no") if request.prompt == "b" else says(GOOD))
    ask = Ask("a", (PICTURE,), schema=SCORE_SCHEMA)
    first = model(server, cache=True, price_in=1.0, price_out=1.0)
    before = first.ask([ask, Ask("b")])
    again = model(server, cache=True, price_in=1.0, price_out=1.0).ask([ask, Ask("b")])
    assert len(server.requests) == 2
    assert [answer.cached for answer in before + again] == [False, False, True, True]
    assert again[0].data == before[0].data
    assert (again[0].tokens_in, again[0].cost) == (0, 0.0)
    assert again[1].reason == "refused"
    changed = model(server, cache=True, long_side=100)
    assert not changed.ask([ask])[0].cached
    assert first.usage.totals()["not_answered"] == {"refused": 1}


def test_votes_are_several_requests(server: ChatServer) -> None:
    server.script(*(says(json.dumps({"score": score, "reasons": []})) for score in (3, 3, 1)))
    verdict = votes(model(server, cache=True, concurrency=1), Ask("Same?", (PICTURE,)))
    assert verdict.scores == (3, 3, 1)
    assert verdict.score == pytest.approx(7 / 3)
    assert len(server.requests) == 3
